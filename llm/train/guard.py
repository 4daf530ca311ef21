"""Which steps training refuses to learn from, and the record of them.

A step whose loss or gradient norm is not finite, or far above those of the steps before, is skipped: weights,
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
from ..tokenizer.tokenizer import Tokenizer
from .config import GuardConfig
from .loader import IGNORED, Sequences

SKIPPED_FILE = "skipped.json"
"""The record of all skipped steps, beside the model."""
LARGEST_RISE = 5.0
"""In nats, above the first step's loss: no run that learns has it (72 recorded ones rose by 0.2 at most). A model that
knows nothing costs ln(vocabulary), 6 to 12 nats; one that diverges in its first steps soon costs a multiple of it."""
SMALLEST_LOSS_SPREAD = 0.01
"""Of the mean: what is taken as the standard deviation of losses that hardly differ."""
SMALLEST_NORM_SPREAD = 0.3
"""The same of the logarithm of gradient norms: 6 of these are a factor of 6. Norms have heavy tails, and clipping makes
small outliers harmless: of 51,593 steps of 69 recorded runs, 144 were beyond 6 standard deviations of the norm and 66
beyond 6 of its logarithm, nearly all 1.5 to 4 times the usual norm; where such a step was learned from, the loss went
on as before. With this bound three are left."""


def rejection_reason(
    loss: float, grad_norm: float, recent: Sequence[Sequence[float]], guard: GuardConfig
) -> str | None:
    """Returns why a step should not be learned from, in words; None: nothing speaks against it.

    `recent` holds loss and gradient norm of the last steps that were learned from; those without a gradient are not
    compared with. Norms are compared by their logarithms. While there are fewer than half of `guard.window`, only
    values that are not finite and losses far above the first one are rejected.
    """
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            return f"{name} is {value}"
    before = np.array([values for values in recent if values[1] > 0]).reshape(-1, 2)  # (n, 2)
    if guard.sigma is None or not recent:
        return None
    if len(before) < guard.window / 2:
        first = recent[0][0]
        rises = loss > first + LARGEST_RISE
        return f"loss is {loss:.4g}, more than {LARGEST_RISE:g} above the first, {first:.4g}" if rises else None
    losses, log_norms = before[:, 0], np.log(before[:, 1])
    mean, usual, n = float(losses.mean()), math.exp(log_norms.mean()), len(before)
    spread = max(float(losses.std()), SMALLEST_LOSS_SPREAD * abs(mean))
    if loss > mean + guard.sigma * spread > mean:
        above = (loss - mean) / spread
        return f"loss is {loss:.4g}, {above:.1f} standard deviations above {mean:.4g}, the mean of the last {n} steps"
    if grad_norm > usual * math.exp(guard.sigma * max(float(log_norms.std()), SMALLEST_NORM_SPREAD)):
        return (
            f"gradient norm is {grad_norm:.4g}, {grad_norm / usual:.1f} times {usual:.4g}, that of the last {n} steps"
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
