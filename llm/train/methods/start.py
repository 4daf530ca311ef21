"""The beginning and the end of every method: which model is trained, and the files that training leaves."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...config import Config
from ...files import atomic_path, sha256_file, write_text
from ...model.files import WEIGHTS_FILE, load_model, save_model
from ...model.gpt import GPT
from ...process import METRICS_FILE
from ...tokenizer.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from ..config import LoopConfig, OptimizerConfig, result_settings
from ..device import choose_dtype
from ..guard import SKIPPED_FILE
from ..loop import Progress, RunSpec, Trainer
from ..memory import require_memory
from ..parallel import World, whole_model


@dataclass(frozen=True)
class Start:
    """A model with its tokenizer, and the processes that train it."""

    model: GPT
    tokenizer: Tokenizer
    tokenizer_dir: Path
    world: World
    dtype: torch.dtype
    model_dir: Path | None = None
    """Where the model was read from; None: it is fresh."""

    @classmethod
    def of(
        cls, model_dir: Path, loop: LoopConfig, tokenizer_dir: Path | None = None, *, dropout: bool = False
    ) -> Start:
        """Loads a trained model, its tokenizer from `tokenizer_dir` or beside it, and seeds the random generators.

        Without `dropout` the model has none any more: what is learned is what the whole model says, not a part of it.
        """
        world, tokenizer_dir = World.join(loop), tokenizer_dir or model_dir
        model = load_model(model_dir, world.device)
        if not dropout:
            model = without_dropout(model)
        torch.manual_seed(loop.seed)
        dtype = choose_dtype(loop, world.device)
        return cls(model, Tokenizer.load(tokenizer_dir), tokenizer_dir, world, dtype, model_dir)

    def require_memory(self, n_rows: int, optimizer: OptimizerConfig) -> None:
        """Raises ValueError when there is too little memory to train the model on `n_rows` sequences at once."""
        require_memory(self.model.config, n_rows, self.world, self.dtype, muon=optimizer.kind == "muon")

    def identity(self, kind: str, data: str, config: Config) -> dict[str, Any]:
        """Returns what decides the result, as plain values; kept in checkpoints and in the model's config.

        `data` is a hash of what is trained on.
        """
        base = {} if self.model_dir is None else {"base": sha256_file(self.model_dir / WEIGHTS_FILE)}
        return {
            "kind": kind,
            **base,
            "tokenizer": sha256_file(self.tokenizer_dir / TOKENIZER_FILE),
            "data": data,
            **result_settings(config),
            "loop.precision": str(self.dtype)[6:],
        }

    def train(
        self,
        spec: RunSpec,
        work_dir: Path,
        out_dir: Path,
        should_stop: Callable[[], bool],
        before_saving: Callable[[GPT], None] = lambda model: None,
    ) -> Progress:
        """Trains the model and writes its artifact, with all that the spec's identity says of it, into `out_dir`.

        `before_saving` is called with the trained model. Only the bytes of the metrics depend on how fast the run was.
        """
        progress = Trainer(self.model, self.tokenizer, spec, work_dir, self.world).run(should_stop)
        trained = whole_model(self.model, self.world)
        if trained is None:
            return progress
        before_saving(trained)
        save_model(trained, out_dir, spec.identity)
        copies = {TOKENIZER_FILE: self.tokenizer_dir, CONFIG_FILE: self.tokenizer_dir, METRICS_FILE: work_dir}
        for name, folder in copies.items():
            with atomic_path(out_dir / name) as temporary:
                shutil.copyfile(folder / name, temporary)
        write_text(out_dir / "samples.md", samples_page(progress.samples))
        if (work_dir / SKIPPED_FILE).exists():
            write_text(out_dir / SKIPPED_FILE, (work_dir / SKIPPED_FILE).read_text())
        return progress


def without_dropout(model: GPT) -> GPT:
    """Returns a model with the same weights and no dropout."""
    with torch.device("meta"):
        copy = GPT(dataclasses.replace(model.config, dropout=0.0))
    copy.load_state_dict(model.state_dict(), assign=True)
    return copy.requires_grad_()


def samples_page(samples: Sequence[dict[str, Any]]) -> str:
    """Returns samples as Markdown: a heading for each step, then prompt and text as indented blocks."""
    parts = ["# Samples"]
    steps = [None, *(sample["step"] for sample in samples)]
    for before, sample in zip(steps, samples, strict=False):
        if sample["step"] != before:
            parts.append(f"## Step {sample['step']}")
        prompt, text = ("\n".join(f"    {line}" for line in sample[name].splitlines()) for name in ("prompt", "text"))
        parts.append(f"Prompt:\n\n{prompt or '    '}\n\nText:\n\n{text or '    '}")
    return "\n\n".join(parts) + "\n"
