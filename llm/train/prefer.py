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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..counts import Counts
from ..evaluate.statistics import wilson
from ..files import read_json, read_table
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .loader import Batch, Sequences, evenly_spaced
from .log_p import AnswerObjective, chats_batch
from .loop import Course
from .loss import Objective
from .method import Start, with_rates
from .method_configs import PreferConfig
from .order import one_group

REFERENCE_FILE = "reference.json"
"""Which model the reference log-probabilities are of."""
PairTokens = tuple[list[int], list[int], list[int]]
"""The ids of a prompt, of its chosen and of its rejected answer."""


@dataclass(frozen=True)
class PairBatch(Batch):
    """B pairs as 2B sequences: the chosen answers, then, in the same order, the rejected ones."""

    reference: Tensor | None = None
    """(2B,) float32: ln ref(y|x) of each sequence."""

    @property
    def n_learned(self) -> int:
        """Pairs: the loss is their mean."""
        return len(self.inputs) // 2

    def arguments(self) -> tuple[Any, ...]:
        """What `PreferenceObjective` is called with."""
        return self.inputs, *self.learned(), self.reference


class Pairs(Sequences):
    """Preference pairs in memory; a row is a pair."""

    def __init__(self, pairs: Sequence[PairTokens], log_p: np.ndarray) -> None:
        """The ids of each pair, and ln ref(y|x) of its answers, (pairs, 2)."""
        self._pairs, self._log_p = pairs, log_p.astype(np.float32)
        lengths = [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]
        self._lengths = np.array(lengths, np.int64)
        self.order = one_group(len(pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def prompt(self, row: int) -> list[int]:
        """The ids of a pair's prompt, which ask for an answer."""
        return self._pairs[row][0]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The tokens in the longer chat of each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> PairBatch:
        """The rows, filled up to the longest of them."""
        prompts, chosen, rejected = zip(*(self._pairs[row] for row in rows), strict=True)
        batch = chats_batch(prompts * 2, chosen + rejected)
        log_p = torch.from_numpy(self._log_p[rows].T.flatten())  # (2B,)
        return PairBatch(batch.inputs, batch.targets, batch.positions, log_p)


class PreferenceObjective(AnswerObjective):
    """The loss of the module's docstring; notes each pair's margin, and whether it is above 0 (accuracy)."""

    def __init__(self, model: GPT, dtype: torch.dtype, beta: float, label_smoothing: float) -> None:
        """As `Objective`, with the two settings of `PreferConfig`."""
        super().__init__(model, dtype)
        self.beta, self.label_smoothing = beta, label_smoothing

    def forward(  # type: ignore[override]
        self, inputs: Tensor, positions: Tensor, targets: Tensor, reference: Tensor
    ) -> Tensor:
        """Sum of the pairs' losses; arguments as a `PairBatch` gives them."""
        log_ratios = self.answer_log_p(inputs, positions, targets) - reference  # (2B,)
        chosen, rejected = log_ratios.chunk(2)  # (B,) both
        margin = self.beta * (chosen - rejected)
        self.note(margin=margin, accuracy=(margin > 0).float())
        smoothing = self.label_smoothing
        return -((1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)).sum()

    def answer_log_p(self, inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """ln pi(y|x) of each sequence's answer, (B,)."""
        log_p = self.log_p(inputs, positions, targets)  # (N,)
        rows = positions // inputs.shape[1]  # (N,): the sequence that each token is of
        return log_p.new_zeros(len(inputs)).index_add(0, rows, log_p)


@torch.no_grad()
def held_out_pairs(
    objective: Objective, batches: Iterable[Batch], token_n_bytes: Tensor, check_stop: Callable[[], None]
) -> dict[str, float]:
    """`val_loss`, `val_margin` and `val_accuracy` (share of pairs with a margin above 0, with its 95 % interval)."""
    preference, total = cast(PreferenceObjective, objective), 0.0
    preference.taken()
    for batch in batches:
        check_stop()
        total += preference(*batch.arguments()).item()
    noted = preference.taken()
    share = wilson((noted["accuracy"] > 0).cpu().numpy())
    return {
        "val_loss": total / share.n,
        "val_margin": float(noted["margin"].double().mean()),
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
    rates = with_rates(config.optimizer, learning_rate=1e-4, warmup_steps=10, weight_decay=0.0)
    config = replace(config, optimizer=rates)
    start = Start.of(model_dir, config.loop, config.optimizer, 2 * min(config.loop.micro_batch_size, config.batch_size))
    files = [reference_dir / f"{name}.parquet" for name in ("train", "val")]
    identity = start.identity("prefer", files, config)
    reference = read_json(reference_dir / REFERENCE_FILE)
    require_reference(reference, identity)
    train, val = (read_pairs_table(path, start.tokenizer) for path in files)
    n_steps = config.n_steps or math.ceil(config.n_epochs * len(train) / config.batch_size)
    course = Course(
        train=train,
        val=val,
        n_steps=n_steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[val.prompt(row) for row in evenly_spaced(len(val), config.n_samples)],
        identity=identity,
        objective=functools.partial(PreferenceObjective, beta=config.beta, label_smoothing=config.label_smoothing),
        measure=held_out_pairs,
    )
    progress = start.train(course, work_dir, out_dir, should_stop)
    figures = progress.figures() | {"n_epochs": n_steps * config.batch_size / len(train)}
    return Counts("pairs", len(train), len(train), {}, figures)


def read_pairs_table(path: Path, tokenizer: Tokenizer) -> Pairs:
    """The pairs that the reference stage has left in a file."""
    rows = read_table(path).to_pylist()
    pairs = [rendered(row["prompt"], row["chosen"], row["rejected"], tokenizer) for row in rows]
    return Pairs(pairs, np.array([[row["chosen_log_p"], row["rejected_log_p"]] for row in rows]))


def rendered(prompt: list[dict[str, str]], chosen: str, rejected: str, tokenizer: Tokenizer) -> PairTokens:
    """The ids of a prompt and of either answer to it, each with the end of its turn."""
    answers = [[*tokenizer.encode(answer), tokenizer.end_token] for answer in (chosen, rejected)]
    return tokenizer.render_chat(prompt, add_generation_prompt=True)[0], answers[0], answers[1]


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
