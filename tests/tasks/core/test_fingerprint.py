"""Fingerprints: comments never count, code that is reached does."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llm.config import Config, identity, setting
from llm.files import HASHED_BYTES
from tasks.core import fingerprint
from tasks.core.fingerprint import Code, Key, code_closure, file_states
from tasks.core.stage import Stage
from tasks.core.workspace import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: int = 1
    device: str = setting("cpu", execution=True)


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner = Inner()
    names: tuple[str, ...] = ("a",)
    n_workers: int = setting(2, execution=True)


FILES = {
    "llm/__init__.py": "",
    "llm/a.py": "from typing import TYPE_CHECKING\n\nfrom .sub.b import g\nfrom .sub.c import h\n\n"
    "if TYPE_CHECKING:\n    from .types import T\n\ndef f():\n    from .sub import d\n    return g(h(d.x))\n",
    "llm/sub/__init__.py": '"""Doc."""\n',
    "llm/sub/b.py": '"""Doc."""\nTEMPLATE = "page.html"\n\ndef g(x):\n    """Doc."""\n    return x + 1  # one\n',
    "llm/sub/c.py": "def h(x):\n    return 2 * x\n\ndef other(x):\n    return x\n",
    "llm/sub/d.py": "x = 1\n",
    "llm/sub/page.html": "<p>",
    "llm/job/__init__.py": "",
    "llm/job/__main__.py": "from ..sub.d import x\n",
    "llm/types.py": "class T: ...\n",
    "llm/unused.py": "x = 1\n",
    "tasks/__init__.py": "",
    "tasks/one.py": "from llm import a\nfrom tasks.machinery import x\n\ndef one(build):\n"
    '    build.process("llm.job")\n',
    "tasks/machinery.py": "import llm.unused\nx = 1\n",
}
"""A small repository: tasks.one uses llm.a and starts llm.job; nobody that counts uses llm.unused and llm.types."""
GOLDEN = "11f054b53636dd522443870a7e583587"
"""The content of tasks.one in it: `python -c "from tests.tasks.core.test_fingerprint import *; print(golden())"`."""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def golden() -> str:
    """Returns what `GOLDEN` should be."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        write(Path(folder), FILES)
        patch.setattr(fingerprint, "REPOSITORY", Path(folder))
        return code_closure(["tasks.one"]).content


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, FILES)
    monkeypatch.setattr(fingerprint, "REPOSITORY", tmp_path)
    return tmp_path


def test_identity_leaves_out_execution_fields_at_every_depth() -> None:
    config = Outer(inner=Inner(size=3, device="cuda"), n_workers=8)
    assert identity(config) == {"inner": {"size": 3}, "names": ["a"]}


