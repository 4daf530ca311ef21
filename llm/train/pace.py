"""How fast a run is: what its metrics say of speed, memory and the time left."""

from __future__ import annotations

import resource
import sys
import time

import torch

from .throughput import peak_flops

TIMED_FIELDS = ("tokens_per_s", "mfu", "memory_bytes", "seconds_left")
"""Fields of metric lines that differ from run to run."""


class Pace:
    """A stopwatch along a run."""

    def __init__(self, device: torch.device, n_steps: int, flops_per_token: float) -> None:
        """`flops_per_token` as llm/model/size.py counts them; the whole run has `n_steps`."""
        self.device, self.n_steps, self.flops_per_token = device, n_steps, flops_per_token
        self.peak_flops = peak_flops(device)
        self.first: tuple[float, int] | None = None
        self.n_tokens = 0
        self.resume()

    def resume(self) -> None:
        """Leaves the time since the last line out of the speed: it went into something else than steps."""
        self.line_time, self.n_tokens = time.monotonic(), 0

    def count(self, n_tokens: int) -> None:
        """Takes note of the tokens of a step, those of all processes."""
        self.n_tokens += n_tokens

    @property
    def seconds(self) -> float:
        """Time since the last line."""
        return time.monotonic() - self.line_time

    def figures(self, step: int, n_processes: int) -> dict[str, float]:
        """The fields of a line at `step`: speed since the last line, and the time that is left at the run's pace.

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
    """Most memory taken so far: of the GPU by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
