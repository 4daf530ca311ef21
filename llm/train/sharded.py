"""Checkpoints of processes that train together, by torch.distributed.checkpoint: each process writes its own part.

The files are safetensors too, so nothing is unpickled: a part's header says where in the whole tensor it belongs, and
tensors that all processes hold are written by one of them. Any number of processes can read them, and files of whole
tensors in the same way: each takes what it needs.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


def write_sharded(tensors: dict[str, Tensor], directory: Path) -> None:
    """Writes named tensors into a directory that exists; all processes of the world must call it.

    Raises OSError in all of them when one cannot write.
    """
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise OSError(f"{directory} cannot be written: {first_failure(error)}") from error


def stored_shapes(directory: Path) -> dict[str, Tensor]:
    """Returns the names of the tensors that a directory holds, each with a tensor of its shape without memory."""
    stored = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    sizes = {name: entry.size for name, entry in stored.items() if isinstance(entry, TensorStorageMetadata)}
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


@torch.no_grad()
def read_sharded(tensors: dict[str, Tensor], directory: Path) -> None:
    """Copies what a directory holds into `tensors`, each process its own part; all of them must call it.

    Raises OSError in all processes when one cannot read.
    """
    reader = HuggingFaceStorageReader(str(directory))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*in a single process")  # it is, where a process trains alone
            load(dict(tensors), storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise OSError(f"{directory} cannot be read: {first_failure(error)}") from error


def first_failure(error: CheckpointException) -> str:
    """Returns what went wrong in the first of the processes that failed."""
    rank, (failure, _) = min(error.failures.items())
    return f"process {rank}: {failure}"
