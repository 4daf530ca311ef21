"""Trains the model of the extractor on the labelled pages of WCXB and writes llm/data/html/block_model.json.

    python -m benchmarks.extraction.train --data DIR

DIR holds `ground-truth.jsonl.gz` and `html/`. Needs lightgbm. One thread and fixed seeds: the same bytes each time;
about two minutes. The word tables that the trees see while they learn come from other domains than the page at hand:
else the trees would trust words that they know the answer of.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from llm.data.clean.extract import page_blocks
from llm.data.html.block_columns import MAX_NAMES, WordScores, block_columns, name_keys, text_keys
from llm.data.html.block_model import MODEL_FILE
from llm.data.html.blocks import Blocks
from llm.data.html.charset import decode_html

from .labels import block_labels
from .pages import LabelledPage, fold_of_domain, read_pages

N_FOLDS = 5
N_TREES, MAX_DEPTH = 50, 5
PARAMETERS = {
    "objective": "cross_entropy",
    "learning_rate": 0.17,
    "max_depth": MAX_DEPTH,
    "num_leaves": 24,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "min_data_in_leaf": 60,
    "lambda_l2": 5.0,
    "num_threads": 1,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
WEIGHT_POWER = 0.7
"""A block weighs this power of its words; the blocks of a page weigh 1 together."""


@dataclass(frozen=True)
class Example:
    """A page, its blocks (at least one), and for each how much of it is main content."""

    page: LabelledPage
    blocks: Blocks
    labels: np.ndarray


def examples_of(pages: Iterable[LabelledPage]) -> list[Example]:
    """The pages with blocks, labelled."""
    found = []
    for page in pages:
        blocks = page_blocks(decode_html(page.html))
        if blocks.texts:
            found.append(Example(page, blocks, np.array(block_labels(blocks.texts, page.main_content))))
    return found


# ---------------------------------------------------------------- word tables


@dataclass(frozen=True)
class TableRule:
    """How the log odds of a table are made: smoothing, the fewest domains and the least score (in tenths) of a word."""

    smoothing: float
    min_domains: int
    min_score: int


NAME_RULE = TableRule(smoothing=0.5, min_domains=3, min_score=4)
TEXT_RULE = TableRule(smoothing=0.7, min_domains=4, min_score=6)

Odds = dict[str, tuple[float, float]]
"""For each key the mass of main text and of other text that bears it on a page, each from 0 to 1."""


def word_tables(examples: list[Example]) -> tuple[dict[str, int], dict[str, int]]:
    """Log odds in tenths of the names of elements and of the first words of blocks."""
    mixed = [example for example in examples if 0 < np.count_nonzero(example.labels > 0.5) < len(example.labels)]
    return _table(mixed, _odds_of_names, NAME_RULE), _table(mixed, _odds_of_texts, TEXT_RULE)


def _table(examples: list[Example], odds: Callable[[Example], Odds], rule: TableRule) -> dict[str, int]:
    masses: dict[str, list[float]] = defaultdict(lambda: [rule.smoothing, rule.smoothing])
    domains: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        for key, (main, other) in odds(example).items():
            masses[key][0] += main
            masses[key][1] += other
            domains[key].add(example.page.domain)
    scores = {
        key: round(10 * math.log(main / other))
        for key, (main, other) in masses.items()
        if len(domains[key]) >= rule.min_domains
    }
    return {key: score for key, score in scores.items() if abs(score) >= rule.min_score}


def _odds_of_names(example: Example) -> Odds:
    """Shares of the page's main and other text in elements with a name."""
    is_main = example.labels > 0.5
    weights = np.sqrt(np.minimum([len(text.split()) for text in example.blocks.texts], 60))
    main, other = (np.concatenate([[0], np.cumsum(weights * part / (weights @ part))]) for part in (is_main, ~is_main))
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    first = example.blocks.elements.first
    for start, end, names in zip(first, example.blocks.ends, example.blocks.names, strict=True):
        for key in {key for name in names.split()[:MAX_NAMES] for key in name_keys(name)}:
            found[key] = (found[key][0] + main[end] - main[start], found[key][1] + other[end] - other[start])
    return {key: (min(1.0, a), min(1.0, b)) for key, (a, b) in found.items()}


