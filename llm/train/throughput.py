"""How fast this machine trains a model, measured for a moment: what a plan's times rest on."""

from __future__ import annotations

import time

import torch

from ..model.gpt import GPT, GPTConfig
from ..model.size import flops_per_token
from .config import LoopConfig
from .device import choose_device, choose_dtype
from .loss import Objective

N_WARM_UP = 2


def flops_per_second(config: GPTConfig, loop: LoopConfig, seconds: float = 1.0) -> float:
    """Floating-point operations per second over forward and backward passes of one micro-batch, in `seconds`.

    Optimizer, held-out measurements and checkpoints are not in it: a whole run is some percent slower.
    """
    device = choose_device(loop)
    dtype = choose_dtype(loop, device)
    objective = Objective(GPT(config).to(device), dtype)
    shape = (loop.micro_batch_size, config.context_length)
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)  # (B, T)

    def one_pass() -> None:
        objective(tokens, None, tokens.flatten()).backward()
        objective.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(N_WARM_UP):
        one_pass()
    n_passes, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        one_pass()
        n_passes += 1
    elapsed = time.perf_counter() - started
    return n_passes * tokens.numel() * flops_per_token(config) / elapsed