def test_closure_follows_imports_and_named_processes_of_llm_only(repository: Path) -> None:
    found = set(code_closure(["tasks.one"]).modules)
    assert found - {"llm", "llm.sub", "llm.job", "tasks"} == {
        *("tasks.one", "llm.a", "llm.sub.b", "llm.sub.c", "llm.sub.d", "llm.job.__main__")
    }


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Other doc."""\nTEMPLATE = "page.html"\n\n\n\ndef g(x):\n    # comment\n    return (x + 1)\n', True),
        ('TEMPLATE = "page.html"\ndef g(x):\n    return x + 2\n', False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(repository: Path, text: str, same: bool) -> None:
    before = code_closure(["tasks.one"])
    (repository / "llm/sub/b.py").write_text(text)
    after = code_closure(["tasks.one"])
    assert (after.content == before.content) is same
    assert after.differences(before) == ([] if same else ["code of llm.sub.b has changed"])


def test_a_template_beside_a_module_counts(repository: Path) -> None:
    before = code_closure(["tasks.one"])
    (repository / "llm/sub/page.html").write_text("<div>")
    assert code_closure(["tasks.one"]).differences(before) == ["code of llm.sub.b has changed"]


def test_the_golden_content_stays() -> None:
    assert golden() == GOLDEN


MOVED = {
    "llm/a.py": None,
    "llm/sub/b.py": None,
    "llm/sub/c.py": None,
    "llm/sub/page.html": None,
    "llm/job/__main__.py": None,
    "tasks/machinery.py": None,
    "llm/common/__init__.py": '"""Doc."""\n',
    "llm/renamed.py": "from typing import TYPE_CHECKING\n\nfrom llm.common.z import h\n\nfrom .deep.er.b import g\n\n"
    "if TYPE_CHECKING:\n    from .types import T\n\ndef f():\n    from .sub import d\n    return g(h(d.x))\n",
    "llm/deep/er/__init__.py": "",
    "llm/deep/er/b.py": FILES["llm/sub/b.py"],
    "llm/deep/er/page.html": "<p>",
    "llm/common/z.py": FILES["llm/sub/c.py"],
    "llm/work/__init__.py": "",
    "llm/work/__main__.py": "from llm.sub.d import x\n",
    "tasks/core/machinery.py": "x = 1\n",
    "tasks/one.py": "from llm import renamed as a\n\nfrom .core.machinery import x\n\ndef one(build):\n"
    '    build.process("llm.work")\n',
}
"""The same repository with modules moved and renamed, and imports sorted anew."""


def move(repository: Path, changes: dict[str, str | None]) -> None:
    write(repository, {name: text for name, text in changes.items() if text is not None})
    for name in (name for name, text in changes.items() if text is None):
        (repository / name).unlink()


def test_a_pure_move_changes_no_content(repository: Path) -> None:
    before = code_closure(["tasks.one"])
    move(repository, MOVED)
    after = code_closure(["tasks.one"])
    assert after.content == before.content == GOLDEN
    assert "llm.deep.er.b" in after.modules
    assert after.differences(before) == []


def test_what_changes_with_a_move_is_named(repository: Path) -> None:
    before = code_closure(["tasks.one"])
    move(repository, MOVED | {"llm/common/z.py": "def h(x):\n    return 3 * x\n"})
    assert code_closure(["tasks.one"]).differences(before) == [
        "code of llm.common.z is new",
        "code of llm.sub.c is no longer used",
    ]


def test_the_same_modules_put_together_otherwise_count(repository: Path) -> None:
    before = code_closure(["tasks.one"])
    text = FILES["llm/a.py"]
    (repository / "llm/a.py").write_text(text.replace("import h", "import other as h"))
    assert code_closure(["tasks.one"]).differences(before) == ["code of llm.a has changed"]
    write(repository, {"llm/sub/e.py": FILES["llm/sub/b.py"].replace("+ 1", "+ 5"), "llm/a.py": text})
    write(repository, {"llm/sub/c.py": FILES["llm/sub/c.py"] + "from .e import g\n"})
    both = code_closure(["tasks.one"])
    (repository / "llm/a.py").write_text(text.replace(".sub.b import g", ".sub.e import g"))
    (repository / "llm/sub/c.py").write_text(FILES["llm/sub/c.py"] + "from .b import g\n")
    swapped = code_closure(["tasks.one"])
    assert swapped.modules == both.modules
    assert swapped.content != both.content
    assert swapped.differences(both) == ["modules import others than before"]


def test_modules_in_a_circle_have_a_content_too(repository: Path) -> None:
    (repository / "llm/sub/d.py").write_text("x = 1\n\ndef later():\n    from .. import a\n    return a\n")
    before = code_closure(["tasks.one"])
    assert code_closure(["tasks.one"]) == before
    (repository / "llm/sub/c.py").write_text("def h(x):\n    return 3 * x\n")
    assert code_closure(["tasks.one"]).differences(before) == ["code of llm.sub.c has changed"]


def test_code_in_a_package_counts_for_what_is_in_it(repository: Path) -> None:
    before = code_closure(["tasks.one"])
    (repository / "llm/sub/__init__.py").write_text("import os\nos.environ['X'] = '1'\n")
    after = code_closure(["tasks.one"])
    assert after.content != before.content
    assert after.differences(before) == ["code of llm.sub is new"]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This repository's code, to be edited."""
    for package in ("llm", "tasks"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "REPOSITORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("llm/data/clean/language.py", "CERTAIN = 0.8", "CERTAIN = 0.7", {"clean"}),
        ("llm/train/methods/classify.py", '"n_labels"', '"n_classes"', {"classify"}),
        ("llm/train/methods/reinforce.py", '"n_epochs"', '"epochs"', {"reinforce"}),
        ("llm/data/common/warc_write.py", "import zlib", "import zlib, os", {"crawl", "ingest"}),
        ("llm/evaluate/gate.py", "gate.min_items asks for", "gate.min_items wants", set()),
        ("tasks/core/store.py", "is damaged or", "is broken or", set()),
    ],
)
def test_an_edit_reaches_the_stages_whose_result_it_can_change(
    copy: Path, file: str, old: str, new: str, stages: set[str]
) -> None:
    before = {name: code_closure(made.modules) for name, made in pipeline_stages().items()}
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    after = {name: code_closure(made.modules) for name, made in pipeline_stages().items()}
    assert {name for name in after if after[name].content != before[name].content} == stages
    module = file.removesuffix(".py").replace("/", ".")
    assert all(after[name].differences(before[name]) == [f"code of {module} has changed"] for name in stages)


