"""Fingerprints: comments never count, code that is reached does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest

from llm.config import Config, identity, setting
from tasks import fingerprint
from tasks.fingerprint import Key, code_closure


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: int = 1
    device: str = setting("cpu", execution=True)


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner = Inner()
    names: tuple[str, ...] = ("a",)
    n_workers: int = setting(2, execution=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository: tasks.one uses llm.a, which imports llm.sub.b inside a function; llm.c is used by nobody."""
    files = {
        "llm/__init__.py": "",
        "llm/a.py": "def f():\n    from .sub.b import g\n    return g()\n",
        "llm/sub/__init__.py": "",
        "llm/sub/b.py": '"""Doc."""\nTEMPLATE = "page.html"\n\ndef g():\n    """Doc."""\n    return 1  # one\n',
        "llm/sub/page.html": "<p>",
        "llm/c.py": "x = 1\n",
        "tasks/__init__.py": "",
        "tasks/one.py": "from llm import a\nfrom tasks.machinery import x\n",
        "tasks/machinery.py": "import llm.c\nx = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(fingerprint, "REPOSITORY", tmp_path)
    return tmp_path


def test_identity_leaves_out_execution_fields_at_every_depth() -> None:
    config = Outer(inner=Inner(size=3, device="cuda"), n_workers=8)
    assert identity(config) == {"inner": {"size": 3}, "names": ["a"]}


def test_closure_follows_imports_of_llm_only(repository: Path) -> None:
    assert set(code_closure(["tasks.one"])) == {"tasks", "tasks.one", "llm", "llm.a", "llm.sub", "llm.sub.b"}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Other doc."""\nTEMPLATE = "page.html"\n\n\n\ndef g():\n    # comment\n    return (1)\n', True),
        ('TEMPLATE = "page.html"\ndef g():\n    return 2\n', False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(repository: Path, text: str, same: bool) -> None:
    path = repository / "llm/sub/b.py"
    before = code_closure(["llm.sub.b"])["llm.sub.b"]
    path.write_text(text)
    assert (code_closure(["llm.sub.b"])["llm.sub.b"] == before) is same


def test_a_template_beside_a_module_counts(repository: Path) -> None:
    before = code_closure(["llm.sub.b"])["llm.sub.b"]
    (repository / "llm/sub/page.html").write_text("<div>")
    assert code_closure(["llm.sub.b"])["llm.sub.b"] != before


def test_fingerprint_changes_with_everything_that_counts() -> None:
    key = Key("s", 1, {"x": 1}, [{"stage": "a", "fingerprint": "f", "digest": "d"}], {"llm.a": "h"})
    others = [
        replace(key, stage="t"),
        replace(key, version=2),
        replace(key, config={"x": 2}),
        replace(key, inputs=[{"stage": "a", "fingerprint": "f", "digest": "e"}]),
        replace(key, code={"llm.a": "i"}),
    ]
    assert len({item.fingerprint for item in [key, *others]}) == 6
    built_otherwise = replace(key, inputs=[{"stage": "a", "fingerprint": "g", "digest": "d"}])
    assert built_otherwise.fingerprint == key.fingerprint


def test_every_stage_reaches_the_code_that_it_runs() -> None:
    from flows.pipeline import StageName
    from tasks.scaling import scaling
    from tasks.stage import STAGES

    closures = {name: code_closure(found.modules) for name, found in STAGES.items()}
    assert set(closures) == {*get_args(StageName), scaling.name}
    assert "llm.data.web.frontier" in closures["crawl"]
    assert "llm.data.extract" in closures["clean"]
    assert {"llm.train.loop", "llm.model.gpt", "llm.train.__main__"} <= set(closures["pretrain"])
    assert "llm.data.web.crawl" not in closures["pretrain"]
