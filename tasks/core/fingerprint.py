"""What a stage's result depends on: its config, its inputs' digests, and the code that its function reaches.

Code counts by what it says, not by where it stands. A module's imports are taken out of its syntax tree and stand, in
the hash, for the content of the modules that they name; so a module that is moved or renamed, with all that imports
it, gives every stage the key that it had.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm.files import changed_files, file_state, hash_json

from .workspace import REPOSITORY

CODE_PACKAGE = "llm"
OUR_PACKAGES = ("llm", "tasks", "flows")


@dataclasses.dataclass(frozen=True)
class Code:
    """The code that a stage reaches."""

    content: str
    """Hash of all of it together, whatever the modules are called."""
    modules: dict[str, str]
    """Module name to the hash of what this module alone says: the words of `explain` come from here."""

    def differences(self, before: Code) -> list[str]:
        """Returns what differs from the code of another time, one line each; nothing when modules were only moved."""
        if self.content == before.content:
            return []
        known, now = set(before.modules.values()), set(self.modules.values())
        lines = [
            f"code of {name} {'has changed' if name in before.modules else 'is new'}"
            for name, own in self.modules.items()
            if own not in known
        ]
        lines += [
            f"code of {name} is no longer used"
            for name, own in before.modules.items()
            if name not in self.modules and own not in now
        ]
        return lines or ["modules import others than before"]


@dataclasses.dataclass(frozen=True)
class Key:
    """The identity of an artifact before it is built."""

    stage: str
    version: int
    config: dict[str, Any]
    """The fields that affect the result, as plain JSON values."""
    inputs: list[dict[str, str]]
    """`stage`, `fingerprint` and `digest` of each input, in order; only stage and digest count."""
    code: Code
    external_files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Files outside of the store that the stage reads, by name, each with its state."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits; the name of the artifact's directory."""
        return hash_json([*self.without_code, self.code.content])

    @property
    def without_code(self) -> list[Any]:
        """Everything but the code: what was asked for."""
        inputs = [[item["stage"], item["digest"]] for item in self.inputs]
        return [self.stage, self.version, self.config, inputs, self.external_files]


