"""What the benchmarks of training share: tokens in memory, trained on by the real loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.model.gpt import GPT
from llm.train.config import LoopConfig, ResolvedOptimizer
from llm.train.loader import Batch, Sequences, batch_of
from llm.train.loop import RunSpec, Trainer
from llm.train.order import one_group
from llm.train.parallel import World


class Windows(Sequences):
    """A text cut into sequences of `width` tokens, of which `width - 1` are learned; each begins `stride` later."""

    def __init__(self, tokens: np.ndarray, width: int, stride: int) -> None:
        self.tokens, self.width = tokens, width
        self.starts = np.arange(0, len(tokens) - width + 1, stride)
        self.order = one_group(len(self.starts))

    def __len__(self) -> int:
        return len(self.starts)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The tokens in each of the rows."""
        return np.full(len(rows), self.width)

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows."""
        return batch_of(self.tokens[self.starts[rows, None] + np.arange(self.width)])


class Bytes:
    """What the loop asks of a tokenizer when no samples are drawn: every token stands for one byte."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def token_n_bytes(self) -> np.ndarray:
        """(V,) ones."""
        return np.ones(self.vocab_size, np.int32)

    def decode(self, tokens: list[int]) -> str:
        """The numbers; asked for when a step is skipped."""
        return " ".join(map(str, tokens))


def random_tokens(vocab_size: int, n_tokens: int) -> np.ndarray:
    """Tokens that nothing can be learned from: for speed they are as good as any."""
    return np.random.default_rng(0).integers(vocab_size, size=n_tokens, dtype=np.uint16)


def trainer(
    model: GPT,
    train: Sequences,
    val: Sequences,
    work_dir: Path,
    *,
    batch_size: int,
    n_steps: int = 1_000_000,
    dtype: torch.dtype = torch.bfloat16,
    compiled: bool = False,
    optimizer: ResolvedOptimizer,
    world: World | None = None,
    **loop: Any,
) -> Trainer:
    """The loop of `python -m llm.train` on sequences of one width, in a process of its own, without samples."""
    settings = LoopConfig(**{"n_sample_tokens": 0, "micro_batch_size": batch_size} | loop)
    spec = RunSpec(
        train=train,
        val=val,
        n_steps=n_steps,
        batch_size=batch_size,
        optimizer=optimizer,
        loop=settings,
        dtype=dtype,
        prompts=[],
        identity={},
        compiled_width=train.lengths(np.arange(1))[0] - 1 if compiled else None,
    )
    work_dir.mkdir(parents=True, exist_ok=True)
    return Trainer(model, Bytes(model.config.vocab_size), spec, work_dir, world)
