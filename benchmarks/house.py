"""The structure of a checkout, measured on the syntax trees of llm, tasks and flows: imports, floors, functions, keys.

    python -m benchmarks.house                                      # this checkout
    python -m benchmarks.house /path/to/another                     # another one, which is only read
    python -m benchmarks.house --picture docs/house.svg             # the folders as a picture
    python -m benchmarks.house --tree                               # and as the list in docs/design.md
    python -m benchmarks.house --jumps                              # the short functions named in one place
    python -m benchmarks.house --naming classify ClassifyConfig      # the files that name these: what a new one touches

**Arrows**: a module imports another, at module level, in a function or under TYPE_CHECKING. A **circle** is a set of
modules of which each reaches each. The **rooms** of a folder are the files and folders directly in it. The **floor** of
a room is the length of the longest chain of imports under it, circles taken as one. **Upward** is the number of
arrows that go up in the order of the rooms that makes them fewest.

**Functions** are all `def`s, methods and nested ones included; a function's length is from its `def` to its last line,
docstring included, decorators not. A **jump** is a function of at most 8 lines whose name stands in exactly one place
of the three packages besides its definition and imports: a name or an attribute, compared as a word, so that a function
that shares its name with another counts as named more often than it is (the number is a lower bound). Not counted as
jumps: dunder methods, everything with a decorator (properties, commands, fixtures of frameworks), and methods that
override one of a base class in the three packages (bases from elsewhere are not looked at).

A **key** is what `tasks` hashes for a stage. Of the checkout that this file lies in it is asked of the stages
themselves (`tasks.core.fingerprint.code_closure`). Another checkout is only read, so there it is, as keys were before
they followed content: the stage's file, the modules that its decorator names as strings, and all of llm that these
import; packages whose `__init__.py` holds no code are not counted in either.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm.report.dag import BOX_HEIGHT, BOX_WIDTH, Node, draw

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "llm")
JUMP_LINES, LONG_FILE_LINES = 8, 400

Graph = Mapping[str, set[str]]
"""Names, each with the names that it points to."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name (`llm.data` for `llm/data/__init__.py`), its dotted folder and its syntax tree."""

    name: str
    folder: str
    n_lines: int
    tree: ast.Module

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the syntax tree."""
        return list(ast.walk(self.tree))


def read_modules(root: Path) -> dict[str, Module]:
    """Reads all modules of the three packages of a checkout, by name, sorted."""
    modules = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        folder = ".".join(path.relative_to(root).parent.parts)
        name = folder if path.stem == "__init__" else f"{folder}.{path.stem}"
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, folder, len(text.splitlines()), ast.parse(text, filename=str(path)))
    return modules


def imports(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Returns the modules that each module imports."""
    return {
        module.name: {name for node in module.nodes for name in imported(node, module.folder, modules)} - {module.name}
        for module in modules.values()
    }


def imported(node: ast.AST, folder: str, known: Iterable[str]) -> Iterator[str]:
    """Yields the known modules that an import statement in a module of `folder` names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    if isinstance(node, ast.ImportFrom):
        parts = folder.split(".")
        source = ".".join([*parts[: len(parts) - node.level + 1 if node.level else 0], *filter(None, [node.module])])
        names = [f"{source}.{alias.name}" for alias in node.names]
        yield from (name if name in known else source for name in names if name in known or source in known)


def reachable(graph: Graph, starts: Iterable[str]) -> set[str]:
    """Returns what the starts point to, directly or not; a start is among it only if something points back to it."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Returns the strongly connected components of more than one name, sorted."""
    reach = {name: reachable(graph, [name]) for name in graph}
    mutual = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph}
    return sorted(list(component) for component in mutual if len(component) > 1)


def n_upward(graph: Graph) -> int:
    """Returns the fewest arrows that must go up in whatever order the names stand; 0 without circles."""

    @functools.cache
    def fewest(circle: frozenset[str]) -> int:
        lowest = ((len(graph[name] & (circle - {name})), circle - {name}) for name in circle)
        return min((n_up + fewest(rest) for n_up, rest in lowest), default=0)

    return sum(fewest(frozenset(circle)) for circle in circles(graph))


