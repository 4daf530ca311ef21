"""What all methods share that begin with a trained model: taking it over, training it, leaving a new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..files import sha256_file
from ..model.files import WEIGHTS_FILE, load_model
from ..model.gpt import GPT
from ..tokenizer import TOKENIZER_FILE, Tokenizer
from .artifact import write_model_artifact
from .config import LoopConfig, OptimizerConfig, result_settings
from .device import choose_dtype
from .loader import files_digest
from .loop import Course, Trainer
from .memory import require_memory
from .parallel import World, whole_model
from .progress import Progress


@dataclass(frozen=True)
class Start:
    """A trained model with its tokenizer, and the processes that train it further."""

    model_dir: Path
    model: GPT
    tokenizer: Tokenizer
    world: World
    dtype: torch.dtype

    @classmethod
    def of(cls, model_dir: Path, loop: LoopConfig, optimizer: OptimizerConfig, n_rows: int) -> Start:
        """Loads the model; ValueError when there is too little memory to train it on `n_rows` sequences at once."""
        world = World.join(loop)
        model, dtype = without_dropout(load_model(model_dir, world.device)), choose_dtype(loop, world.device)
        require_memory(model.config, n_rows, world, dtype, muon=optimizer.kind == "muon")
        return cls(model_dir, model, Tokenizer.load(model_dir), world, dtype)

    def identity(self, kind: str, data: Sequence[Path], config: Config) -> dict[str, Any]:
        """What decides the result, as plain values; kept in checkpoints and in the model's config."""
        return {
            "kind": kind,
            "base": sha256_file(self.model_dir / WEIGHTS_FILE),
            "tokenizer": sha256_file(self.model_dir / TOKENIZER_FILE),
            "data": files_digest(data),
            **result_settings(config),
            "loop.precision": str(self.dtype)[6:],
        }

    def train(self, course: Course, work_dir: Path, out_dir: Path, should_stop: Callable[[], bool]) -> Progress:
        """Trains the model along a course and writes its artifact, with all that the course's identity says of it."""
        torch.manual_seed(course.loop.seed)
        progress = Trainer(self.model, self.tokenizer, course, work_dir, self.world).run(should_stop)
        finished = whole_model(self.model, self.world)
        if finished is not None:
            write_model_artifact(out_dir, finished, self.model_dir, work_dir, course.identity, progress.samples)
        return progress


def without_dropout(model: GPT) -> GPT:
    """The same weights without dropout: what is learned from here is what the whole model says, not a part of it."""
    with torch.device("meta"):
        copy = GPT(dataclasses.replace(model.config, dropout=0.0))
    copy.load_state_dict(model.state_dict(), assign=True)
    return copy.requires_grad_()


def with_rates(optimizer: OptimizerConfig, **rates: float) -> OptimizerConfig:
    """The settings with those that are null filled in."""
    missing = {name: value for name, value in rates.items() if getattr(optimizer, name) is None}
    return dataclasses.replace(optimizer, **missing)  # type: ignore[arg-type]
