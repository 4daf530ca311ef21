"""Checkpoints: all that training needs to go on as if it had never stopped.

A checkpoint is a directory `step-00000100` with the weights, the optimizer's moments and the random generators'
state (safetensors), and `state.json` with the rest. It is written under another name, flushed to disk, then renamed:
a kill leaves the last one whole. The two newest are kept; a damaged one is passed over for the one before it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import fsync_directory, read_json, remove, sha256_file, write_json
from ..model.files import WEIGHTS_FILE, load_tensors, save_tensors

log = logging.getLogger(__name__)

N_KEPT = 2
TRAINING_FILE, STATE_FILE = "training.safetensors", "state.json"
CPU_GENERATOR, CUDA_GENERATOR = "random.cpu", "random.cuda"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, in memory."""

    model: dict[str, Tensor]
    training: dict[str, Tensor]
    state: dict[str, Any]
    """Plain values, such as `step`."""


def save_checkpoint(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes a checkpoint of `state["step"]` into `directory` and removes the oldest ones."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"step-{state['step']:08d}"
    for left_by_a_kill in directory.glob(".step-*"):
        remove(left_by_a_kill)
    temporary = directory / f".{final.name}"
    temporary.mkdir()
    save_tensors(dict(model.state_dict()), temporary / WEIGHTS_FILE)
    save_tensors(optimizer_tensors(model, optimizer) | generator_tensors(), temporary / TRAINING_FILE)
    hashes = {name: sha256_file(temporary / name) for name in (WEIGHTS_FILE, TRAINING_FILE)}
    write_json(temporary / STATE_FILE, {"files": hashes, "state": state})
    remove(final)
    temporary.rename(final)
    fsync_directory(directory)
    for path in _newest_first(directory)[N_KEPT:]:
        remove(path)


def load_newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a directory, or None."""
    for path in _newest_first(directory):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning("checkpoint %s is passed over: %s", path.name, error)
    return None


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts weights, moments and random generators back."""
    model.load_state_dict(checkpoint.model)
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in checkpoint.training.items()
            if key.startswith(prefix)
        }
    torch.set_rng_state(checkpoint.training[CPU_GENERATOR])
    if CUDA_GENERATOR in checkpoint.training and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.training[CUDA_GENERATOR])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state (AdamW: `exp_avg`, `exp_avg_sq`, `step`) under the names of the weights it belongs to."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def generator_tensors() -> dict[str, Tensor]:
    """The state of torch's random generators (dropout draws from them)."""
    tensors = {CPU_GENERATOR: torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[CUDA_GENERATOR] = torch.cuda.get_rng_state()
    return tensors


def _load(path: Path) -> Checkpoint:
    content = read_json(path / STATE_FILE)
    for name, expected in content["files"].items():
        if sha256_file(path / name) != expected:
            raise OSError(f"{path / name} is damaged")
    return Checkpoint(load_tensors(path / WEIGHTS_FILE), load_tensors(path / TRAINING_FILE), content["state"])


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"), reverse=True)
