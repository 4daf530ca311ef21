"""A model as files: `model.safetensors` (weights) and `config.json` (shape, and how it was trained)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import from_dict
from ..files import atomic_path, read_json, write_json
from .gpt import GPT, GPTConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_model(model: GPT, directory: Path, training: dict[str, Any]) -> None:
    """Writes weights and config into an existing directory; the same weights always give the same bytes.

    `training` is kept in the config as it is: plain values, no times and no paths.
    """
    save_tensors(dict(model.state_dict()), directory / WEIGHTS_FILE)
    write_json(directory / CONFIG_FILE, {"model": dataclasses.asdict(model.config), "training": training})


def load_model(directory: Path, device: str | torch.device = "cpu") -> GPT:
    """Returns the model of a directory, in evaluation mode (no dropout).

    Raises ValueError when weights and config do not belong together, OSError when a file is missing or damaged.
    """
    config = from_dict(GPTConfig, read_json(directory / CONFIG_FILE)["model"])
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        model = GPT(config)
    tensors = load_tensors(directory / WEIGHTS_FILE)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{directory}: {WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error
    return model.to(device).eval()


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes named tensors atomically, in an order that depends on names and types only; OSError when it cannot."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(on_cpu, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path.name} cannot be written: {error}") from error
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the named tensors of a file, on the CPU; raises OSError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors has an exception class of its own for each kind of damage
        raise OSError(f"{path} is damaged: {error}") from error
