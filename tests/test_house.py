"""The house holds what its texts say: paths, commands, dependencies, imports, the picture; and how it is measured."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import random
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import typer
from grimp import build_graph
from scipy.sparse.csgraph import connected_components

from benchmarks import house
from flows.__main__ import app
from flows.pipeline import PIPELINE
from flows.recipe import load_recipe

ROOT = house.ROOT
TEXTS = [
    "README.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")),
]
FOLDERS = r"(?:llm|tasks|flows|conf|docs|tests|benchmarks|\.ci)"
MODULES = house.read_modules(ROOT)
GRAPH = house.imports(MODULES)
OPTION = re.compile(r"(?<!\S)--?[a-z][\w-]*")

PINNED_FOR_OTHERS = {
    "sqlalchemy": "with newer ones the scheduler of Prefect fails",
}
"""Dependencies that no module imports, each with its reason."""
FILES_OF_OTHERS = {"core_eval.py"}
"""Names of files in other projects that the texts mention: nanochat's."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_in(text: str) -> list[str]:
    """The lines of code blocks (fenced or indented) without their comments, and what stands between backticks."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fences for line in block.splitlines()] + re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line) for line in lines] + re.findall(r"`([^`\n]+)`", text)


def commands_in(text: str, start: str) -> list[list[str]]:
    """The words of each command in the text that begins with `start`, without those."""
    lines = [re.sub(r"^(?:\.venv/bin/|[A-Z_]+=\S+ )*", "", line) for line in code_in(text)]
    lines = [re.sub(r"\s*\[.*\]", "", line) if "=" not in line else line for line in lines]  # [--an-option WORD]
    return [
        shlex.split(line)[len(start.split()) :] for line in lines if re.match(rf"{re.escape(start)}(?![\w-])", line)
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_every_path_in_a_text_exists(name: str) -> None:
    text = text_of(name)
    paths = {path.rstrip(".") for path in re.findall(rf"(?<![\w/.-]){FOLDERS}/[\w./-]*(?!\S*<)", text)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_every_source_file_named_without_a_folder_exists(name: str) -> None:
    names = set(re.findall(r"(?<![\w/.*>-])[\w-]+\.(?:py|yaml|toml|jinja)\b(?!/)", text_of(name)))
    ours = {path.name for folder in ROOT.iterdir() if folder.name != ".venv" for path in folder.rglob("*.*")}
    assert names - ours - {path.name for path in ROOT.iterdir()} - FILES_OF_OTHERS == set()


def test_every_class_and_method_in_the_design_exists() -> None:
    classes = {node.name: node for node in house.classes_of(MODULES)}
    assigned = [
        node.targets[0] for module in MODULES.values() for node in module.tree.body if isinstance(node, ast.Assign)
    ]
    aliases = {target.id for target in assigned if isinstance(target, ast.Name)}
    for words in re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?)[`(]", text_of("docs/design.md")):
        name, _, member = words.partition(".")
        if name not in {"None", "True", "False"}:
            assert name in classes or name in aliases, words
            assert not member or member in members_of(classes[name]), words


def members_of(node: ast.ClassDef) -> list[str]:
    """The methods and fields that a class defines."""
    fields = [
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    return fields + [item.name for item in node.body if isinstance(item, house.Function)]


@pytest.mark.parametrize("name", TEXTS)
def test_every_make_target_in_a_text_exists(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), flags=re.MULTILINE))
    assert {words[0] for words in commands_in(text_of(name), "make") if words} <= targets


@pytest.mark.parametrize("name", TEXTS)
def test_every_module_that_a_text_runs_exists_and_knows_its_options(name: str) -> None:
    for words in commands_in(text_of(name), "python -m"):
        spec = importlib.util.find_spec(words[0])
        assert spec is not None, words
        if words[0].startswith("benchmarks."):
            source = Path(spec.origin or "").read_text()
            options = [word for word in words if OPTION.fullmatch(word)]
            assert [option for option in options if not re.search(rf'"(--)?{option.lstrip("-")}"', source)] == [], words


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_of_flows_in_a_text_exists(name: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands_in(text_of(name), "python -m flows"):
        if words:
            assert words[0] in known, words
            options = {
                option
                for parameter in known[words[0]].params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            assert {word for word in words if OPTION.fullmatch(word)} <= options, words
        if words[:1] == ["run"]:
            load_recipe(words[1], [word for word in words[2:] if re.match(r"[\w.]+=", word)])


@pytest.mark.parametrize("name", TEXTS)
def test_every_pytest_command_in_a_text_selects_something(name: str) -> None:
    for words in commands_in(text_of(name), "pytest"):
        paths = [ROOT / word for word in words if word.startswith("tests")]
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
        expression = words[words.index("-k") + 1] if "-k" in words else ""
        for keyword in set(re.findall(r"\w+", expression)) - {"or", "and", "not"}:
            assert any(keyword in file.read_text() for file in files), (words, keyword)


def declared(requirements: Iterable[str]) -> set[str]:
    """The names of distributions in requirements, in lower case."""
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]


def test_the_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    dependencies = declared(project["dependencies"])
    optional = declared(item for items in project["optional-dependencies"].values() for item in items)
    distributions = importlib.metadata.packages_distributions()
    names = {
        name.split(".")[0] for module in MODULES.values() for node in module.nodes for name in absolute_imports(node)
    }
    imported = {
        name: {distribution.lower().replace("_", "-") for distribution in distributions[name]}
        for name in names - sys.stdlib_module_names - set(house.PACKAGES)
    }
    assert [name for name, ours in imported.items() if not ours & (dependencies | optional)] == []
    assert dependencies - set().union(*imported.values()) == set(PINNED_FOR_OTHERS)


def absolute_imports(node: ast.AST) -> list[str]:
    """The names of modules of other packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert house.circles(GRAPH) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    assert house.circles(house.folder_graph(MODULES, GRAPH)) == []


