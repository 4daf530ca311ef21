"""Where and with which numbers to train."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .config import LoopConfig


def choose_device(loop: LoopConfig) -> torch.device:
    """Chooses the device to train on and sets the number of CPU threads; ValueError for a device that is absent."""
    torch.set_num_threads(loop.n_threads or n_cores())
    has_cuda = torch.cuda.is_available()
    if loop.device == "cuda" and not has_cuda:
        raise ValueError("device is 'cuda', but PyTorch finds no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if has_cuda and loop.device != "cpu" else "cpu")


def choose_dtype(loop: LoopConfig, device: torch.device) -> torch.dtype:
    """Returns number format of matrix products; without hardware for it, bfloat16 on a CPU is many times slower."""
    if loop.precision == "auto":
        is_fast = device.type == "cuda" or has_fast_bfloat16(Path("/proc/cpuinfo"))
        return torch.bfloat16 if is_fast else torch.float32
    return torch.bfloat16 if loop.precision == "bfloat16" else torch.float32


def has_fast_bfloat16(cpuinfo: Path) -> bool:
    """Returns whether this CPU multiplies matrices of bfloat16 (AVX512_BF16, AMX), as /proc/cpuinfo lists it."""
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def n_cores() -> int:
    """Counts CPU cores that this process may use; torch counts a core with two hardware threads once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(torch.get_num_threads(), allowed)