def test_moving_a_module_of_ours_leaves_every_key(copy: Path) -> None:
    """As a person does it: the file goes into another folder, imports of it follow and are sorted anew."""
    stages = {name: made.modules for name, made in pipeline_stages().items()}
    before = {name: code_closure(modules) for name, modules in stages.items()}
    assert "llm.counts" in before["clean"].modules
    (copy / "llm/deep").mkdir()
    (copy / "llm/deep/__init__.py").write_text("")
    (copy / "llm/counts.py").rename(copy / "llm/deep/numbers.py")
    n_changed = 0
    for path in sorted(copy.rglob("*.py")):
        depth = len(path.relative_to(copy / "llm").parts) if path.is_relative_to(copy / "llm") else 0
        text = path.read_text().replace("from llm.counts import", "from llm.deep.numbers import")
        if depth:
            text = text.replace(f"from {'.' * depth}counts import", "from llm.deep.numbers import")
        n_changed += text != path.read_text()
        path.write_text(text)
    assert n_changed > 20
    after = {name: code_closure(modules) for name, modules in stages.items()}
    assert {name: code.content for name, code in after.items()} == {name: code.content for name, code in before.items()}
    assert "llm.deep.numbers" in after["clean"].modules
    assert "llm.counts" not in after["clean"].modules


def test_fingerprint_changes_with_everything_that_counts() -> None:
    code = Code("c", {"llm.a": "h"})
    key = Key("s", 1, {"x": 1}, [{"stage": "a", "fingerprint": "f", "digest": "d"}], code)
    others = [
        replace(key, stage="t"),
        replace(key, version=2),
        replace(key, config={"x": 2}),
        replace(key, inputs=[{"stage": "a", "fingerprint": "f", "digest": "e"}]),
        replace(key, code=Code("d", {"llm.a": "h"})),
        replace(key, external_files={"a.txt": "1"}),
    ]
    assert len({item.fingerprint for item in [key, *others]}) == 7
    built_otherwise = replace(key, inputs=[{"stage": "a", "fingerprint": "g", "digest": "d"}])
    moved = replace(key, code=Code("c", {"llm.b": "h"}))
    assert built_otherwise.fingerprint == moved.fingerprint == key.fingerprint


def test_a_file_counts_by_its_content_or_if_it_is_large_by_its_time(tmp_path: Path) -> None:
    small, large, absent = tmp_path / "small", tmp_path / "large", tmp_path / "absent"
    small.write_text("text")
    large.write_bytes(bytes(HASHED_BYTES + 1))
    before = file_states([small, large, absent])
    assert before[str(absent)] == "absent"
    for path in (small, large):
        os.utime(path, ns=(1, 1))
    touched = file_states([small, large, absent])
    assert [name for name in before if touched[name] != before[name]] == [str(large)]
    small.write_text("other")
    assert file_states([small]) != {str(small): before[str(small)]}


def pipeline_stages() -> dict[str, Stage]:
    from flows.pipeline import PIPELINE

    return PIPELINE


def test_every_stage_reaches_the_code_that_it_runs() -> None:
    closures = {name: set(code_closure(made.modules).modules) for name, made in pipeline_stages().items()}
    assert "llm.data.web.frontier" in closures["crawl"]
    assert "llm.data.clean.extract" in closures["clean"]
    assert {"llm.train.loop", "llm.model.gpt", "llm.train.__main__"} <= closures["pretrain"]
    assert "llm.data.web.crawl" not in closures["pretrain"]
    assert (
        not {"llm.train.methods.classify", "llm.train.methods.finetune", "llm.train.methods.reinforce"}
        & closures["pretrain"]
    )


IMPORTED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*[name for name, module in sys.modules.items() if name.split(".")[0] == "llm" and module.__file__])
"""


@pytest.mark.parametrize("stage", ["crawl", "clean", "evaluate"])
def test_nothing_that_a_stage_loads_hides_from_its_key(stage: str) -> None:
    """What a process of a stage imports at its start; those that train are run in test_loaded_code.py."""
    code = code_closure(pipeline_stages()[stage].modules)
    own = [name for name in code.modules if name.startswith("llm.")]
    command = [sys.executable, "-c", IMPORTED, *own]
    loaded = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    empty = {name for name in loaded if not code_of(name)}
    assert set(loaded) - empty <= set(own)


def code_of(module: str) -> str:
    """Returns what a module holds besides its docstring."""
    path = fingerprint.module_path(module)
    assert path
    return ast.unparse(ast.parse(path.read_text()).body[1:])