def test_packages_hold_at_most_a_docstring() -> None:
    packages = [module for module in MODULES.values() if module.name == module.folder]
    assert [module.name for module in packages if len(module.tree.body) > 1 or house.n_statements(module)] == []


def test_the_picture_shows_the_imports_of_today() -> None:
    """Make it again with `python -m benchmarks.house --picture docs/house.svg`."""
    assert text_of("docs/house.svg") == house.picture(MODULES)


def test_the_design_lists_the_folders_of_today() -> None:
    """Make the list again with `python -m benchmarks.house --tree`."""
    assert textwrap.indent(house.tree(MODULES), "    ") in text_of("docs/design.md")


def test_imports_are_those_that_grimp_finds() -> None:
    graph = build_graph(*house.PACKAGES, cache_dir=None)
    assert {name: graph.find_modules_directly_imported_by(name) for name in graph.modules} == GRAPH


def test_keys_are_counted_of_all_stages() -> None:
    sizes = house.hashed_modules()
    assert set(sizes) == {*PIPELINE, "scaling"}
    assert max(sizes["tokenizer"], sizes["shard"]) < sizes["crawl"] < sizes["pretrain"] <= 42


def random_graph(seed: int, n_names: int = 7) -> dict[str, set[str]]:
    """A graph of some names, in which half of the seeds give circles of some size."""
    draw = random.Random(seed)
    names = [chr(ord("a") + i) for i in range(n_names)]
    return {
        name: {other for other in names if other != name and draw.random() < 0.05 + seed % 5 / 20} for name in names
    }


def is_above(graph: dict[str, set[str]], order: Iterable[str]) -> int:
    """The number of arrows from an earlier name of the order to a later one."""
    at = {name: position for position, name in enumerate(order)}
    return sum(at[name] < at[other] for name in graph for other in graph[name])


@pytest.mark.parametrize("seed", range(40))
def test_circles_are_strongly_connected_components(seed: int) -> None:
    graph = random_graph(seed)
    names = sorted(graph)
    matrix = np.array([[other in graph[name] for other in names] for name in names])
    labels = connected_components(matrix, connection="strong")[1]
    components = [
        [name for name, label in zip(names, labels, strict=True) if label == wanted] for wanted in set(labels)
    ]
    assert house.circles(graph) == sorted(component for component in components if len(component) > 1)


@pytest.mark.parametrize("seed", range(10))
def test_upward_arrows_are_the_fewest_of_all_orders(seed: int) -> None:
    graph = random_graph(seed, n_names=6)
    assert house.n_upward(graph) == min(is_above(graph, order) for order in permutations(graph))


LOW = """
def once():
    return 1

def twice():
    return 2

def never():
    return 3
"""
MID = """
from typing import TYPE_CHECKING

from .low import once, twice

if TYPE_CHECKING:
    from .top import Top

class Base:
    def step(self):
        return once() + twice()

    @property
    def size(self):
        return 1

def long(top: "Top"):
    top.a = 1
    top.b = 1
    top.c = 1
    top.d = 1
    top.e = 1
    top.f = 1
    top.g = 1
    top.h = 1
"""
TOP = """
'''A docstring.'''
from llm import mid

class Top(mid.Base):
    def step(self):
        '''Goes.'''
        from .low import twice

        return twice() + self.size + mid.long(self)
"""
TIDY = """
from llm import low

@stage(version=1, process="llm.mid")
def tidy(config):
    step(low)
"""
FILES = {
    "llm/__init__.py": '"""Nothing."""',
    "llm/low.py": LOW,
    "llm/mid.py": MID,
    "llm/top.py": TOP,
    "tasks/__init__.py": "",
    "tasks/tidy.py": TIDY,
    "flows/__init__.py": "",
}


@pytest.fixture
def small_house(tmp_path: Path) -> dict[str, house.Module]:
    """Seven files with a circle under TYPE_CHECKING, an override, and one function that is named once."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return house.read_modules(tmp_path)


def test_a_small_house(small_house: dict[str, house.Module]) -> None:
    graph = house.imports(small_house)
    assert graph["llm.top"] == {"llm.mid", "llm.low"}
    assert house.circles(graph) == [["llm.mid", "llm.top"]]
    assert (house.n_upward(graph), house.n_floors(graph), house.n_floors(house.rooms(graph, "llm"))) == (1, 2, 2)
    # step is named once, but Base.step is the only one of the two that overrides nothing; long has nine lines.
    assert house.jumps(small_house) == ["llm.low:once", "llm.mid:step"]
    assert house.key_modules(small_house, graph) == {"tidy": len({"tasks.tidy", "llm.mid", "llm.low", "llm.top"})}
    assert house.n_statements(small_house["llm.top"]) == 5
    assert house.folder_graph(small_house, graph) == {"llm": set(), "tasks": {"llm"}}
    assert set(house.naming(small_house, {"twice"})) == {"llm.low", "llm.mid", "llm.top"}
