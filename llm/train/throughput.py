"""How fast a run is, and how fast this machine trains a model: tokens and operations per second, memory."""

from __future__ import annotations

import re
import resource
import sys
import time

import torch

from ..model.gpt import GPT, GPTConfig
from ..model.size import flops_per_token
from .compile import compiled
from .config import LoopConfig
from .device import choose_device, choose_dtype
from .loader import Batch
from .loss import Objective

TIMED_FIELDS = ("tokens_per_s", "mfu", "memory_bytes", "seconds_left")
"""Fields of metric lines that differ from run to run."""
N_WARM_UP = 2


def flops_per_second(config: GPTConfig, loop: LoopConfig, seconds: float = 1.0, *, is_compiled: bool = False) -> float:
    """Returns floating-point operations per second over forward and backward passes of one micro-batch, in `seconds`.

    `is_compiled`: of compiled code, which has to be made first. Optimizer, held-out measurements and checkpoints are
    not in it: a whole run is some percent slower.
    """
    device = choose_device(loop)
    dtype = choose_dtype(loop, device)
    objective = Objective(GPT(config).to(device), dtype)
    trained = compiled(objective) if is_compiled else objective
    shape = (loop.micro_batch_size, config.context_length)
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)  # (B, T)
    batch = Batch(tokens, tokens)

    def one_pass() -> None:
        trained(batch).backward()
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
    """Returns the dense bfloat16 operations per second that a device is sold for; None where that is not known.

    What a run reaches of it is its MFU (Chowdhery et al. 2022), with operations counted as `flops_per_token` does.
    """
    return peak_flops_by_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_by_name(name: str) -> float | None:
    """Returns the `peak_flops` of a device as its driver calls it, `NVIDIA A100-SXM4-80GB`."""
    words = name.replace("-", " ")
    return next((peak for part, peak in PEAK_FLOPS.items() if re.search(rf"\b{part}\b", words)), None)


class Throughput:
    """A stopwatch along a run: what its metrics say of speed, memory and the time left."""

    def __init__(self, device: torch.device, n_steps: int, flops_per_token: float) -> None:
        """Takes `flops_per_token` as llm/model/size.py counts them, and the `n_steps` of the whole run."""
        self.device, self.n_steps, self.flops_per_token = device, n_steps, flops_per_token
        self.peak_flops = peak_flops(device)
        self.first: tuple[float, int] | None = None
        self.n_tokens = 0
        self.resume()

    def resume(self) -> None:
        """Leaves the time since the last line out of the speed: it went into something else than steps."""
        self.line_time, self.n_tokens = time.monotonic(), 0

    def count(self, n_tokens: int) -> None:
        """Counts the tokens of a step, those of all processes."""
        self.n_tokens += n_tokens

    @property
    def seconds(self) -> float:
        """Seconds since the last line."""
        return time.monotonic() - self.line_time

    def metrics(self, step: int, n_processes: int) -> dict[str, float]:
        """Returns the fields of a line at `step`: speed since the last line, and the time that is left.

        `mfu` is the share of the device's dense bfloat16 peak that the steps reached, counting 6 N + 12 L d T
        operations a token (Chowdhery et al. 2022); it is absent where the peak is not known. The time left is reckoned
        from all that has happened since this process finished its first step, measurements and checkpoints included.
        """
        now = time.monotonic()
        tokens_per_s = self.n_tokens / max(now - self.line_time, 1e-9)
        found = {"tokens_per_s": round(tokens_per_s, 1), "memory_bytes": memory_bytes(self.device)}
        if self.peak_flops is not None:
            found["mfu"] = round(tokens_per_s * self.flops_per_token / (self.peak_flops * n_processes), 4)
        if self.first is None or self.first[1] > step:  # the beginning, or rolled back
            self.first = now, step
        elif step > self.first[1]:
            found["seconds_left"] = round((now - self.first[0]) / (step - self.first[1]) * (self.n_steps - step), 1)
        self.resume()
        return found


def memory_bytes(device: torch.device) -> int:
    """Returns the most memory taken so far: of the GPU by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
