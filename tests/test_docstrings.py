"""Docstrings of functions begin with a verb: "Returns ...", "Reads ..."; those of commands in the imperative."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from benchmarks import house

PLURAL_NOUNS = {
    *("Bits", "Bytes", "Characters", "Classes", "Columns", "Configs", "Documents", "Exponents", "Fields", "Figures"),
    *("Files", "Hosts", "Ids", "Items", "Keys", "Labels", "Lines", "Losses", "Messages", "Metrics", "Middles"),
    *("Models", "Modules", "Neighbours", "Numbers", "Pages", "Pairs", "Parameters", "Paths", "Pieces", "Positions"),
    *("Powers", "Prompts", "Questions", "Rewards", "Rows", "Seconds", "Sentences", "Sequences", "Settings", "Steps"),
    *("Texts", "Tokens", "Trees", "Values", "Weights", "Words"),
}
"""Nouns that end as verbs do; of those that are verbs as well (Names, Samples, Shards) the reader is the judge."""
NO_VERBS = {"Across", "Always", "As", "Bias", "Class", "FLOPs", "Is", "Loss", "Pass", "Thus", "Was"}


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions and methods of a module or class, not those in functions, each with its dotted name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If):
            yield from defined([*node.body, *node.orelse], prefix)


def fault(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """What is wrong with a function's docstring; None where it is as it should be, or need not be there."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any("property" in decorator or "overload" in decorator for decorator in decorators):
        return None  # a property is a noun
    text = ast.get_docstring(node)
    if text is None:
        is_private = any(part.startswith("_") for part in name.split("."))
        is_stub = [ast.unparse(statement) for statement in node.body] == ["..."]
        return None if is_private or is_stub else "has no docstring"
    word = text.split()[0].rstrip(".,:;")
    ends_in_s = word.endswith("s") and word not in PLURAL_NOUNS | NO_VERBS
    is_command = any(decorator.startswith("app.command") for decorator in decorators)
    is_verb = word.isalpha() and word == word.capitalize() and ends_in_s != is_command
    return None if is_verb else f"begins with {word!r}, not with a verb"


def faults(source: str) -> list[str]:
    """The faults in a module's docstrings, each behind the name of its function."""
    found = [(name, fault(name, node)) for name, node in defined(ast.parse(source).body)]
    return [f"{name} {words}" for name, words in found if words]


@pytest.mark.parametrize("package", house.PACKAGES)
def test_docstrings_of_functions_begin_with_a_verb(package: str) -> None:
    paths = sorted((house.ROOT / package).rglob("*.py"))
    assert paths
    assert [f"{path.relative_to(house.ROOT)}: {line}" for path in paths for line in faults(path.read_text())] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def size():\n    '''Returns the size.'''", []),
        ("def size():\n    '''The size.'''", ["size begins with 'The', not with a verb"]),
        ("def size():\n    '''returns the size.'''", ["size begins with 'returns', not with a verb"]),
        ("def rows():\n    '''Rows of a table.'''", ["rows begins with 'Rows', not with a verb"]),
        ("def speed():\n    '''FLOPs per second.'''", ["speed begins with 'FLOPs', not with a verb"]),
        ("def _size():\n    '''Whether.'''", ["_size begins with 'Whether', not with a verb"]),
        ("def size():\n    return 1", ["size has no docstring"]),
        ("class Box:\n    def size(self):\n        return 1", ["Box.size has no docstring"]),
        ("class Box:\n    @property\n    def size(self):\n        '''The size.'''", []),
        ("class Box:\n    def size(self) -> int: ...", []),
        ("class _Box:\n    def size(self):\n        return 1", []),
        ("def size():\n    '''Returns it.'''\n    def inner():\n        return 1", []),
        ("@app.command()\ndef run():\n    '''Run a recipe.'''", []),
        ("@app.command()\ndef run():\n    '''Runs a recipe.'''", ["run begins with 'Runs', not with a verb"]),
    ],
)
def test_faults_are_found(source: str, expected: list[str]) -> None:
    assert faults(source) == expected
