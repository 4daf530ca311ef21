"""Checkpoints: all that training needs to go on as if it had never stopped.

A checkpoint is a directory `step-00000100` with the weights, the optimizer's state and the random generators' state
(safetensors), and `state.json` with the rest and the hash of each file. It is written under another name, flushed to
disk, then renamed: a kill leaves the last one whole. A damaged one is skipped for the one before it.

Where processes train together, each writes its part of the tensors (sharded.py), and the first does the rest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import fsync_directory, read_sealed, remove, sha256_file, write_sealed
from ..model.files import WEIGHTS_FILE, load_tensors, save_tensors
from ..process import ProcessLost
from .optimizer import Optimizer
from .parallel import World

log = logging.getLogger(__name__)

TRAINING_FILE, STATE_FILE = "training.safetensors", "state.json"
DAMAGE = (OSError, ValueError, KeyError, TypeError)
"""What reading a damaged checkpoint raises."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    state: dict[str, Any]
    """Plain values, such as `step`."""
    world_size: int
    """Number of processes that wrote it."""
    hashes: dict[str, str]
    """SHA-256 of its other files, by name."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, world: World, *, n_kept: int = 2, in_background: bool = False) -> None:
        """Keeps the `n_kept` newest in `directory`.

        `in_background`: tensors are copied, and a thread writes them while training goes on. What went wrong there is
        raised by the next call. Processes that train together write in the foreground always.
        """
        self.directory, self.world, self.n_kept = directory, world, n_kept
        self.writer = ThreadPoolExecutor(1) if in_background and world.size == 1 else None
        self.pending: Future[None] | None = None
        self.copies: dict[str, Tensor] = {}

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any], *, retained: Collection[int] = ()) -> None:
        """Writes a checkpoint of `state["step"]`, then removes the oldest ones but for those of the steps `retained`.

        Raises OSError when the disk is full; nothing half-written stays, and the checkpoints before are as they were.
        """
        self.finish()
        tensors = tensors | generator_tensors(self.world.rank)
        if self.writer is None:
            self._write(tensors, state, retained)
        else:
            self.pending = self.writer.submit(self._write, self._copied(tensors), state, retained)

    def finish(self) -> None:
        """Waits until the last checkpoint is on disk."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def newest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint, or None; all processes get the same."""
        found = self._newest_whole() if self.world.is_first else None
        step = self.world.from_first(-1 if found is None else found.state["step"])
        return None if step < 0 else found or self._read_state(self._path(step))

    def of_step(self, step: int) -> Checkpoint:
        """Returns the checkpoint of a step.

        Raises ProcessLost when it is missing or damaged, after removing it and those after it, which need it: another
        try takes the one before it.
        """
        self.finish()
        path = self._path(step)
        try:
            return self._whole(path) if self.world.is_first else self._read_state(path)
        except DAMAGE as error:
            if self.world.is_first:
                self._remove_from(step)
            raise ProcessLost(f"{path} is damaged ({error}), and the checkpoint before it is taken") from error

    def read(self, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> bool:
        """Copies a checkpoint's values into `tensors` and, if as many processes wrote it, into the random generators.

        Returns whether the generators were set. Raises ValueError when the tensors are those of another model.
        """
        generators = generator_tensors(self.world.rank) if checkpoint.world_size == self.world.size else {}
        wanted = tensors | generators
        if self.world.size == 1 and (checkpoint.path / WEIGHTS_FILE).exists():
            read_plain(wanted, checkpoint.path)
        else:
            from .sharded import read_sharded, stored_shapes  # these modules of torch are loaded only where used

            shapes = stored_shapes(checkpoint.path)
            require_same_tensors(shapes, wanted, checkpoint.path)
            read_sharded({name: tensor for name, tensor in wanted.items() if name in shapes}, checkpoint.path)
        set_generators(generators, self.world.rank)
        return bool(generators)

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps."""
        self.finish()
        if self.world.is_first:
            self._remove_from(step + 1)
        self.world.wait()

    def _remove_from(self, step: int) -> None:
        for path in self._newest_first():
            if step_of(path) >= step:
                remove(path)

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors as they are now, in memory of the CPU that is used again each time."""
        for name, tensor in tensors.items():
            if name not in self.copies:
                self.copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self.copies[name].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {name: self.copies[name] for name in tensors}

    def _write(self, tensors: dict[str, Tensor], state: dict[str, Any], retained: Collection[int]) -> None:
        final = self._path(state["step"])
        temporary = final.with_name(f".{final.name}")
        failure: OSError | None = None
        try:
            self._write_tensors(tensors, temporary)
            if self.world.is_first:
                self._complete(temporary, final, state)
        except OSError as error:
            failure = error
        if self.world.any(failure is not None):
            if self.world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise self._explained(failure, tensors) from failure
        if self.world.is_first:
            self._rotate(retained)

    def _write_tensors(self, tensors: dict[str, Tensor], directory: Path) -> None:
        if self.world.is_first:
            self.directory.mkdir(parents=True, exist_ok=True)
            for left_by_a_kill in self.directory.glob(".step-*"):
                remove(left_by_a_kill)
            directory.mkdir()
        if self.world.size == 1:
            write_plain(tensors, directory)
        else:
            from .sharded import write_sharded  # these modules of torch are loaded only where used

            self.world.wait()  # for the directory
            write_sharded(tensors, directory)

    def _complete(self, temporary: Path, final: Path, state: dict[str, Any]) -> None:
        """Adds the hashes and the state to the tensors' files, and gives the checkpoint its name."""
        hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        content = {"files": hashes, "state": state, "world_size": self.world.size}
        write_sealed(temporary / STATE_FILE, content)
        if final.exists():  # of a run that stopped at this step and went on
            final.rename(final.with_name(f".{final.name}.old"))
        temporary.rename(final)
        fsync_directory(self.directory)

    def _rotate(self, retained: Collection[int]) -> None:
        for path in self._newest_first()[self.n_kept :]:
            if step_of(path) not in retained:
                remove(path)
        for path in self.directory.glob(".step-*"):
            remove(path)

    def _explained(self, failure: OSError | None, tensors: dict[str, Tensor]) -> OSError:
        n_bytes = sum(tensor.nbytes for tensor in tensors.values())
        free = shutil.disk_usage(self.directory.parent).free
        kept = self._newest_first()
        before = (
            f"{kept[0].name} is whole, and a run started again goes on from it" if kept else "there is none before it"
        )
        return OSError(
            f"no checkpoint could be written in {self.directory}: {failure or 'another process failed'}. It takes "
            f"{n_bytes / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; {before}"
        )

    def _newest_whole(self) -> Checkpoint | None:
        for path in self._newest_first():
            try:
                return self._whole(path)
            except DAMAGE as error:
                log.warning("checkpoint %s is skipped: %s", path.name, error)
        return None

    def _whole(self, path: Path) -> Checkpoint:
        """Returns a checkpoint whose files have the hashes they were written with; raises OSError when one has not."""
        checkpoint = self._read_state(path)
        for name, expected in checkpoint.hashes.items():
            if sha256_file(path / name) != expected:
                raise OSError(f"{path / name} is damaged")
        return checkpoint

    def _read_state(self, path: Path) -> Checkpoint:
        content = read_sealed(path / STATE_FILE)
        return Checkpoint(path, content["state"], content["world_size"], content["files"])

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def _newest_first(self) -> list[Path]:
        return sorted(self.directory.glob("step-[0-9]*"), key=step_of, reverse=True)


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns all tensors that a run changes, no copies: weights by their names, without frozen ones, and
    `optimizer.<weight>.<key>`."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    return weights | optimizer.tensors()


def generator_tensors(rank: int) -> dict[str, Tensor]:
    """Returns the state of this process's random generators (dropout draws from them)."""
    tensors = {f"random.{rank}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[f"random.{rank}.cuda"] = torch.cuda.get_rng_state()
    return tensors


def set_generators(tensors: dict[str, Tensor], rank: int) -> None:
    """Puts back what `generator_tensors` gave."""
    if tensors:
        torch.set_rng_state(tensors[f"random.{rank}.cpu"])
    if f"random.{rank}.cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"random.{rank}.cuda"])


def write_plain(tensors: dict[str, Tensor], directory: Path) -> None:
    """Writes weights, and all the other tensors, as two files."""
    others = {name: tensor for name, tensor in tensors.items() if name.startswith(("optimizer.", "random."))}
    weights = {name: tensor for name, tensor in tensors.items() if name not in others}
    save_tensors(weights, directory / WEIGHTS_FILE)
    save_tensors(others, directory / TRAINING_FILE)


@torch.no_grad()
def read_plain(tensors: dict[str, Tensor], directory: Path) -> None:
    """Copies what `write_plain` wrote into `tensors`; raises ValueError when names or shapes differ."""
    found = load_tensors(directory / WEIGHTS_FILE) | load_tensors(directory / TRAINING_FILE)
    require_same_tensors(found, tensors, directory)
    for name, tensor in tensors.items():
        if name in found:  # a generator may be missing: that of a GPU, if there was none
            tensor.copy_(found[name])


def require_same_tensors(found: Mapping[str, Tensor], wanted: dict[str, Tensor], directory: Path) -> None:
    """Raises ValueError that names a tensor which a checkpoint lacks, has too much, or in another shape."""
    names = sorted(name for name in found.keys() | wanted.keys() if not name.startswith("random."))
    for name in names:
        shapes = [tuple(of[name].shape) if name in of else "absent" for of in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{directory} is a checkpoint of another model or optimizer: {name} is {shapes[0]} there and "
                f"{shapes[1]} here; use another work directory or remove it"
            )


def step_of(path: Path) -> int:
    """Returns the step that a checkpoint's directory is named after."""
    return int(path.name.removeprefix("step-"))
