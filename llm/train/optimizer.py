"""The optimizers, and the learning rate of each step.

`adamw` is AdamW (Loshchilov and Hutter 2019) for every weight. `muon` is Muon (Jordan et al. 2024) for the matrices
inside blocks, whose update it makes orthogonal, so that no direction of a matrix learns much faster than another, and
AdamW for the rest: embeddings, head, norms, biases. Muon's updates are scaled to AdamW's usual size (Liu et al. 2025,
"Muon is scalable for LLM training", section 2.2), so one learning rate means the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import ResolvedOptimizer


class Optimizer:
    """One or two of torch's optimizers used as one, with their state under the names of the weights."""

    def __init__(self, model: nn.Module, parts: Iterable[torch.optim.Optimizer]) -> None:
        """Accepts parameter groups that say in `ratio` which multiple of the learning rate is its own.

        All state exists from the start, as zeros, so that a checkpoint can be read into it.
        """
        self.parts = list(parts)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    part.state[parameter] = fresh_state(part, parameter)

    def step(self) -> None:
        """Moves the weights along their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def set_learning_rate(self, value: float) -> None:
        """Sets the learning rate of the next step."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = value * group.get("ratio", 1.0)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state, no copy: `optimizer.<weight>.exp_avg`, `.exp_avg_sq`, `.step`, `.momentum_buffer`."""
        return {
            f"optimizer.{self.names[parameter]}.{key}": value
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }


def fresh_state(part: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Returns the state that `part` gives a weight before its first update."""
    if isinstance(part, torch.optim.Muon):
        return {"momentum_buffer": torch.zeros_like(parameter)}
    moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return {"step": torch.zeros((), device=parameter.device), **moments}


def make_optimizer(model: nn.Module, config: ResolvedOptimizer) -> Optimizer:
    """Returns the optimizer of a model's trainable weights; only matrices have weight decay, not biases and norms.

    Raises ValueError when Muon is asked for and weights are sharded: it needs each matrix whole.
    """
    rate, decay = config.learning_rate, config.weight_decay
    matrices = block_matrices(model) if config.kind == "muon" else []
    if any(is_sharded(matrix) for matrix in matrices):
        raise ValueError(
            "optimizer.kind is 'muon', which needs whole matrices: use 'adamw', or parallel.strategy 'ddp'"
        )
    others = set(model.parameters()) - set(matrices)
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter in others]
    ratio = 1.0 if config.adamw_learning_rate is None else config.adamw_learning_rate / rate
    # fused: one pass over memory for all weights; on CPU 3 to 6 times as fast as the other forms
    groups = adamw_groups(rest, decay, ratio)
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(config.beta1, config.beta2), fused=True)
    if not matrices:
        return Optimizer(model, [adamw])
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return Optimizer(model, [muon, adamw])


def adamw_groups(parameters: Sequence[Tensor], weight_decay: float, ratio: float) -> list[dict[str, Any]]:
    """Groups weights: matrices, which decay, and vectors, which do not; whole ones apart from sharded ones."""
    groups: list[dict[str, Any]] = []
    for is_matrix in (True, False):
        for sharded in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2) == is_matrix and is_sharded(p) == sharded]
            if chosen:
                groups.append({"params": chosen, "weight_decay": weight_decay * is_matrix, "ratio": ratio})
    return groups


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether processes hold parts of a tensor (a DTensor, known by its placements)."""
    return hasattr(tensor, "placements")


def block_matrices(model: nn.Module) -> list[Tensor]:
    """Returns the trainable matrices of the linear layers inside blocks: no embeddings, no head."""
    layers = [module for name, module in model.named_modules() if name.startswith("blocks.")]
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    return [weight for weight in weights if weight.requires_grad]


def learning_rate(step: int, n_steps: int, config: ResolvedOptimizer) -> float:
    """Returns the learning rate of step `step` (0 is the first) out of `n_steps`.

    It grows in a straight line over `warmup_steps`, reaches `learning_rate`, and goes down to
    `min_learning_rate_ratio` of it at the last step: in a straight line, along half a cosine (Loshchilov and Hutter
    2017), or, for wsd, in a straight line after a constant stretch (Hu et al. 2024, MiniCPM).
    """
    warmup_steps = config.warmup_steps
    warmup = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    if config.schedule == "wsd":
        decay = min(1.0, (n_steps - 1 - step) / max(1.0, config.decay_fraction * n_steps))
    else:
        done = (step - warmup_steps) / max(1, n_steps - 1 - warmup_steps)
        done = min(1.0, max(0.0, done))
        decay = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    ratio = config.min_learning_rate_ratio
    return config.learning_rate * min(warmup, ratio + (1 - ratio) * decay)
