"""Addresses and texts without their credentials: what may stand in a config, a label, an id, a log or a message.

A credential comes from the environment, by the name of its variable (`llm/data/common/credential.py`). Whatever is
written down passes through here, so that neither a signature nor a password is ever part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

CREDENTIAL_PARAMETERS = frozenset(
    """
    token access_token auth_token id_token refresh_token private_token api_token oauth_token
    key api_key api-key apikey subscription-key secret client_secret app_secret password passwd pwd
    auth authorization jwt sig signature awsaccesskeyid googleaccessid key-pair-id hdnts __gda__
    """.split()  # noqa: SIM905 - a list of words
)
"""Parameters of a query that are a credential, in lower case."""
SIGNED_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-obs-")
"""Beginnings of the parameters of signed addresses of S3 and those like it; date and lifetime count as well, for they
differ from one signature to the next."""
BESIDE_A_SIGNATURE = frozenset(
    """
    expires policy
    se st sp sv sr spr sip ss srt skoid sktid skt ske sks skv
    """.split()  # noqa: SIM905 - a list of words
)
"""Parameters that belong to a signature (those of two letters to Azure's), and are common words where there is none."""
SIGNATURES = frozenset(("sig", "signature", "awsaccesskeyid", "googleaccessid", "key-pair-id"))

_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|sk-[A-Za-z0-9_-]{20,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
"""Tokens known by their form: Hugging Face, GitHub, GitLab, Slack, OpenAI and its like, AWS, JSON Web Tokens."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\]+")
_HIDDEN = "[hidden]"


def public_url(url: str) -> str:
    """Returns an address without user name, password, and the parameters of its query that are a credential.

    Two signatures of one address give one form; an address without credentials stays as it is.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    place, mark, fragment = rest[end:].partition("#")
    path, question, query = place.partition("?")
    return f"{scheme}://{rest[:end].rpartition('@')[2]}{path}{_public(question, query)}{_public(mark, fragment)}"


def _public(mark: str, query: str) -> str:
    """Returns a query or a fragment behind its mark, without credentials; "" where nothing else is in it."""
    parts = re.split(r"([&;])", query)
    names = [unquote_plus(part.partition("=")[0]).lower() if "=" in part else "" for part in parts[::2]]
    is_signed = bool(SIGNATURES.intersection(names))
    kept = [
        part + joint
        for name, part, joint in zip(names, parts[::2], [*parts[1::2], ""], strict=True)
        if not (
            name in CREDENTIAL_PARAMETERS
            or name.startswith(SIGNED_PREFIXES)
            or (is_signed and name in BESIDE_A_SIGNATURE)
        )
    ]
    if len(kept) == len(names):
        return mark + query
    return mark + "".join(kept).rstrip("&;") if kept else ""


def credential_in(text: str) -> str | None:
    """Returns, in words that do not repeat it, which credential stands in a text; None for a text without one."""
    for url in _URL.findall(text):
        if public_url(url) != url:
            host = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
            return f"an address with a {'user name or password' if '@' in host else 'token or signature'}"
    return "a token" if _TOKEN.search(text) else None


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Returns a text for people or a log: addresses in it in their public form, tokens and `secrets` hidden."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _TOKEN.sub(_HIDDEN, _URL.sub(lambda found: public_url(found[0]), text))
