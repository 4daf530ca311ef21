"""What opens a source that is not public: named in the recipe, kept in the environment, read where it is used."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...config import Config
from ...redact import public_url, redacted

MIN_SECRET_CHARS = 5
"""Shorter parts of a signed address (versions, lifetimes) are no secret, and are words of many a message."""


@dataclass(frozen=True, kw_only=True)
class CredentialConfig(Config):
    """A credential by the name of its environment variable. It never changes what is made, only whether it can be."""

    env: str
    """Name of the environment variable that holds it, in capitals, such as CORPUS_TOKEN. It is read where the source
    is, so it must be set where the workers run (for the UI: where `flows ui` was started)."""
    kind: Literal["bearer", "basic", "header", "signed"] = "bearer"
    """What the variable holds. `bearer`: a token, also that of the Hugging Face hub; `basic`: `user:password`;
    `header`: the value of the header below; `signed`: signed addresses, separated by white space, each of which
    replaces the address in the recipe that it is without its signature."""
    header: str | None = None
    """For `header`: its name, such as X-Api-Key."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.env):  # what is not shown: it may be the credential itself
            raise ValueError(
                "env is no name of an environment variable; allowed: capitals, digits and `_`, such as CORPUS_TOKEN. "
                "Put the credential into that variable, not into the recipe"
            )
        if (self.kind == "header") != (self.header is not None):
            raise ValueError(f"header is {self.header!r} and kind {self.kind!r}; the two go together, or not at all")
        if self.header is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", self.header):
            raise ValueError(f"header is {self.header!r}; allowed: letters, digits and dashes, such as X-Api-Key")


@dataclass(frozen=True)
class Access:
    """An opened credential, for as long as it is used: never part of a config, a message or a file."""

    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    signed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The signed form of addresses by their public form."""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def url(self, url: str) -> str:
        """Returns the form of a public address that a request needs; raises ValueError where none was given."""
        if self.signed and public_url(url) not in self.signed:
            raise ValueError(f"{self.name} holds no signed address of {public_url(url)}; add one, or correct paths")
        return self.signed.get(public_url(url), url)

    def redacted(self, text: object) -> str:
        """Returns a text, or what an exception says, without this or any other credential."""
        return redacted(str(text), self.secrets)


PUBLIC = Access()
"""Access to what everybody may read."""


def opened(config: CredentialConfig | None) -> Access:
    """Returns what the environment holds for a credential; raises ValueError, naming the variable, where it is wrong.

    None is `PUBLIC`.
    """
    if config is None:
        return PUBLIC
    value = os.environ.get(config.env, "").strip()
    if not value:
        raise ValueError(
            f"credential.env is {config.env}, which is not set in the environment; set it where the run is started"
        )
    if config.kind == "signed":
        urls = value.split()
        return Access(config.env, signed={public_url(url): url for url in urls}, secrets=(value, *_parts(urls)))
    if not (value.isascii() and value.isprintable()):  # http.client would show it in its error
        raise ValueError(f"{config.env} holds line breaks or letters beyond ASCII; a credential is one line of ASCII")
    if config.kind == "basic":
        if ":" not in value:
            raise ValueError(f"{config.env} is not of the form user:password, which credential.kind basic needs")
        encoded = base64.b64encode(value.encode()).decode()
        password = value.partition(":")[2]
        return Access(config.env, {"Authorization": f"Basic {encoded}"}, secrets=(value, encoded, password))
    if config.kind == "header":
        return Access(config.env, {str(config.header): value}, secrets=(value,))
    return Access(config.env, {"Authorization": f"Bearer {value}"}, value, secrets=(value,))


@contextlib.contextmanager
def hub_errors(what: str, access: Access, remedy: str = "") -> Iterator[None]:
    """Turns what `datasets` lets through (whatever its readers raise) into an error that names the data set.

    ValueError for what the recipe has wrong, ConnectionError when the hub does not answer or refuses, OSError for data
    that cannot be read. The library's error is not chained: what it holds of a request would be shown with it.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else error  # itself it says nothing
        packages = ("aiohttp", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")
        if isinstance(cause, ConnectionError) or type(cause).__module__.startswith(packages):
            hint = access.name or "a variable named as credential.env, if it is private"
            raise ConnectionError(f"{what}: {access.redacted(cause)}. Check the network, and {hint}") from None
        kind = ValueError if isinstance(cause, ValueError | FileNotFoundError) else OSError
        raise kind(f"{what}: {access.redacted(cause)}{remedy}") from None


def _parts(urls: list[str]) -> list[str]:
    """Returns what a message may repeat of signed addresses: user and password, values of the query that are hidden."""
    found = [part for url in urls for part in re.split(r"[/?&;#=@:]+", url) if len(part) > MIN_SECRET_CHARS]
    public = {part for url in urls for part in re.split(r"[/?&;#=@:]+", public_url(url))}
    return [part for part in found if part not in public]
