"""A credential is read where it is used, and no message repeats it."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import pytest

from llm.config import identity
from llm.data.common.credential import PUBLIC, CredentialConfig, hub_errors, opened
from llm.data.instruct.config import InstructSource
from llm.data.sources.config import SourceConfig

CANARY = "c4n4ryS3cr3t"
COMMIT = "a" * 40


def test_what_the_variable_holds_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", f" me:{CANARY}\n")
    assert opened(None) is PUBLIC
    assert opened(CredentialConfig(env="KEY")).headers == {"Authorization": f"Bearer me:{CANARY}"}
    assert opened(CredentialConfig(env="KEY", kind="header", header="X-Key")).headers == {"X-Key": f"me:{CANARY}"}
    basic = opened(CredentialConfig(env="KEY", kind="basic"))
    encoded = base64.b64encode(f"me:{CANARY}".encode()).decode()
    assert basic.headers == {"Authorization": f"Basic {encoded}"}
    assert basic.redacted(f"{encoded} me:{CANARY} {CANARY}") == "[hidden] [hidden] [hidden]"
    assert CANARY not in repr(basic)


def test_signed_addresses_stand_in_for_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = [f"https://h.example/{name}?part=1&X-Amz-Signature={CANARY}{name}" for name in "ab"]
    monkeypatch.setenv("KEY", "\n".join(signed))
    access = opened(CredentialConfig(env="KEY", kind="signed"))
    assert access.url("https://h.example/b?part=1") == signed[1]
    with pytest.raises(ValueError, match=r"KEY holds no signed address of https://h\.example/c; add one"):
        access.url("https://h.example/c")
    assert CANARY not in access.redacted(f"failed: {signed[0]} (url: /{signed[0].partition('/a')[2]})") + repr(access)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, "bearer", "KEY, which is not set"),
        ("  ", "bearer", "KEY, which is not set"),
        (f"{CANARY}\nX: 1", "bearer", "KEY holds line breaks"),
        (f"{CANARY}é", "bearer", "KEY holds line breaks or letters beyond ASCII"),
        (CANARY, "basic", "KEY is not of the form user:password"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None, kind: Any, message: str
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("KEY", value)
    with pytest.raises(ValueError, match=message) as caught:
        opened(CredentialConfig(env="KEY", kind=kind))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"env": CANARY}, {"env": "hf_" + CANARY * 2}, {"env": "KEY", "kind": "header"}, {"env": "KEY", "header": "X-Key"},
     {"env": "KEY", "kind": "header", "header": "X\r\nY"}],
)  # fmt: skip
def test_a_config_of_it_names_what_is_wrong(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(env|header) ") as caught:
        CredentialConfig(**fields)
    assert CANARY not in str(caught.value)


def test_it_never_enters_an_identity_and_is_refused_where_nothing_needs_it() -> None:
    credential = CredentialConfig(env="KEY")
    source = SourceConfig(name="s", kind="jsonl", paths=("https://h.example/a.jsonl",), credential=credential)
    assert identity(source) == identity(dataclasses.replace(source, credential=None))
    hub = InstructSource(kind="chat", dataset="me/chats", revision=COMMIT, credential=credential)
    assert identity(hub) == identity(dataclasses.replace(hub, credential=None))
    for changed in ({"paths": ("a.jsonl",)}, {"paths": ("s3://b/a.jsonl",)}):
        with pytest.raises(ValueError, match="credential opens http and https addresses"):
            dataclasses.replace(source, **changed)
    with pytest.raises(ValueError, match="credential goes with a dataset of the hub"):
        SourceConfig(name="s", kind="dataset", dataset="json", paths=("https://h.example/a",), credential=credential)
    with pytest.raises(ValueError, match="credential goes with a data set of the hub"):
        InstructSource(kind="chat", path="a.jsonl", credential=credential)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ConnectionError, ConnectionError), (FileNotFoundError, ValueError), (OSError, OSError), (KeyError, OSError)],
)
def test_errors_of_the_hub_hold_no_credential(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], kind: type[Exception]
) -> None:
    monkeypatch.setenv("KEY", CANARY)
    access = opened(CredentialConfig(env="KEY"))
    with (
        pytest.raises(kind, match=r"^dataset: '?401 for https://h/x \[hidden\]") as caught,
        hub_errors("dataset", access),
    ):
        raise error(f"401 for https://h/x?token={CANARY} {CANARY}")
    assert caught.value.__suppress_context__, "a traceback would show it"