def file_states(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the state of each file: the hash of a small one, of a large one its bytes and the time of its last
    change in ns; "absent" where there is none."""
    return {str(path): file_state(path) for path in paths}


@dataclasses.dataclass(frozen=True)
class Origin:
    """The code and the outside files that a build is made with, as they were when its key was taken.

    Whoever makes a part of it (a worker, here or on another machine; a process) first compares them with what it has
    itself: what was made with others must not come under this build's fingerprint.
    """

    modules: tuple[str, ...] = ()
    """Where the code starts; empty: no code is asked for."""
    code: Code = Code("", {})
    external_files: dict[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the code's content and of the outside files, which a part of the build is stored with."""
        return hash_json([self.code.content, self.external_files])

    def files(self) -> dict[str, str]:
        """Returns the states of all files: code by its place in the repository, and outside files.

        Raises ValueError as `require` does.
        """
        code = {str(path.relative_to(REPOSITORY)): file_state(path) for path in code_files(self.code)}
        self.require()
        return {**code, **self.external_files}

    def require(self) -> None:
        """Raises ValueError that names modules or files which are not as they were asked for.

        Files that have kept their sizes and times since the last call in this process are not read again.
        """
        state = [stat_state(path) for path in (*code_files(self.code), *map(Path, self.external_files))]
        if _as_asked.get(self.hash) == state:
            return
        if self.modules:
            here = code_closure(self.modules)
            if here.content != self.code.content:
                raise ValueError(
                    f"its code was edited while it ran, or is another one on {platform.node()} in {REPOSITORY}: "
                    f"{'; '.join(here.differences(self.code))}; nobody can say which code made this; run again"
                )
        changed = changed_files(self.external_files)
        if changed:
            raise ValueError(f"files that it reads were changed while it ran: {', '.join(changed)}; run again")
        _as_asked[self.hash] = state


_as_asked: dict[str, list[tuple[int, ...]]] = {}
"""For origins that this process has found as asked, the state that their files then had."""


def stat_state(path: Path) -> tuple[int, ...]:
    """Returns what changes when a file is written or replaced; nothing where there is none."""
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def code_files(code: Code) -> list[Path]:
    """Returns the files that the code of these modules stands in: theirs, and those beside them that they name."""
    found = []
    for module in code.modules:
        path = module_path(module)
        if path:
            named = [path.parent / name for name in current_source(module, path).strings]
            found += [path, *filter(Path.is_file, named)]
    return sorted(set(found))


def code_closure(modules: Iterable[str]) -> Code:
    """Returns the code of the given modules and of every module of `llm` that they reach, directly or not.

    They reach what they import, at their top or inside a function, and what they name as a string (a process to
    start). Modules are compared as syntax trees: comments, docstrings, layout and what only a type checker imports do
    not count. A file that lies beside a module and is named in it as a string (a template, a table) belongs to it.
    """
    roots = sorted(modules)
    sources: dict[str, tuple[str, list[tuple[str, ...]]]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if name not in sources and path is not None:
            source = current_source(name, path)
            reached = [(*words, *resolved(module, item)) for *words, module, item in source.references]
            own = source.own_hash(path.parent, [words for *words, _ in reached])
            reached += [("package", "", "", package) for package in full_packages(name)]
            sources[name] = own, reached
            waiting += [target for *_, target in reached]
    contents: dict[str, str] = {}
    content = hash_json([content_of(root, sources, contents, ()) for root in roots])
    return Code(content, {name: own for name, (own, _) in sorted(sources.items())})


def content_of(
    module: str,
    sources: dict[str, tuple[str, list[tuple[str, ...]]]],
    contents: dict[str, str],
    importers: tuple[str, ...],
) -> str:
    """Returns the hash of a module and of all that it reaches; of modules in a circle, each enters it once."""
    if module not in sources:
        return ""  # not of llm: the machinery, which makes no result
    own, reached = sources[module]
    if module in importers:
        return own
    if module not in contents:
        through = (*importers, module)
        below = sorted([*words, content_of(target, sources, contents, through)] for *words, target in reached)
        contents[module] = hash_json([own, below])
    return contents[module]


def resolved(source: str, name: str) -> tuple[str, str]:
    """Returns what is taken of a module (nothing: all of it) and the module that `from source import name` reaches."""
    attribute, module = ("", f"{source}.{name}") if module_path(f"{source}.{name}") else (name, source)
    return attribute, module if module.split(".")[0] == CODE_PACKAGE else ""


def full_packages(module: str) -> Iterator[str]:
    """Yields the packages around a module of `llm` whose `__init__` holds code, which its import runs."""
    parts = module.split(".")
    for package in (".".join(parts[:n]) for n in range(1, len(parts))):
        path = module_path(package)
        if parts[0] == CODE_PACKAGE and path and current_source(package, path).tree_hash != EMPTY_TREE:
            yield package


def module_path(module: str) -> Path | None:
    """Returns the source file of a repository module, None for a name that is no module of ours."""
    base = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a module's source says, without its imports of our own modules, docstrings and other bare strings."""

    tree_hash: str
    strings: tuple[str, ...]
    """Its strings that may be names of files, sorted."""
    references: tuple[tuple[str, ...], ...]
    """How it names other modules of ours: in which function or class, under which name, from which module, what."""

    def own_hash(self, folder: Path, names: list[list[str]]) -> str:
        """Returns 16 hexadecimal digits over the syntax tree, the names that are imported, and the files in `folder`
        that it names."""
        hasher = hashlib.sha256(f"{self.tree_hash} {names}".encode())
        for name in self.strings:
            if (folder / name).is_file():
                hasher.update((folder / name).read_bytes())
        return hasher.hexdigest()[:16]


def current_source(module: str, path: Path) -> Source:
    """Returns the source of a module as it stands in its file now."""
    state = path.stat()
    return read_source(module, path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1000)
def read_source(module: str, path: Path, modified_ns: int, n_bytes: int) -> Source:
    """Returns the source of a module whose file had this time and size."""
    reader = SourceReader(module if path.name == "__init__.py" else module.rpartition(".")[0])
    tree = reader.visit(parsed(path))
    strings = {node.value for node in ast.walk(tree) if may_name_a_file(node)}  # type: ignore[attr-defined]
    references = (*sorted(reader.imports), *reader.strings)
    return Source(hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), tuple(sorted(strings)), references)


EMPTY_TREE = hashlib.sha256(b"").hexdigest()
MODULE_NAME = re.compile(rf"{CODE_PACKAGE}(\.\w+)+")


class SourceReader(ast.NodeTransformer):
    """Takes out of a syntax tree what does not count, and the names of our own modules, which it keeps."""

    def __init__(self, package: str) -> None:
        """Takes the package that relative imports start from."""
        self.package = package
        self.scope: tuple[str, ...] = ()
        self.imports: list[tuple[str, ...]] = []
        self.strings: list[tuple[str, ...]] = []

    def visit_scope(self, node: Any) -> ast.AST:
        """Visits what stands in a function or class."""
        self.scope = (*self.scope, node.name)
        self.generic_visit(node)
        self.scope = self.scope[:-1]
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_scope

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Takes out docstrings and the documentation of fields."""
        is_bare_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_bare_string else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        """Takes out what only a type checker sees."""
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        """Takes out imports of our modules."""
        ours = [alias for alias in node.names if alias.name.split(".")[0] in OUR_PACKAGES]
        for alias in ours:
            source, _, name = alias.name.rpartition(".")
            self.imports.append((".".join(self.scope), alias.asname or alias.name, source, name))
        node.names = [alias for alias in node.names if alias not in ours]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        """Takes out imports of our modules."""
        parts = self.package.split(".")
        start = parts[: len(parts) - node.level + 1] if node.level else []
        source = ".".join([*start, *([node.module] if node.module else [])])
        if source.split(".")[0] not in OUR_PACKAGES:
            return node
        names = [(alias.asname or alias.name, source, alias.name) for alias in node.names]
        self.imports += [(".".join(self.scope), *name) for name in names]
        return None

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Takes out the names of modules of `llm` in strings."""
        value = node.value
        if isinstance(value, str) and MODULE_NAME.fullmatch(value) and module_path(value):
            source, _, name = value.rpartition(".")
            self.strings.append(("string", str(len(self.strings)), source, name))
            if module_path(f"{value}.__main__"):
                self.strings.append(("string", str(len(self.strings)), value, "__main__"))
            return ast.copy_location(ast.Constant("module"), node)
        return node


def parsed(path: Path) -> ast.Module:
    """Returns the syntax tree of a file.

    CPython up to 3.11 keeps one count of its depth for all threads, so that a parse in another thread can make this
    one fail (SystemError, "recursion depth mismatch", CPython issue 106905): then it is tried again.
    """
    text = path.read_text(encoding="utf-8")
    for _ in range(20):
        with contextlib.suppress(SystemError):
            return ast.parse(text, filename=str(path))
    return ast.parse(text, filename=str(path))


def may_name_a_file(node: ast.AST) -> bool:
    """Returns whether a syntax node is a string such as `report.css`."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 100):
        return False
    return "." in node.value and node.value.isprintable() and not set(node.value) & {"/", " "}
