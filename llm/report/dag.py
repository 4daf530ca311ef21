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
class _Place:
    """A box (`name` alone) or a waypoint of the arrows that leave `name`, in a layer counted from 0."""

    layer: int
    name: str
    is_box: bool

    @property
    def height(self) -> float:
        return BOX_HEIGHT if self.is_box else _WAYPOINT_HEIGHT


def draw(nodes: Sequence[Node]) -> Drawing:
    """The drawing of `nodes`. Inputs that are not among the nodes get no arrow; ValueError for a cycle."""
    known = {node.name: node for node in nodes}
    layers = _layers(known)
    routes = {
        (source, node.name): _route(source, node.name, layers)
        for node in nodes
        for source in node.inputs
        if source in known
    }
    places = sorted({_Place(layer, name, True) for name, layer in layers.items()}.union(*routes.values()))
    middles = _middles(places, list(routes.values()))
    top = min((middles[place] - place.height / 2 for place in places), default=0.0) - _MARGIN
    bottom = max((middles[place] + place.height / 2 for place in places), default=0.0) + _MARGIN
    shifted = {place: middle - top for place, middle in middles.items()}
    boxes = [
        Box(node, _left(layers[name]), shifted[_Place(layers[name], name, True)] - BOX_HEIGHT / 2)
        for name, node in known.items()
    ]
    width = _left(max(layers.values(), default=0)) + BOX_WIDTH + _MARGIN
    return Drawing(width, bottom - top, boxes, [_path(route, shifted) for route in routes.values()])


def _left(layer: int) -> float:
    return _MARGIN + layer * (BOX_WIDTH + _LAYER_GAP)


def _layers(known: dict[str, Node]) -> dict[str, int]:
    """The length of the longest way to each node."""
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


def _route(source: str, target: str, layers: dict[str, int]) -> list[_Place]:
    """The places an arrow touches. Arrows from one source share their waypoints."""
    between = range(layers[source] + 1, layers[target])
    waypoints = [_Place(layer, source, False) for layer in between]
    return [_Place(layers[source], source, True), *waypoints, _Place(layers[target], target, True)]


def _middles(places: list[_Place], routes: list[list[_Place]]) -> dict[_Place, float]:
    """The vertical middle of every place: near its neighbours' mean, no two of a layer overlapping."""
    neighbours: dict[_Place, set[_Place]] = {place: set() for place in places}
    for route in routes:
        for left, right in itertools.pairwise(route):
            neighbours[left].add(right)
            neighbours[right].add(left)
    middles = dict.fromkeys(places, 0.0)
    layers = sorted({place.layer for place in places})
    for sweep in range(_N_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            members = [place for place in places if place.layer == layer]
            wanted = {place: _mean([middles[other] for other in sorted(neighbours[place])]) for place in members}
            middles.update(_spread(members, wanted))
    return {place: _GRID * round(middle / _GRID) for place, middle in middles.items()}


def _spread(members: list[_Place], wanted: dict[_Place, float]) -> dict[_Place, float]:
    """Middles in the order of `wanted`, far enough apart, as a whole as near to it as they can be."""
    order = sorted(members, key=lambda place: (round(wanted[place], 3), not place.is_box, place.name))
    middles: dict[_Place, float] = {}
    edge = -float("inf")
    for place in order:
        middles[place] = max(wanted[place], edge + place.height / 2)
        edge = middles[place] + place.height / 2 + _BOX_GAP
    drift = _mean([middles[place] - wanted[place] for place in order])
    return {place: middle - drift for place, middle in middles.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _path(route: list[_Place], middles: dict[_Place, float]) -> str:
    """A curve from the right edge of the first box, through the waypoints, to the left edge of the last box."""
    first, *waypoints, last = route
    x, y = _left(first.layer) + BOX_WIDTH, middles[first]
    parts = [f"M{x:g} {y:g}"]
    for place in (*waypoints, last):
        end_x, end_y = _left(place.layer), middles[place]
        bend = (x + end_x) / 2
        parts.append(f"C{bend:g} {y:g} {bend:g} {end_y:g} {end_x:g} {end_y:g}")
        x, y = end_x, end_y
        if place is not last:
            x += BOX_WIDTH
            parts.append(f"H{x:g}")
    return "".join(parts)
