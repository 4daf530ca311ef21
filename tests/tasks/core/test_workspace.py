"""The environment that every process of ours gets."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from tasks.core.prefect_server import refuse_socks_proxies
from tasks.core.workspace import LOOPBACK, configure, exempt_loopback

PROXIES = [name for scheme in ("http", "https", "all", "no") for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No proxies; what a test's code sets goes with the test."""
    for name in PROXIES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("no_proxy", "", []),
        ("no_proxy", "a.example, .b.example,127.0.0.1", ["a.example", ".b.example", "127.0.0.1"]),
        ("NO_PROXY", "a.example", ["a.example"]),
        ("no_proxy", "*", ["*"]),
    ],
)
def test_loopback_needs_no_proxy_and_the_users_own_names_stay(
    clean: pytest.MonkeyPatch, name: str, given: str, kept: list[str]
) -> None:
    clean.setenv(name, given)
    for _ in range(2):  # a child does it again
        exempt_loopback()
    names = os.environ["no_proxy"].split(",")
    assert names[: len(kept)] == kept
    assert sorted(names) == sorted({*kept, *(() if given == "*" else LOOPBACK)})
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    assert all(urllib.request.proxy_bypass(host) for host in ("127.0.0.1:8000", "localhost:5000"))
    assert bool(urllib.request.proxy_bypass("c.example")) == (given == "*")


@pytest.mark.parametrize("name", ["all_proxy", "HTTPS_PROXY"])
def test_a_socks_proxy_that_httpx_cannot_use_is_refused_by_name(clean: pytest.MonkeyPatch, name: str) -> None:
    clean.setenv(name, "http://user:secret@proxy.example")
    refuse_socks_proxies()
    clean.setenv(name, "socks5://user:secret@proxy.example")
    with pytest.raises(ValueError, match=f"unset {name.lower()} and {name.upper()} or name an HTTP proxy") as raised:
        refuse_socks_proxies()
    assert "secret" not in str(raised.value)


def test_a_workspace_whose_databases_would_lie_outside_of_it_is_refused(
    clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean.setenv("SOURDOUGH_WORKSPACE", str(tmp_path / "a?b"))
    with pytest.raises(ValueError, match=r"question mark in its path.*set SOURDOUGH_WORKSPACE to another"):
        configure()
    assert list(tmp_path.iterdir()) == []
