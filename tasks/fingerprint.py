"""What a stage's result depends on: its config, its inputs' digests, and the code that its function reaches."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .workspace import REPOSITORY

CODE_PACKAGE = "llm"


@dataclasses.dataclass(frozen=True)
class Key:
    """The identity of an artifact before it is built."""

    stage: str
    version: int
    config: dict[str, Any]
    """The fields that affect the result, as plain JSON values."""
    inputs: list[dict[str, str]]
    """`stage`, `fingerprint` and `digest` of each input, in order; only stage and digest count."""
    code: dict[str, str]
    """Module name to the hash of its syntax tree."""
    outside: dict[str, str] = dataclasses.field(default_factory=dict)
    """Files outside of the store that the stage reads, by name, each with its state."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits; the name of the artifact's directory."""
        return hash_json([*self.question, self.code])

    @property
    def question(self) -> list[Any]:
        """Everything but the code: what was asked for."""
        inputs = [[item["stage"], item["digest"]] for item in self.inputs]
        return [self.stage, self.version, self.config, inputs, self.outside]


def hash_json(value: Any) -> str:
    """32 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_closure(modules: Iterable[str]) -> dict[str, str]:
    """Hashes of the given modules and of every module of `llm` that they import, directly or not, by module name.

    Modules are compared as syntax trees: comments, docstrings and layout do not count. A file that lies beside a
    module and is named in it as a string (a template, a table) belongs to that module's hash.
    """
    found: dict[str, str] = {}
    waiting = [name for module in modules for name in with_packages(module)]
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if name in found or path is None:
            continue
        source = current_source(name, path)
        found[name] = source.hash_with(path.parent)
        waiting.extend(package for module in source.imports for package in with_packages(module))
    return dict(sorted(found.items()))


def with_packages(module: str) -> Iterator[str]:
    """A module's packages from the outside in, then the module: importing it runs them all."""
    parts = module.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def module_path(module: str) -> Path | None:
    """The source file of a repository module, None for a name that is no module of ours."""
    base = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a module's source says, without docstrings and other bare strings."""

    tree_hash: str
    strings: tuple[str, ...]
    """Its strings that may be names of files, sorted."""
    imports: tuple[str, ...]
    """Names of the modules of `llm` that it imports, anywhere in its code; some may be attributes instead."""

    def hash_with(self, folder: Path) -> str:
        """16 hexadecimal digits over the syntax tree and the files in `folder` that the module names."""
        hasher = hashlib.sha256(self.tree_hash.encode())
        for name in self.strings:
            if (folder / name).is_file():
                hasher.update((folder / name).read_bytes())
        return hasher.hexdigest()[:16]


def current_source(module: str, path: Path) -> Source:
    """The source of a module as it stands in its file now."""
    state = path.stat()
    return read_source(module, path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1000)
def read_source(module: str, path: Path, modified_ns: int, n_bytes: int) -> Source:
    """The source of a module whose file had this time and size."""
    tree = parsed(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not is_bare_string(statement)]  # type: ignore[attr-defined]
    nodes = list(ast.walk(tree))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports = [name for node in nodes for name in imported_names(node, package)]
    return Source(
        hashlib.sha256(ast.unparse(tree).encode()).hexdigest(),
        tuple(sorted({node.value for node in nodes if may_name_a_file(node)})),  # type: ignore[attr-defined]
        tuple(dict.fromkeys(name for name in imports if name.split(".")[0] == CODE_PACKAGE)),
    )


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file.

    CPython up to 3.11 keeps one count of its depth for all threads, so that a parse in another thread can make this
    one fail (SystemError, "recursion depth mismatch", CPython issue 106905): then it is tried again.
    """
    text = path.read_text(encoding="utf-8")
    for _ in range(20):
        with contextlib.suppress(SystemError):
            return ast.parse(text, filename=str(path))
    return ast.parse(text, filename=str(path))


def may_name_a_file(node: ast.AST) -> bool:
    """Whether a syntax node is a string such as `report.css`."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 100):
        return False
    return "." in node.value and node.value.isprintable() and not set(node.value) & {"/", " "}


def is_bare_string(node: ast.AST) -> bool:
    """Whether a statement is only a string: a docstring, or the documentation of a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def imported_names(node: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of everything that a syntax node imports, in a module of `package`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*parts, *([node.module] if node.module else [])])
        yield source
        yield from (f"{source}.{alias.name}" for alias in node.names)