def condensed(graph: Graph) -> dict[str, set[str]]:
    """Returns the graph with each circle as one name, that of its first member."""
    first = {name: circle[0] for circle in circles(graph) for name in circle}
    made: dict[str, set[str]] = {first.get(name, name): set() for name in graph}
    for name, others in graph.items():
        made[first.get(name, name)] |= {first.get(other, other) for other in others} - {first.get(name, name)}
    return made


def n_floors(graph: Graph) -> int:
    """Returns the number of names in the longest chain of arrows, circles taken as one."""
    below = condensed(graph)

    @functools.cache
    def floor(name: str) -> int:
        return 1 + max(map(floor, below[name]), default=0)

    return max(map(floor, below), default=0)


def grouped(graph: Graph, group: Mapping[str, str]) -> dict[str, set[str]]:
    """Returns the arrows between groups of names; a name without a group is left out."""
    made: dict[str, set[str]] = {name: set() for name in dict.fromkeys(group.values())}
    for name, others in graph.items():
        if name in group:
            made[group[name]] |= {group[other] for other in others if other in group} - {group[name]}
    return made


def rooms(graph: Graph, folder: str) -> dict[str, set[str]]:
    """Returns the arrows between the rooms of a folder."""
    depth = folder.count(".") + 2
    return grouped(graph, {n: ".".join(n.split(".")[:depth]) for n in graph if n.startswith(f"{folder}.")})


def n_arrows(graph: Graph) -> int:
    """Returns the number of arrows."""
    return sum(map(len, graph.values()))


def key_modules(modules: Mapping[str, Module], graph: Graph) -> dict[str, int]:
    """Returns the number of modules in each stage's key, by the stage's name, as the syntax trees have it."""
    sizes = {}
    of_llm = {name: {other for other in others if other.startswith("llm.")} for name, others in graph.items()}
    for module in modules.values():
        for function in functions_of(module):
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "stage":
                    strings = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                    named = [name for name in strings if isinstance(name, str) and name in modules]
                    mains = [f"{name}.__main__" for name in named if f"{name}.__main__" in modules]
                    starts = {module.name, *named, *mains}
                    found = starts | reachable(of_llm, starts)
                    sizes[function.name] = sum(n_statements(modules[name]) > 0 for name in found)
    return dict(sorted(sizes.items()))


def hashed_modules() -> dict[str, int]:
    """Returns the number of modules in each stage's key, by the stage's name, as this checkout hashes them."""
    from tasks.core.fingerprint import code_closure
    from tasks.core.stage import STAGES

    for path in (ROOT / "tasks").glob("*.py"):
        importlib.import_module(f"tasks.{path.stem}")
    ours = {name: stage for name, stage in STAGES.items() if stage.modules[0] == f"tasks.{name}"}
    return {name: len(code_closure(stage.modules).modules) for name, stage in sorted(ours.items())}


def functions_of(module: Module) -> list[Function]:
    """Returns all functions of a module, methods and nested ones included."""
    return [node for node in module.nodes if isinstance(node, Function)]


def n_lines(function: Function) -> int:
    """Returns a function's number of lines."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def n_statements(module: Module) -> int:
    """Returns the number of statements, docstrings and other bare strings not counted."""
    return sum(isinstance(node, ast.stmt) and not is_bare_string(node) for node in module.nodes)


def is_bare_string(node: ast.AST) -> bool:
    """Returns whether a statement is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def jumps(modules: Mapping[str, Module]) -> list[str]:
    """Returns the short functions that are named in one place (as the file's docstring has it), `module:function`."""
    uses = Counter(word_of(node) for module in modules.values() for node in module.nodes)
    overriding = overrides(modules)
    return [
        f"{module.name}:{function.name}"
        for module in modules.values()
        for function in functions_of(module)
        if n_lines(function) <= JUMP_LINES and uses[function.name] == 1
        if not function.decorator_list and not function.name.startswith("__") and function not in overriding
    ]


def word_of(node: ast.AST) -> str:
    """Returns the word that a name or an attribute consists of, empty for other nodes."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def classes_of(modules: Mapping[str, Module]) -> list[ast.ClassDef]:
    """Returns all classes."""
    return [node for module in modules.values() for node in module.nodes if isinstance(node, ast.ClassDef)]


def base_classes(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Returns the words in the bases of each class, by the class's name."""
    return {
        node.name: {word_of(part) for base in node.bases for part in ast.walk(base)} - {""}
        for node in classes_of(modules)
    }


