"""One training run on one process or on many (`torchrun`).

A process alone is a world of size 1, and then nothing here touches torch.distributed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them."""

    device: torch.device
    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and metrics."""
        return self.rank == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """The part of a step's sequences that this process learns from."""
        return rows[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes, the same in each."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all of them get the same answer."""
        return flag


def distribute(objective: nn.Module, world: World) -> nn.Module:
    """The objective as `world` trains it; alone, as it is."""
    return objective


def accumulate(objective: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Around the passes of one micro-batch: gradients are exchanged after the last of a step only."""
    return contextlib.nullcontext()


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """The global norm of the gradients, a scalar; scales them down to `max_norm` if they are larger."""
    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
