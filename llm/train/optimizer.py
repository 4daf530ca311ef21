"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model's weights; weight decay pulls at matrices only, not at biases and norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over memory for all weights; on CPU 3 to 6 times as fast as the other forms
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, n_steps: int, config: OptimizerConfig) -> float:
    """The learning rate of step `step` (0 is the first) out of `n_steps`.

    It grows in a straight line over `warmup_steps`, reaches `learning_rate`, and goes down to
    `min_learning_rate_ratio` of it at the last step: along half a cosine (Loshchilov and Hutter 2017), or, for wsd,
    in a straight line after a constant stretch (Hu et al. 2024, MiniCPM).
    """
    warmup = (step + 1) / config.warmup_steps if step < config.warmup_steps else 1.0
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, n_steps - 1 - config.warmup_steps)
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    else:
        decay = min(1.0, (n_steps - 1 - step) / max(1.0, config.decay_fraction * n_steps))
    ratio = config.min_learning_rate_ratio
    return config.learning_rate * min(warmup, ratio + (1 - ratio) * decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = value
