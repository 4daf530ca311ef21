from __future__ import annotations

import itertools
import random
import re

import pytest

from llm.report.dag import BOX_HEIGHT, BOX_WIDTH, Drawing, Node, draw

PIPELINE = {
    "crawl": (),
    "clean": ("crawl",),
    "dedup": ("clean",),
    "tokenizer": ("dedup",),
    "shard": ("dedup", "tokenizer"),
    "pretrain": ("shard", "tokenizer"),
    "instruct": ("crawl", "dedup"),
    "finetune": ("pretrain", "instruct"),
    "evaluate": ("pretrain", "finetune", "dedup", "instruct"),
    "report": ("crawl", "clean", "dedup", "tokenizer", "shard", "pretrain", "instruct", "finetune", "evaluate"),
}


def nodes(graph: dict[str, tuple[str, ...]]) -> list[Node]:
    return [Node(name, inputs, ("1 → 1", "items")) for name, inputs in graph.items()]


def random_graph(seed: int) -> dict[str, tuple[str, ...]]:
    choose = random.Random(seed)
    names = [f"s{index}" for index in range(12)]
    return {name: tuple(choose.sample(names[:i], min(i, choose.randrange(4)))) for i, name in enumerate(names)}


GRAPHS = [PIPELINE, *map(random_graph, range(20))]


def points(path: str) -> list[tuple[float, float]]:
    """Points along a path of M, C and H commands, some 20 to a curve."""
    found: list[tuple[float, float]] = []
    for command, arguments in re.findall(r"([MCH])([^MCH]*)", path):
        numbers = [float(number) for number in arguments.split()]
        if command == "M":
            found.append((numbers[0], numbers[1]))
        elif command == "H":
            x, y = found[-1]
            found += [(x + (numbers[0] - x) * t / 20, y) for t in range(1, 21)]
        else:
            corners = [found[-1], *zip(numbers[::2], numbers[1::2], strict=True)]
            weights = [
                ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3) for t in (k / 20 for k in range(1, 21))
            ]
            found += [
                tuple(sum(w * corner[axis] for w, corner in zip(row, corners, strict=True)) for axis in (0, 1))
                for row in weights
            ]  # type: ignore[misc]
    return found


def boxes(drawing: Drawing) -> dict[str, tuple[float, float]]:
    return {box.node.name: (box.x, box.y) for box in drawing.boxes}


@pytest.mark.parametrize("graph", GRAPHS)
def test_boxes_keep_apart_and_inside(graph):
    drawing = draw(nodes(graph))
    assert [box.node.name for box in drawing.boxes] == list(graph)
    for (x, y), (other_x, other_y) in itertools.combinations(boxes(drawing).values(), 2):
        assert abs(x - other_x) >= BOX_WIDTH or abs(y - other_y) >= BOX_HEIGHT
    for x, y in boxes(drawing).values():
        assert 0 <= x <= drawing.width - BOX_WIDTH
        assert 0 <= y <= drawing.height - BOX_HEIGHT


@pytest.mark.parametrize("graph", GRAPHS)
def test_arrows_lead_from_box_to_box_around_all_others(graph):
    drawing = draw(nodes(graph))
    place = boxes(drawing)
    edges = [(source, name) for name, inputs in graph.items() for source in inputs]
    assert len(drawing.arrows) == len(edges)
    for arrow, (source, target) in zip(drawing.arrows, edges, strict=True):
        line = points(arrow)
        assert line[0] == pytest.approx((place[source][0] + BOX_WIDTH, place[source][1] + BOX_HEIGHT / 2), abs=0.1)
        assert line[-1] == pytest.approx((place[target][0], place[target][1] + BOX_HEIGHT / 2), abs=0.1)
        for x, y in line:
            assert 0 <= y <= drawing.height
            for left, top in place.values():
                assert not (left + 0.5 < x < left + BOX_WIDTH - 0.5 and top < y < top + BOX_HEIGHT)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_stage_stands_right_of_what_it_reads(graph):
    place = boxes(draw(nodes(graph)))
    assert all(place[source][0] < place[name][0] for name, inputs in graph.items() for source in inputs)


def test_positions_do_not_depend_on_the_order_of_stages():
    drawing = draw(nodes(PIPELINE))
    backwards = draw(nodes(PIPELINE)[::-1])
    assert boxes(drawing) == boxes(backwards)
    assert sorted(drawing.arrows) == sorted(backwards.arrows)


def test_a_chain_is_a_straight_line_and_missing_inputs_have_no_arrow():
    drawing = draw(nodes({"clean": ("crawl",), "dedup": ("clean",), "shard": ("dedup", "tokenizer")}))
    assert len({y for _, y in boxes(drawing).values()}) == 1
    assert len(drawing.arrows) == 2
    assert draw([]).boxes == []


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match=r"circle: \['a', 'b'\]"):
        draw(nodes({"a": ("b",), "b": ("a",), "c": ()}))
