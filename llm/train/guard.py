"""Which steps training refuses to learn from, and the record of them.

A step whose loss or gradient norm is not finite, or far above those of the steps before, is passed by: weights,
moments and the window of recent values stay as they were, and the learning rate's schedule goes on (as OLMo's
SkipStepOptimizer does). After several in a row the run is rolled back to the last checkpoint that was measured
without trouble, and goes on with the batches after the bad ones (Chowdhery et al. 2022, PaLM, section 5.1: the same
batches in another state of the model did no harm, so it is the meeting of the two that has to be avoided).

Everything here is a function of the values of the steps, which all processes share, so they all decide the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_text
from ..tokenizer import Tokenizer
from .config import GuardConfig
from .loader import IGNORED, Sequences

SKIPPED_FILE = "skipped.json"
"""The record of all skipped steps, beside the model."""
SMALLEST_SPREAD = 0.01
"""Of the mean: what is taken as the standard deviation of values that hardly differ."""


def objection(loss: float, grad_norm: float, recent: Sequence[Sequence[float]], guard: GuardConfig) -> str | None:
    """Why a step should not be learned from, in words; None: nothing speaks against it.

    `recent` holds loss and gradient norm of the last steps that were learned from. While there are fewer than half of
    `guard.window`, only values that are not finite are objected to.
    """
    for column, (name, value) in enumerate((("loss", loss), ("gradient norm", grad_norm))):
        if not math.isfinite(value):
            return f"{name} is {value}"
        if guard.sigma is None or len(recent) < guard.window / 2:
            continue
        before = np.array([values[column] for values in recent])
        mean = float(before.mean())
        spread = max(float(before.std()), SMALLEST_SPREAD * abs(mean))
        if value > mean + guard.sigma * spread:
            return (
                f"{name} is {value:.4g}, {(value - mean) / spread:.1f} standard deviations above {mean:.4g}, "
                f"the mean of the last {len(recent)} steps"
            )
    return None


def write_batch(path: Path, sequences: Sequences, rows: np.ndarray, tokenizer: Tokenizer, why: dict[str, Any]) -> None:
    """Writes the sequences of a step as lines of JSON (row, text, tokens), after a first line `why`."""
    path.parent.mkdir(exist_ok=True)
    lines = [why]
    for row in rows:
        batch = sequences.batch(np.array([row]))
        tokens = [*batch.inputs[0].tolist(), int(batch.targets[0, -1])]
        tokens = [token for token in tokens if token != IGNORED]
        lines.append({"row": int(row), "text": tokenizer.decode(tokens), "tokens": tokens})
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
