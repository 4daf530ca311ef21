"""The probability of each block of a page to be main text: small trees over columns, read from a reviewed file.

`block_model.json` is written by `python -m benchmarks.extraction.train`: two tables of words with their log odds, and
gradient-boosted trees (LightGBM) as complete binary trees. Nothing but numpy is needed to use it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .block_columns import Array, WordScores, block_columns
from .blocks import Blocks

MODEL_FILE = Path(__file__).parent / "block_model.json"


@dataclass(frozen=True, slots=True)
class BlockModel:
    """Columns, word scores and trees. Inner node i of a tree has the children 2 i + 1 (value <= threshold) and 2 i + 2.

    `feature` (indices of columns) and `threshold` have shape (trees, inner nodes), `leaf` (trees, inner nodes + 1).
    """

    columns: tuple[str, ...]
    scores: WordScores
    feature: NDArray[np.intp]
    threshold: Array
    leaf: Array

    def probabilities(self, page: Blocks) -> tuple[Array, dict[str, Array]]:
        """Returns for each block the probability that it is main text, shape (blocks,).

        And the columns of `block_columns`.
        """
        if not page.texts:
            return np.empty(0), {}
        columns = block_columns(page, self.scores)
        table = np.concatenate([columns[name] for name in self.columns])  # (columns * blocks,)
        return 1 / (1 + np.exp(-self._log_odds(table, len(page.texts)))), columns

    def _log_odds(self, table: Array, n_blocks: int) -> Array:
        """Returns the sum of the trees' leaves for each block, shape (blocks,); one step down all trees at a time."""
        n_trees, n_inner = self.feature.shape
        first = np.arange(n_trees)[:, None] * n_inner  # of each tree in the flat arrays
        block = np.arange(n_blocks)[None, :]
        node = np.zeros((n_trees, n_blocks), dtype=np.intp)
        feature, threshold = self.feature.ravel() * n_blocks, self.threshold.ravel()
        for _ in range((n_inner + 1).bit_length() - 1):
            at = node + first
            node = 2 * node + 1 + (table.take(feature.take(at) + block) > threshold.take(at))
        leaf = node - n_inner + np.arange(n_trees)[:, None] * (n_inner + 1)
        return self.leaf.ravel().take(leaf).sum(axis=0)


def model_from(values: dict[str, Any]) -> BlockModel:
    """Returns the model in the values of its file."""
    names, texts = ({key: score for score, keys in values[table] for key in keys} for table in ("names", "texts"))
    trees = values["trees"]
    return BlockModel(
        tuple(values["columns"]),
        WordScores(names, texts),
        np.array([tree["feature"] for tree in trees], dtype=np.intp),
        np.array([tree["threshold"] for tree in trees], dtype=np.float64),
        np.array([tree["leaf"] for tree in trees], dtype=np.float64),
    )


@functools.cache
def block_model() -> BlockModel:
    """Returns the model of `block_model.json`, read once."""
    return model_from(json.loads(MODEL_FILE.read_text(encoding="utf-8")))