def overrides(modules: Mapping[str, Module]) -> set[ast.AST]:
    """Returns the methods of which a base class in these modules has one of the same name; classes go by their name."""
    classes = classes_of(modules)
    bases = base_classes(modules)
    methods = {node.name: {part.name for part in node.body if isinstance(part, Function)} for node in classes}
    inherited = {name: set().union(*(methods.get(base, set()) for base in reachable(bases, [name]))) for name in bases}
    return {
        part
        for node in classes
        for part in node.body
        if isinstance(part, Function) and part.name in inherited[node.name]
    }


def naming(modules: Mapping[str, Module], words: set[str]) -> dict[str, list[str]]:
    """Returns the modules that name one of the words: as a name, attribute, keyword, field, string or import."""
    found = {}
    for module in modules.values():
        said = {
            getattr(node, key)
            for node in module.nodes
            for key in ("id", "attr", "arg", "name", "value", "module")
            if isinstance(getattr(node, key, None), str)
        }
        parts = said | {part for text in said if re.fullmatch(r"[\w.]+", text) for part in text.split(".")}
        if parts & words:
            found[module.name] = sorted(parts & words)
    return found


def table(head: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    """Returns a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def measured(modules: Mapping[str, Module], keys: Mapping[str, int]) -> str:
    """Returns all tables; `keys` are the numbers of modules in the stages' keys."""
    graph = imports(modules)
    functions = [function for module in modules.values() for function in functions_of(module)]
    lengths = sorted(map(n_lines, functions))
    n_jumps = len(jumps(modules))
    folders = folder_graph(modules, graph)
    long = sum(module.n_lines > LONG_FILE_LINES for module in modules.values())
    whole = [
        ("files", len(modules)),
        (f"files over {LONG_FILE_LINES} lines", f"{long} ({long / len(modules):.1%})"),
        ("statements", sum(map(n_statements, modules.values()))),
        ("functions", len(functions)),
        (
            "length of a function, median and 95th percentile",
            f"{statistics.median(lengths):g} and {percentile_95(lengths)}",
        ),
        (f"functions of <= {JUMP_LINES} lines named in one place", f"{n_jumps} ({n_jumps / len(functions):.1%})"),
        ("folders, floors", f"{len(folders)}, {n_floors(folders)}"),
        ("arrows between folders, upward", f"{n_arrows(folders)}, {n_upward(folders)}"),
        ("arrows between modules", n_arrows(graph)),
        ("circles of modules", listed(circles(graph))),
        ("circles of folders", listed(circles(folders))),
    ]
    within = {folder: rooms(graph, folder) for folder in sorted({module.folder for module in modules.values()})}
    count = Counter(module.folder for module in modules.values())
    by_folder = [
        (
            folder.replace(".", "/"),
            count[folder],
            len(part),
            n_arrows(part),
            n_upward(part),
            n_floors(part),
            listed(circles(part)),
        )
        for folder, part in within.items()
    ]
    return "\n\n".join(
        [
            table(("what", "value"), whole),
            table(("folder", "files", "rooms", "arrows", "upward", "floors", "circles"), by_folder),
            table(("stage", "modules in its key"), keys.items()),
        ]
    )


def listed(found: list[list[str]]) -> str:
    """Returns the number of circles and their members in words."""
    return "; ".join([str(len(found)), *("/".join(name.rpartition(".")[2] for name in circle) for circle in found)])


def percentile_95(lengths: list[int]) -> int:
    """Returns the smallest length that at least 95 of 100 do not exceed; `lengths` are sorted."""
    return lengths[-(-95 * len(lengths) // 100) - 1]


def folder_graph(modules: Mapping[str, Module], graph: Graph) -> dict[str, set[str]]:
    """Returns the arrows between folders, each taken without the folders in it; empty `__init__.py`s make none."""
    return grouped(graph, {name: modules[name].folder for name in graph if n_statements(modules[name])})


def tree(modules: Mapping[str, Module]) -> str:
    """Returns a line a folder: its name and what its `__init__.py` says of it."""
    found = {
        "  " * module.name.count(".") + f"{module.name.rpartition('.')[2]}/": ast.get_docstring(module.tree) or ""
        for package in PACKAGES
        for module in modules.values()
        if module.name == module.folder and module.name.split(".")[0] == package
    }
    width = max(map(len, found)) + 2
    return "\n".join(f"{label:<{width}}{text}".rstrip() for label, text in found.items())


def picture(modules: Mapping[str, Module]) -> str:
    """Returns an SVG of the folders, each on its floor above all that it imports; arrows that others imply are left
    out."""
    graph = folder_graph(modules, imports(modules))
    below = condensed(graph)
    circle_of = {circle[0]: len(circle) for circle in circles(graph)}
    nodes = [Node(n, tuple(sorted(below[n] - reachable(below, below[n]))), ("", "")) for n in sorted(below)]
    drawing = draw(nodes)
    # The drawing runs from left to right, with boxes for two more lines: it is turned, and the boxes made low.
    wide, high = BOX / BOX_HEIGHT, LOW_BOX / BOX_WIDTH
    height = round(drawing.width * high)
    lines = [f'<path d="{turned(d, wide, high, height)}"/>' for d in drawing.arrows]
    for box in drawing.boxes:
        x, y, name = round(box.y * wide), height - round(box.x * high) - LOW_BOX, box.node.name
        folder, _, title = name.rpartition(".")
        lines.append(f'<rect x="{x}" y="{y}" width="{BOX}" height="{LOW_BOX}" rx="7"/>')
        lines.append(f'<text x="{x + BOX // 2}" y="{y + LOW_BOX // 2 + (14 if folder else 6)}">{title}</text>')
        if folder:
            place = folder.replace(".", "/") + "/" + (f" (circle of {circle_of[name]})" if name in circle_of else "")
            lines.append(f'<text class="folder" x="{x + BOX // 2}" y="{y + LOW_BOX // 2 - 5}">{place}</text>')
        if any(name in other.inputs for other in nodes):
            lines.append(f'<path class="head" d="M{x + BOX // 2 - 5} {y - 8}h10l-5 8z"/>')
    return "\n".join([SVG_HEAD.format(width=round(drawing.height * wide), height=height), *lines, "</svg>", ""])


BOX, LOW_BOX = 122, 52
SVG_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="The folders of the code, each above what it imports" \
viewBox="0 0 {width} {height}">
<style>
path{{fill:none;stroke:#8a93a3;stroke-width:1.4}}.head{{fill:#8a93a3;stroke:none}}rect{{fill:#fff;stroke:#c3cad6}}
text{{font-family:system-ui,sans-serif;font-size:14px;font-weight:600;text-anchor:middle;fill:#1d2433}}
.folder{{font-size:12px;font-weight:400;fill:#5b6472}}
</style>
<rect width="100%" height="100%" style="fill:#f7f8fa;stroke:none"/>"""


def turned(path: str, wide: float, high: float, height: int) -> str:
    """Returns the `d` of an SVG path of moves, curves and level lines, turned so that it runs from bottom to top."""
    made = []
    for command, text in re.findall(r"([MCH])([^MCH]*)", path):
        numbers = [float(number) for number in text.split()]
        if command == "H":
            made.append(f"V{height - numbers[0] * high:.0f}")
        else:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            made.append(command + " ".join(f"{y * wide:.0f} {height - x * high:.0f}" for x, y in pairs))
    return "".join(made)


def main() -> None:
    """Prints the tables, or what else is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--picture", type=Path, help="write the folders as SVG into this file")
    parser.add_argument("--tree", action="store_true", help="list the folders with what they hold")
    parser.add_argument("--jumps", action="store_true", help="list the short functions named in one place")
    parser.add_argument("--naming", nargs="+", metavar="WORD", help="list the modules that name one of these words")
    options = parser.parse_args()
    modules = read_modules(options.root)
    if options.picture:
        options.picture.write_text(picture(modules), encoding="utf-8")
    elif options.tree:
        print(tree(modules))
    elif options.jumps:
        print("\n".join(jumps(modules)))
    elif options.naming:
        for name, words in naming(modules, set(options.naming)).items():
            print(f"{name}: {', '.join(words)}")
    else:
        is_this = options.root.resolve() == ROOT
        print(measured(modules, hashed_modules() if is_this else key_modules(modules, imports(modules))))


if __name__ == "__main__":
    main()
