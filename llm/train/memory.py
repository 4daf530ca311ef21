"""Whether a training fits into memory, said before it starts: a machine that runs out of it kills without a word."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..model.gpt import MAX_LENGTH_OF_PLAIN_ATTENTION
from ..model.head import rows_at_once
from ..model.presets import PRESETS
from ..model.shape import GPTConfig
from ..model.size import Passes, n_params, state_bytes, training_memory_bytes
from .parallel import World

MEMINFO, CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of control groups, version 2 and 1: the limit of a container, and what is taken of it."""


def require_memory(
    model: GPTConfig, micro_batch_size: int, world: World, dtype: torch.dtype, *, muon: bool = False
) -> None:
    """Raises ValueError when training a model takes more memory than there is, saying what would fit."""
    there = available_bytes(world.device)
    needed = needed_bytes(model, micro_batch_size, world, dtype, muon=muon)
    if there is None or needed <= there:
        return
    least = needed_bytes(model, 1, world, dtype, muon=muon)
    if least <= there:
        sizes = range(1, micro_batch_size)
        fits = max(n for n in sizes if needed_bytes(model, n, world, dtype, muon=muon) <= there)
        remedy = f"set loop.micro_batch_size to {fits} instead of {micro_batch_size}"
    else:
        remedy = f"one sequence at a time would still take {gigabytes(least)}, so {smaller(model, world, dtype, there)}"
    raise ValueError(
        f"training {n_params(model):,} parameters takes about {gigabytes(needed)} of memory in each process, of which "
        f"weights, gradients and moments are {gigabytes(state_bytes(model, muon=muon))}, and {gigabytes(there)} are "
        f"free: {remedy}"
    )


def needed_bytes(model: GPTConfig, micro_batch_size: int, world: World, dtype: torch.dtype, *, muon: bool) -> int:
    """Returns an estimate of what one process of a training takes. With fsdp each holds a part of the state."""
    passes = Passes(
        micro_batch_size=micro_batch_size,
        bfloat16=dtype == torch.bfloat16,
        plain_attention=world.device.type == "cpu" and model.context_length <= MAX_LENGTH_OF_PLAIN_ATTENTION,
        head_rows=rows_at_once(world.device, model.vocab_size),
        recompute=world.config.recompute,
        muon=muon,
    )
    whole = training_memory_bytes(model, passes)
    is_sharded = world.size > 1 and world.config.strategy == "fsdp"
    return whole - (state_bytes(model, muon=muon) * (world.size - 1) // world.size if is_sharded else 0)


def smaller(model: GPTConfig, world: World, dtype: torch.dtype, there: int) -> str:
    """Names the largest size that fits, with the vocabulary and context of a model that does not."""
    kept = {"vocab_size": model.vocab_size, "context_length": model.context_length}
    sizes = {name: GPTConfig.preset(name, **kept) for name in PRESETS}
    fitting = {
        name: needed
        for name, size in sizes.items()
        if (needed := needed_bytes(size, 1, world, dtype, muon=False)) <= there
    }
    if not fitting:
        return "no model.size fits here with this vocabulary and context length"
    return f"choose a smaller model; model.size {max(fitting, key=lambda name: fitting[name])} fits"


def available_bytes(device: torch.device) -> int | None:
    """Returns the bytes that one process may still take on a device; None where the system does not say it.

    On a CPU processes of the same machine share it, and a container's limit counts.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    there = [value for value in (system_bytes(MEMINFO), container_bytes(CGROUPS)) if value is not None]
    return min(there) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if there else None


def system_bytes(meminfo: Path) -> int | None:
    """Returns what Linux says that programs can still take without swapping; None elsewhere."""
    if not meminfo.exists():
        return None
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def container_bytes(cgroups: Path) -> int | None:
    """Returns what is left of the memory that this container may take; None without a limit.

    Pages of files that the kernel can drop at any time count as taken there, so they are taken off.
    """
    for limit_name, taken_name in LIMITS:
        limit, taken = cgroups / limit_name, cgroups / taken_name
        if limit.exists() and taken.exists() and limit.read_text().strip() != "max":
            return int(limit.read_text()) - int(taken.read_text()) + droppable_bytes(taken.with_name("memory.stat"))
    return None


def droppable_bytes(stat: Path) -> int:
    """Returns bytes of file pages that have not been used for a while, of a control group's `memory.stat`."""
    values = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))  # with those of groups inside it


def gigabytes(n_bytes: int) -> str:
    """Returns `21.3 GB`."""
    return f"{n_bytes / 1e9:.1f} GB"