def _odds_of_texts(example: Example) -> Odds:
    """How many blocks of main and of other text begin with a word; two or more count as one whole."""
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for line, label in zip(example.blocks.lines, example.labels, strict=True):
        for key in set(text_keys(line)):
            n_main, n_other = found[key]
            found[key] = (n_main + 1, n_other) if label > 0.5 else (n_main, n_other + 1)
    return {key: (min(1.0, a / 2), min(1.0, b / 2)) for key, (a, b) in found.items()}


# ---------------------------------------------------------------- trees


def trained_model(pages: list[LabelledPage]) -> dict[str, Any]:
    """The values of a model file, learned from the pages."""
    examples = examples_of(pages)
    columns = _columns_out_of_fold(examples)
    names = list(columns[0])
    booster = lightgbm.train(
        PARAMETERS,
        lightgbm.Dataset(
            np.concatenate([np.stack([found[name] for name in names], axis=1) for found in columns]),
            np.concatenate([example.labels for example in examples]),
            weight=np.concatenate([_weights(found["words"]) for found in columns]) * (len(examples) / 100),
        ),
        N_TREES,
    )
    scores = word_tables(examples)
    return {
        "columns": names,
        "names": _by_score(scores[0]),
        "texts": _by_score(scores[1]),
        "trees": [_complete_tree(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]],
    }


def _columns_out_of_fold(examples: list[Example]) -> list[dict[str, np.ndarray]]:
    """The columns of each example with word scores from the other folds."""
    fold = fold_of_domain([example.page for example in examples], [1.0] * N_FOLDS, seed=7)
    columns: list[dict[str, np.ndarray]] = [{} for _ in examples]
    for k in range(N_FOLDS):
        scores = WordScores(*word_tables([example for example in examples if fold[example.page.domain] != k]))
        for i, example in enumerate(examples):
            if fold[example.page.domain] == k:
                columns[i] = block_columns(example.blocks, scores)
    return columns


def _weights(words: np.ndarray) -> np.ndarray:
    weights = np.maximum(words, 0.5) ** WEIGHT_POWER
    return weights / weights.sum()


def _complete_tree(root: dict[str, Any]) -> dict[str, list[float]]:
    """A tree as arrays, in the order of a heap: a leaf above the deepest level fills all places below it."""
    feature, threshold, leaf = [0] * (2**MAX_DEPTH - 1), [0.0] * (2**MAX_DEPTH - 1), [0.0] * 2**MAX_DEPTH
    waiting = [(root, 0)]
    while waiting:
        node, place = waiting.pop()
        if place >= len(feature):
            leaf[place - len(feature)] = _rounded(node["leaf_value"])
        elif "leaf_value" in node:
            waiting += [(node, 2 * place + 1), (node, 2 * place + 2)]
        else:
            feature[place], threshold[place] = node["split_feature"], _rounded(node["threshold"])
            waiting += [(node["left_child"], 2 * place + 1), (node["right_child"], 2 * place + 2)]
    return {"feature": feature, "threshold": threshold, "leaf": leaf}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _by_score(scores: dict[str, int]) -> list[tuple[int, list[str]]]:
    """The words of each score, lowest score first."""
    words: dict[int, list[str]] = defaultdict(list)
    for key, score in sorted(scores.items()):
        words[score].append(key)
    return sorted(words.items())


# ---------------------------------------------------------------- the file

ABOUT = {
    "what": "Which blocks of a web page are its main text: see llm/data/html/block_model.py.",
    "trained on": "WCXB development split (Murrough Foley, 2026, CC-BY-4.0); holds statistics, no text of it",
    "command": "python -m benchmarks.extraction.train --data DIR",
    "scores": "log odds in tenths, of class and id names (~: a word in one) and of a block's first words (=: all)",
}


def write_model(values: dict[str, Any], path: Path) -> None:
    """Writes a model file with a line for each score and each tree, so that a change can be reviewed."""
    lines = [
        f'"about": {json.dumps(ABOUT, ensure_ascii=False, indent=1)}',
        f'"columns": {json.dumps(values["columns"])}',
    ]
    for key in ("names", "texts", "trees"):
        rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in values[key])
        lines.append(f'"{key}": [\n{rows}\n]')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Trains on all pages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of WCXB pages")
    parser.add_argument("--out", type=Path, default=MODEL_FILE)
    arguments = parser.parse_args()
    pages = read_pages(arguments.data)
    write_model(trained_model(pages), arguments.out)
    print(f"{arguments.out}: {len(pages)} pages, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
