"""How fast this machine trains a model, measured for a moment: what a plan's times rest on."""

from __future__ import annotations

import re
import time

import torch

from ..model.gpt import GPT, GPTConfig
from ..model.size import flops_per_token
from .compile import compiled
from .config import LoopConfig
from .device import choose_device, choose_dtype
from .loss import Objective

N_WARM_UP = 2


def flops_per_second(config: GPTConfig, loop: LoopConfig, seconds: float = 1.0, *, is_compiled: bool = False) -> float:
    """Floating-point operations per second over forward and backward passes of one micro-batch, in `seconds`.

    `is_compiled`: of compiled code, which has to be made first. Optimizer, held-out measurements and checkpoints are
    not in it: a whole run is some percent slower.
    """
    device = choose_device(loop)
    dtype = choose_dtype(loop, device)
    objective = Objective(GPT(config).to(device), dtype)
    trained = compiled(objective) if is_compiled else objective
    shape = (loop.micro_batch_size, config.context_length)
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)  # (B, T)

    def one_pass() -> None:
        trained(tokens, None, tokens.flatten()).backward()
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


PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 150e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A30": 165e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 operations per second, accumulated in float32, by a part of the device's name; the first part found
counts. From NVIDIA's data sheets (half of the figures "with sparsity"), of the RTX cards from the white papers of
their architectures (Ampere GA102, Ada, Blackwell)."""


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second that a device is sold for; None where that is not known.

    What a run reaches of it is its MFU (Chowdhery et al. 2022), with operations counted as `flops_per_token` does.
    """
    return peak_flops_by_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_by_name(name: str) -> float | None:
    """`peak_flops` of a device as its driver calls it, `NVIDIA A100-SXM4-80GB`."""
    words = name.replace("-", " ")
    return next((peak for part, peak in PEAK_FLOPS.items() if re.search(rf"\b{part}\b", words)), None)
