"""Direct preference optimisation (DPO, Rafailov et al. 2023): learning which of two answers is liked better.

With the model pi, the frozen model ref that it starts from, and y_w liked better than y_l as an answer to x, their
equation 7 is

    loss = -ln sigmoid(margin),  margin = beta (ln pi(y_w|x) / ref(y_w|x) - ln pi(y_l|x) / ref(y_l|x))

ln pi(y|x) is the sum over the answer's tokens, the end of its turn among them. Those of ref never change, so they are
computed once (reference.py). With label smoothing e a pair counts for 1 - e as it is and for e the wrong way round
(Mitchell 2023, conservative DPO).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...counts import Counts
from ...files import read_json, read_table
from ...model.gpt import GPT
from ...statistics import wilson
from ...tokenizer.tokenizer import Tokenizer
from ..loader import Batch, evenly_spaced, files_digest
from ..loop import RunSpec
from .answers import REFERENCE_FILE, AnswerObjective, PairBatch, Pairs, rendered
from .config import PreferConfig
from .start import Start


class PreferenceObjective(AnswerObjective):
    """The loss of the module's docstring; its metrics are each pair's margin, and whether it is above 0."""

    def __init__(self, model: GPT, dtype: torch.dtype, beta: float, label_smoothing: float) -> None:
        """As `Objective`, with the two settings of `PreferConfig`."""
        super().__init__(model, dtype)
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(self, batch: Batch) -> Tensor:
        """Returns the sum of the losses of the pairs of a `PairBatch`."""
        assert isinstance(batch, PairBatch)
        log_ratios = self.answer_log_p(batch) - batch.reference  # (2B,)
        chosen, rejected = log_ratios.chunk(2)  # (B,) both
        margin = self.beta * (chosen - rejected)
        self.metrics.add(margin=margin, accuracy=(margin > 0).float())
        smoothing = self.label_smoothing
        return -((1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)).sum()

    def held_out_metrics(self, loss: float, n_bytes: int, examples: dict[str, Tensor]) -> dict[str, float]:
        """Returns `val_margin`, and `val_accuracy`, the share of margins above 0, with its 95 % interval."""
        share = wilson((examples["accuracy"] > 0).cpu().numpy())
        return {
            "val_margin": float(examples["margin"].double().mean()),
            "val_accuracy": share.score,
            "val_accuracy_low": share.low,
            "val_accuracy_high": share.high,
        }


def prefer(
    model_dir: Path,
    reference_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: PreferConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Trains a chat model on preference pairs and writes its artifact; counts the pairs.

    Goes on from the checkpoints in `work_dir`. Raises ValueError when the reference log-probabilities are of another
    model or the loss diverges; `Stopped` when asked to stop.
    """
    optimizer = config.optimizer.resolved(learning_rate=1e-4, warmup_steps=10, weight_decay=0.0)
    config = replace(config, optimizer=optimizer)
    start = Start.of(model_dir, config.loop)
    start.require_memory(2 * min(config.loop.micro_batch_size, config.batch_size), optimizer)
    files = [reference_dir / f"{name}.parquet" for name in ("train", "val")]
    identity = start.identity("prefer", files_digest(files), config)
    reference = read_json(reference_dir / REFERENCE_FILE)
    require_reference(reference, identity)
    train, val = (read_pairs_table(path, start.tokenizer) for path in files)
    n_steps = config.n_steps or math.ceil(config.n_epochs * len(train) / config.batch_size)
    spec = RunSpec(
        train=train,
        val=val,
        n_steps=n_steps,
        batch_size=config.batch_size,
        optimizer=optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[val.prompt(row) for row in evenly_spaced(len(val), config.n_samples)],
        identity=identity,
        objective=functools.partial(PreferenceObjective, beta=config.beta, label_smoothing=config.label_smoothing),
    )
    progress = start.train(spec, work_dir, out_dir, should_stop)
    figures = progress.metrics() | {"n_epochs": n_steps * config.batch_size / len(train)}
    return Counts("pairs", len(train), len(train), {}, figures)


def read_pairs_table(path: Path, tokenizer: Tokenizer) -> Pairs:
    """Returns the pairs that the reference stage has left in a file."""
    rows = read_table(path).to_pylist()
    pairs = [rendered(row["prompt"], row["chosen"], row["rejected"], tokenizer) for row in rows]
    return Pairs(pairs, np.array([[row["chosen_log_p"], row["rejected_log_p"]] for row in rows]))


def require_reference(reference: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raises ValueError when the log-probabilities are not those of the model that is trained."""
    if reference["base"] != identity["base"]:
        raise ValueError(
            "the reference log-probabilities are of another model than the one to train: compute them anew"
        )
    if reference["precision"] != identity["loop.precision"]:
        raise ValueError(
            f"the reference log-probabilities were computed in {reference['precision']}, training is in "
            f"{identity['loop.precision']}: set reference.precision and prefer.loop.precision to the same"
        )
