"""The drawing of a graph of stages: boxes in layers from left to right, arrows that go around boxes.

The layered method of Sugiyama et al. (1981) in its simplest form: longest-path layers, a waypoint in every layer that
an arrow passes, positions by the mean of the neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

BOX_WIDTH, BOX_HEIGHT = 122.0, 62.0
_LAYER_GAP, _BOX_GAP, _WAYPOINT_HEIGHT, _MARGIN = 34.0, 18.0, 12.0, 8.0
_GRID = 8.0  # smaller than a gap; on it, lines that are nearly level are level
_N_SWEEPS = 8


@dataclass(frozen=True)
class Node:
    """A stage: its name, the names of the stages that it reads, and the two lines that stand under its name."""

    name: str
    inputs: tuple[str, ...]
    lines: tuple[str, str]


@dataclass(frozen=True)
class Box:
    """Where a node goes; `x` and `y` are its top left corner, in SVG user units."""

    node: Node
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """Boxes, and arrows as the `d` of SVG paths; `width` and `height` are the view box."""

    width: float
    height: float
    boxes: list[Box]
    arrows: list[str]


@dataclass(frozen=True, order=True)
class _Vertex:
    """A box (`name` alone) or a waypoint of the arrows that leave `name`, in a layer counted from 0."""

    layer: int
    name: str
    is_box: bool

    @property
    def height(self) -> float:
        return BOX_HEIGHT if self.is_box else _WAYPOINT_HEIGHT


def draw(nodes: Sequence[Node]) -> Drawing:
    """Returns the drawing of `nodes`. Inputs that are not among the nodes get no arrow; ValueError for a cycle."""
    known = {node.name: node for node in nodes}
    layers = _layers(known)
    routes = {
        (source, node.name): _route(source, node.name, layers)
        for node in nodes
        for source in node.inputs
        if source in known
    }
    vertices = sorted({_Vertex(layer, name, True) for name, layer in layers.items()}.union(*routes.values()))
    middles = _middles(vertices, list(routes.values()))
    top = min((middles[vertex] - vertex.height / 2 for vertex in vertices), default=0.0) - _MARGIN
    bottom = max((middles[vertex] + vertex.height / 2 for vertex in vertices), default=0.0) + _MARGIN
    shifted = {vertex: middle - top for vertex, middle in middles.items()}
    boxes = [
        Box(node, _left(layers[name]), shifted[_Vertex(layers[name], name, True)] - BOX_HEIGHT / 2)
        for name, node in known.items()
    ]
    width = _left(max(layers.values(), default=0)) + BOX_WIDTH + _MARGIN
    return Drawing(width, bottom - top, boxes, [_path(route, shifted) for route in routes.values()])


def _left(layer: int) -> float:
    return _MARGIN + layer * (BOX_WIDTH + _LAYER_GAP)


def _layers(known: dict[str, Node]) -> dict[str, int]:
    """Returns the length of the longest way to each node."""
    layers: dict[str, int] = {}
    waiting = list(known.values())
    while waiting:
        ready = [node for node in waiting if all(name in layers for name in node.inputs if name in known)]
        if not ready:
            raise ValueError(f"stages read each other in a circle: {sorted(node.name for node in waiting)}")
        for node in ready:
            layers[node.name] = max((layers[name] + 1 for name in node.inputs if name in known), default=0)
        waiting = [node for node in waiting if node.name not in layers]
    return {name: layers[name] for name in known}


def _route(source: str, target: str, layers: dict[str, int]) -> list[_Vertex]:
    """Returns the vertices an arrow touches. Arrows from one source share their waypoints."""
    between = range(layers[source] + 1, layers[target])
    waypoints = [_Vertex(layer, source, False) for layer in between]
    return [_Vertex(layers[source], source, True), *waypoints, _Vertex(layers[target], target, True)]


def _middles(vertices: list[_Vertex], routes: list[list[_Vertex]]) -> dict[_Vertex, float]:
    """Returns the vertical middle of every vertex: near its neighbours' mean, no two of a layer overlapping."""
    neighbours: dict[_Vertex, set[_Vertex]] = {vertex: set() for vertex in vertices}
    for route in routes:
        for left, right in itertools.pairwise(route):
            neighbours[left].add(right)
            neighbours[right].add(left)
    middles = dict.fromkeys(vertices, 0.0)
    layers = sorted({vertex.layer for vertex in vertices})
    for sweep in range(_N_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            members = [vertex for vertex in vertices if vertex.layer == layer]
            wanted = {vertex: _mean([middles[other] for other in sorted(neighbours[vertex])]) for vertex in members}
            middles.update(_spread(members, wanted))
    return {vertex: _GRID * round(middle / _GRID) for vertex, middle in middles.items()}


def _spread(members: list[_Vertex], wanted: dict[_Vertex, float]) -> dict[_Vertex, float]:
    """Returns middles in the order of `wanted`, far enough apart, as a whole as near to it as they can be."""
    order = sorted(members, key=lambda vertex: (round(wanted[vertex], 3), not vertex.is_box, vertex.name))
    middles: dict[_Vertex, float] = {}
    edge = -float("inf")
    for vertex in order:
        middles[vertex] = max(wanted[vertex], edge + vertex.height / 2)
        edge = middles[vertex] + vertex.height / 2 + _BOX_GAP
    drift = _mean([middles[vertex] - wanted[vertex] for vertex in order])
    return {vertex: middle - drift for vertex, middle in middles.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _path(route: list[_Vertex], middles: dict[_Vertex, float]) -> str:
    """Returns a curve from the right edge of the first box, through the waypoints, to the left edge of the last box."""
    first, *waypoints, last = route
    x, y = _left(first.layer) + BOX_WIDTH, middles[first]
    parts = [f"M{x:g} {y:g}"]
    for vertex in (*waypoints, last):
        end_x, end_y = _left(vertex.layer), middles[vertex]
        half_way = (x + end_x) / 2
        parts.append(f"C{half_way:g} {y:g} {half_way:g} {end_y:g} {end_x:g} {end_y:g}")
        x, y = end_x, end_y
        if vertex is not last:
            x += BOX_WIDTH
            parts.append(f"H{x:g}")
    return "".join(parts)
