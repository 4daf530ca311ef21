"""An objective that notes what its batches show besides their loss: accuracy, margin, reward."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from ..model.gpt import GPT
from .loss import Objective


class NotingObjective(Objective):
    """Notes numbers example by example; the loop writes their means into the line of each step."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        """As `Objective`."""
        super().__init__(model, dtype)
        self._noted: defaultdict[str, list[Tensor]] = defaultdict(list)

    def note(self, **values: Tensor) -> None:
        """Keeps a number for each example of a batch, under a name."""
        for name, value in values.items():
            self._noted[name].append(value.detach())

    def taken(self) -> dict[str, Tensor]:
        """What was noted since the last call, (examples,) each."""
        noted = {name: torch.cat(parts) for name, parts in self._noted.items()}
        self._noted.clear()
        return noted

    def figures(self) -> dict[str, float]:
        """The means of what was noted since the last call; of several processes each has its own."""
        return {name: float(values.double().mean()) for name, values in self.taken().items()}
