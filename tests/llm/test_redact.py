"""Addresses and texts without credentials: nothing of them stays, and nothing else goes."""

from __future__ import annotations

import pytest

from llm.redact import credential_in, public_url, redacted

CANARY = "c4n4ryS3cr3t"
S3 = "https://b.s3.amazonaws.com/x.jsonl"
HOLDING = {
    f"https://me:{CANARY}@h.example/a": "https://h.example/a",
    f"https://{CANARY}@h.example:8443/a?b=1#c": "https://h.example:8443/a?b=1#c",
    f"ftp://me:{CANARY}@h.example": "ftp://h.example",
    f"https://h.example?token={CANARY}": "https://h.example",
    f"https://h.example/a?b=1&token={CANARY}&c=2": "https://h.example/a?b=1&c=2",
    f"https://h.example/a?b=1;access_token={CANARY}": "https://h.example/a?b=1",
    f"https://h.example/a?%74oken={CANARY}#part": "https://h.example/a#part",
    f"https://h.example/a?API_KEY={CANARY}": "https://h.example/a",
    f"https://h.example/a#access_token={CANARY}": "https://h.example/a",
    f"{S3}?X-Amz-Algorithm=A&X-Amz-Credential={CANARY}&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Signature={CANARY}": S3,
    f"{S3}?versionId=7&X-Amz-Security-Token={CANARY}&x-amz-signature=1": f"{S3}?versionId=7",
    f"{S3}?AWSAccessKeyId={CANARY}&Signature=abc%3D&Expires=1700000000": S3,
    f"https://a.blob.core.windows.net/c/x?sv=2022&se=2026&sr=b&sp=r&sig={CANARY}": "https://a.blob.core.windows.net/c/x",
    f"https://storage.googleapis.com/b/x?X-Goog-Signature={CANARY}&X-Goog-Date=2": "https://storage.googleapis.com/b/x",
    f"https://d.cloudfront.net/x?Policy={CANARY}&Signature=s&Key-Pair-Id=K": "https://d.cloudfront.net/x",
}
PUBLIC = [
    "https://h.example/",
    "https://h.example/a?page=2&sort=se&st=1&sp=",
    "https://h.example/a?expires=never",
    "https://h.example/~me@home/a?mail=me@h.example",
    "https://h.example/a?tokens=7&keyword=key",
    "https://h.example/a?",
    "https://h.example/a?token",
    "data/x.jsonl?token=1",
    "s3://bucket/key/*.parquet",
]


@pytest.mark.parametrize(("url", "public"), HOLDING.items())
def test_a_credential_in_an_address_goes(url: str, public: str) -> None:
    assert public_url(url) == public
    assert public_url(public) == public
    assert redacted(f'cannot open "{url}" now') == f'cannot open "{public}" now'
    assert CANARY not in str(credential_in(url))
    assert str(credential_in(url)).startswith("an address with a ")


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_address_stays_as_it_is(url: str) -> None:
    assert public_url(url) == url
    assert credential_in(url) is None


def test_two_signatures_of_an_address_give_one_form() -> None:
    one, two = (f"{S3}?part=1&X-Amz-Date={n}&X-Amz-Expires={n}&X-Amz-Signature={n}" for n in (1, 2))
    assert public_url(one) == public_url(two) == f"{S3}?part=1"


@pytest.mark.parametrize(
    "token", ["hf_" + "aB3" * 11, "ghp_" + "x1" * 18, "glpat-" + "a" * 20, "AKIA" + "Q7" * 8, "sk-proj-" + "k" * 30]
)
def test_a_token_is_known_by_its_form(token: str) -> None:
    assert redacted(f"401 for Bearer {token}!") == "401 for Bearer [hidden]!"
    assert credential_in(f"see {token}") == "a token"


def test_given_secrets_go_the_longest_first() -> None:
    assert redacted("me:pw and pw", ("pw", "me:pw", "")) == "[hidden] and [hidden]"
