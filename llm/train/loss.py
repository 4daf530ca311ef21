"""The loss of a model's predictions, and what batches show besides.

Letters in shapes: B batch, T time, N targets to learn, C d_model.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.gpt import GPT, Layout, causal_mask
from ..model.head import summed_nll
from .loader import Batch


class MetricAccumulator:
    """Collects numbers example by example, until they are taken; of several processes each has its own."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)

    def add(self, **values: Tensor) -> None:
        """Adds a number for each example of a batch, under a name."""
        for name, value in values.items():
            self._values[name].append(value.detach())

    def take(self) -> dict[str, Tensor]:
        """Returns what was added since the last call, (examples,) each."""
        values = {name: torch.cat(parts) for name, parts in self._values.items()}
        self._values.clear()
        return values


class Objective(nn.Module):
    """A model with its loss: what is differentiated, compiled and distributed. This one predicts the next token."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        """Computes matrix products in `dtype`, float32 or bfloat16; weights and gradients stay float32."""
        super().__init__()
        self.model, self.dtype, self.metrics = model, dtype, MetricAccumulator()

    def forward(self, batch: Batch) -> Tensor:
        """Returns the sum of the losses of what the batch has to learn, in nats; float32 scalar."""
        features, softcap = self.features(batch), self.model.config.logit_softcap
        return summed_nll(features, self.model.head_weight, batch.learned(), self.dtype, softcap)

    def features(self, batch: Batch) -> Tensor:
        """Returns the features that predict the targets to learn, (N, C)."""
        layout = None if batch.segments is None else layout_of(batch.segments)
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features = self.model.features(batch.inputs, layout=layout).flatten(0, 1)  # (B * T, C)
        return features if batch.positions is None else features.index_select(0, batch.positions)

    def held_out_loss(self, batch: Batch) -> Tensor:
        """Returns the summed loss of a held-out batch; what else it shows goes into `metrics`."""
        return self(batch)

    def held_out_metrics(self, loss: float, n_bytes: int, examples: dict[str, Tensor]) -> dict[str, float]:
        """Returns what is measured besides `val_loss`: here `val_bpb`, bits per UTF-8 byte of the text to predict.

        `loss` is the sum over all batches, `n_bytes` what their targets stand for (special tokens for none, but what
        they cost counts), `examples` what `metrics` holds.
        """
        return {"val_bpb": loss / math.log(2) / max(1, n_bytes)}


def layout_of(segments: Tensor) -> Layout:
    """Returns the layout of rows that hold several texts: each sees itself only, and begins at position 0.

    `segments` (B, T) are numbers that are the same within a text and differ between neighbours.
    """
    columns = torch.arange(segments.shape[1], device=segments.device)  # (T,)
    is_first = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)  # (B, T)
    starts = torch.where(is_first, columns, 0).cummax(dim=1).values  # (B, T)
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
    return Layout(columns - starts, same & causal_mask(len(columns), len(columns), segments.device))
