"""A model as files: `model.safetensors` (weights) and `config.json` (shape, and how it was trained)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..config import from_dict
from ..files import atomic_path, write_json
from .bounds import read_object, require_weights, tensor_names
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
    """Loads the language model of a directory, in evaluation mode (no dropout).

    Raises ValueError when weights and config do not belong together, OSError when a file is missing or damaged.
    """
    config = read_shape(directory)
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        model = GPT(config)
    return load_weights(model, directory).to(device).eval()


def read_shape(directory: Path) -> GPTConfig:
    """Returns the shape of the model of a directory; raises as `load_model` does, before it needs time or memory."""
    path = directory / CONFIG_FILE
    try:
        config = from_dict(GPTConfig, read_object(path)["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no config of a model of ours: {error!r}") from error
    weights = directory / WEIGHTS_FILE
    try:
        require_weights(config, [weights])
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    return config


M = TypeVar("M", bound=nn.Module)


def load_weights(model: M, directory: Path) -> M:
    """Gives a model, which may be on the meta device, the weights of a directory; raises as `load_model` does."""
    try:
        model.load_state_dict(load_tensors(directory / WEIGHTS_FILE), assign=True)
    except RuntimeError as error:
        raise ValueError(f"{directory}: {WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error
    return model


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Writes named tensors atomically, in an order that depends on names and types only; OSError when it cannot."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(on_cpu, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path.name} cannot be written: {error}") from error
        temporary.chmod(mode)  # safetensors makes files that only their owner can read, whatever the umask says


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads the named tensors of a file, on the CPU; raises OSError when it is missing or damaged."""
    tensor_names(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an exception class of its own for each kind of damage
        raise OSError(f"{path} is damaged: {error}") from error
