"""Code made for this machine out of a training step, by torch.compile (Ansel et al. 2024).

It joins operations that pass over the same numbers, which on a CPU are a third of a small model's step. Making it takes
some 20 seconds, and two when the code of an earlier run is there (`sharing_code`), so it is for runs longer than that.
Only the step is compiled: what is measured and generated on the way runs as it is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional as F

from ..files import lock_at_once, read_sealed, remove, sha256_file, write_sealed
from ..model.shape import GPTConfig
from ..model.size import flops_per_token
from .config import LoopConfig
from .loader import IGNORED, Batch
from .loss import Objective

log = logging.getLogger(__name__)

LEAST_SECONDS = 60.0
"""Of a training on a CPU that is worth compiling."""
NOMINAL_FLOPS_PER_SECOND = 2e11
"""Of two CPU cores. Not measured, so that a run takes the same decision each time it is started."""


def choose_compile(loop: LoopConfig, device: torch.device, seconds_estimate: float) -> bool:
    """Returns whether to compile a training that takes about `seconds_estimate`.

    Raises ValueError when the settings ask for what does not work.
    """
    is_sharded = loop.parallel.strategy != "ddp"
    if loop.compile and is_sharded:
        raise ValueError(
            f"loop.compile is true, but parallel.strategy is {loop.parallel.strategy!r}, which is not compiled: "
            "leave it out, or use 'ddp'"
        )
    if loop.compile is not None or is_sharded:
        return bool(loop.compile)
    return device.type == "cuda" or (has_compiler() and seconds_estimate > LEAST_SECONDS)


def has_compiler() -> bool:
    """Returns whether there is a C++ compiler, in $CXX or under the names that torch looks for."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def rough_seconds(model: GPTConfig, n_tokens: int) -> float:
    """Returns how long training on `n_tokens` takes on two CPU cores, roughly."""
    return n_tokens * flops_per_token(model) / NOMINAL_FLOPS_PER_SECOND


def keep_code_in(directory: Path) -> None:
    """Lets compiled code be kept in a directory and taken from there; call it before anything is compiled."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(directory)


@contextlib.contextmanager
def sharing_code(directory: Path, private: Path) -> Iterator[None]:
    """Keeps compiled code in `directory` for the next run, or in `private` while another process does that.

    What is there is loaded as machine code, which nobody checks then. So a list beside it has the hash of each file
    that a run has left, and what is not as it says, or is of a run that was killed, is removed and made anew.
    """
    directory.mkdir(parents=True, exist_ok=True)
    code, listing = directory / "code", directory / "hashes.json"
    with lock_at_once(directory / "lock") as is_ours:
        keep_code_in(code if is_ours else private)
        if is_ours:
            keep_listed(code, listing)
        try:
            yield
        finally:
            if is_ours:
                write_sealed(listing, {"files": hashes_of(code)})


def keep_listed(directory: Path, listing: Path) -> None:
    """Removes the files of a directory that have not the hash that a list gives for them."""
    try:
        listed = read_sealed(listing)["files"]
    except FileNotFoundError:
        listed = {}
    except (OSError, ValueError, KeyError) as error:
        log.warning("compiled code is made again: %s cannot be read (%s)", listing, error)
        listed = {}
    for name, found in hashes_of(directory).items():
        if listed.get(name) != found:
            if name in listed:
                log.warning("compiled code is made again: %s is damaged", directory / name)
            remove(directory / name)


def hashes_of(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file below a directory by its name from there, "" of one that cannot be read."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or path.is_file():
            try:
                found[str(path.relative_to(directory))] = sha256_file(path)
            except OSError:
                found[str(path.relative_to(directory))] = ""
    return found


def compiled(objective: Objective) -> Objective:
    """Returns the objective as compiled code, which is made at the first call with a shape of batch.

    On a CPU tanh, which is in GELU, is made of exp, for which there are fast vector instructions: 4 % of a small step.
    There it asks torch, for the whole process, for operations that always give the same bits: else the threads of
    compiled code sum the gradients of the embedding in the order in which they come.
    """
    is_cpu = objective.model.token_embedding.weight.device.type == "cpu"
    options: dict[str, Any] = {"cpp.use_decompose_tanh": True} if is_cpu else {}
    if is_cpu:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return cast(Objective, torch.compile(objective, dynamic=False, options=options))


def compiles(objective: Objective, shapes: Iterable[tuple[int, int]]) -> bool:
    """Returns whether batches of `shapes`, (B, T) each, can be compiled; the code is kept for training.

    Leaves weights and random generators as they are. When it fails it says why in the log.
    """
    device = objective.model.token_embedding.weight.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type=device.type):
            for shape in set(shapes):
                tokens = torch.zeros(shape, dtype=torch.int64, device=device)
                compiled(objective)(Batch(tokens, tokens)).backward()
    except (RuntimeError, OSError) as error:
        log.warning("the training step cannot be compiled here, so it runs as it is written: %s", first_line(error))
        return False
    finally:
        objective.zero_grad(set_to_none=True)
    return True


def first_line(error: Exception) -> str:
    """Returns kind and first line of an error whose message is a compiler's whole output."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def in_one_shape(batch: Batch, width: int) -> Batch:
    """Returns a batch padded to (B, width) tokens, with a target for each, `IGNORED` where nothing is learned.

    Code is made for one shape, so the few batches of short sequences are padded.
    """
    missing = (0, width - batch.inputs.shape[1])
    if not missing[1]:
        return Batch(batch.inputs, batch.targets)
    return Batch(F.pad(batch.inputs, missing), F.pad(batch.targets, missing, value=IGNORED))
