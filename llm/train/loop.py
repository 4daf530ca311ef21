"""The training loop. Pretraining and fine-tuning differ in their sequences, not in the loop.

A step: take the next sequences, add up gradients over micro-batches, clip them, set the learning rate, update. On the
way: held-out loss, samples, checkpoints. Everything that decides the outcome is a function of seed and step or is in
the checkpoint, so a run that was killed and resumed makes the same bytes as one that was not (on a CPU, with the same
number of threads).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.generate import generate
from ..model.gpt import GPT
from ..process import MetricsLog, Stopped
from ..tokenizer import Tokenizer
from .checkpoint import load_newest_checkpoint, restore, save_checkpoint
from .config import LoopConfig, OptimizerConfig
from .loader import Batch, Sequences, evenly_spaced, step_rows
from .loss import Objective
from .optimizer import learning_rate, make_optimizer, set_learning_rate
from .parallel import World, accumulate, clip_gradients, distribute

log = logging.getLogger(__name__)

MAX_SECONDS_BETWEEN_LINES = 1.0


@dataclass(frozen=True)
class Course:
    """What is trained on, for how long, and how."""

    train: Sequences
    val: Sequences
    n_steps: int
    batch_size: int
    """Sequences in a step."""
    optimizer: OptimizerConfig
    loop: LoopConfig
    dtype: torch.dtype
    """Of matrix products: float32 or bfloat16; weights, gradients and moments are float32 always."""
    prompts: Sequence[list[int]]
    """Tokens that samples go on from."""
    identity: dict[str, Any]
    """Plain values that decide the result; a checkpoint of a run with other ones is refused."""


@dataclass
class Progress:
    """Where a run stands; kept in its checkpoints."""

    step: int = 0
    """Updates done."""
    n_tokens: int = 0
    """Supervised tokens seen."""
    loss: float | None = None
    """Loss of the last step, in nats per supervised token."""
    val_loss: float | None = None
    val_bpb: float | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "prompt", "text"}` of each sample so far."""

    def figures(self) -> dict[str, float]:
        """The numbers of a finished run that depend on nothing but its config and inputs."""
        values = {
            "n_steps": self.step,
            "final_loss": self.loss,
            "val_loss": self.val_loss,
            "val_bpb": self.val_bpb,
        }
        return {name: value for name, value in values.items() if value is not None}


class Trainer:
    """Trains a model along a course, keeping checkpoints and `metrics.jsonl` in a work directory."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, course: Course, work_dir: Path, world: World | None = None
    ) -> None:
        """Takes over the newest checkpoint in `work_dir`, if there is one.

        Raises ValueError when that checkpoint belongs to a run with another identity.
        """
        self.model, self.tokenizer, self.course = model, tokenizer, course
        self.device = model.token_embedding.weight.device
        self.world = world or World(self.device)
        self.objective = distribute(Objective(model, course.dtype), self.world)
        self.token_n_bytes = torch.from_numpy(tokenizer.token_n_bytes())  # (V,) int32
        self.optimizer = make_optimizer(model, course.optimizer)
        self.work_dir, self.checkpoints = work_dir, work_dir / "checkpoints"
        self.progress = Progress()
        self.pending: list[tuple[float, int, Tensor, Tensor]] = []
        self.is_new = not self.resume()
        self.line_time, self.line_tokens = time.monotonic(), 0

    def resume(self) -> bool:
        """Loads the newest checkpoint; False when there is none."""
        checkpoint = load_newest_checkpoint(self.checkpoints)
        if checkpoint is None:
            return False
        require_same_identity(checkpoint.state["identity"], self.course.identity, self.checkpoints)
        restore(checkpoint, self.model, self.optimizer)
        self.progress = Progress(**checkpoint.state["progress"])
        log.info("going on from step %d of %d", self.progress.step, self.course.n_steps)
        return True

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Progress:
        """Trains to the end. When `should_stop` says so, saves a checkpoint and raises `Stopped`.

        Raises ValueError when training diverges.
        """
        keep_until_step = -1 if self.is_new else self.progress.step
        with contextlib.closing(MetricsLog(self.work_dir, keep_until_step=keep_until_step)) as self.metrics:
            if self.is_new:
                self.measure()
            self.go_on(should_stop)
        return self.progress

    def go_on(self, should_stop: Callable[[], bool]) -> None:
        """The steps that are left, with what is due between them."""
        n_steps, loop = self.course.n_steps, self.course.loop
        self.model.train()
        while self.progress.step < n_steps:
            if should_stop():
                self.save()
                raise Stopped(f"stopped at step {self.progress.step} of {n_steps}")
            self.step()
            step = self.progress.step
            is_last = step == n_steps
            if step % loop.log_every == 0 or time.monotonic() - self.line_time >= MAX_SECONDS_BETWEEN_LINES:
                self.write_lines()
            if step % loop.eval_every == 0 or is_last:
                self.measure()
            if step % loop.checkpoint_every == 0 or is_last:
                self.save()

    def step(self) -> None:
        """One update. The loss is that of all supervised tokens of the step, however they fall into micro-batches."""
        course, progress = self.course, self.progress
        rate = learning_rate(progress.step, course.n_steps, course.optimizer)
        set_learning_rate(self.optimizer, rate)
        rows = step_rows(len(course.train), course.batch_size, progress.step, course.loop.seed)
        batches = list(course.train.batches(self.world.share(rows), course.loop.micro_batch_size))
        n_tokens = int(self.world.total(torch.tensor(sum(batch.n_learned for batch in batches))))
        loss = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, start=1):
            with accumulate(self.objective, is_last=number == len(batches)):
                part = self.nll(batch) / n_tokens
                part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        loss = self.world.total(loss)
        norm = clip_gradients(self.model.parameters(), course.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.n_tokens += n_tokens
        self.line_tokens += n_tokens
        self.pending.append((rate, progress.step, loss, norm))

    def nll(self, batch: Batch) -> Tensor:
        """Sum of -log p over the targets to learn, in nats; float32 scalar."""
        positions, targets = batch.learned()
        is_all = len(positions) == batch.targets.numel()
        places = None if is_all else positions.to(self.device)
        return self.objective(batch.inputs.to(self.device), places, targets.to(self.device))

    def write_lines(self) -> None:
        """Writes a line for each step since the last call: the only place where the loop waits for the device."""
        if not self.pending:
            return
        values = torch.stack([torch.stack((loss, norm)) for _, _, loss, norm in self.pending]).tolist()
        now = time.monotonic()
        tokens_per_s = self.line_tokens / max(now - self.line_time, 1e-9)
        for (rate, step, _, _), (loss, norm) in zip(self.pending, values, strict=True):
            self.require_finite(step, loss=loss, grad_norm=norm)
            speed = {"tokens_per_s": round(tokens_per_s, 1)} if step == self.progress.step else {}
            self.metrics.write(step, of=self.course.n_steps, loss=loss, grad_norm=norm, learning_rate=rate, **speed)
            self.progress.loss = loss
        self.pending.clear()
        self.line_time, self.line_tokens = now, 0

    def require_finite(self, step: int, **values: float) -> None:
        """Raises ValueError with a remedy when training has diverged."""
        if not all(math.isfinite(value) for value in values.values()):
            named = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ValueError(
                f"training has diverged at step {step} ({named}): lower optimizer.learning_rate, "
                f"which is {self.course.optimizer.learning_rate:g}, or raise optimizer.warmup_steps"
            )

    def measure(self) -> None:
        """Held-out loss, bits per byte and samples, at this step."""
        self.write_lines()
        progress, val = self.progress, self.course.val
        self.model.eval()
        rows = evenly_spaced(len(val), self.course.loop.n_eval_sequences)
        val_loss, val_bpb = self.held_out(val.batches(rows, self.course.loop.micro_batch_size))
        self.require_finite(progress.step, val_loss=val_loss)
        self.metrics.write(progress.step, of=self.course.n_steps, val_loss=val_loss, val_bpb=val_bpb)
        progress.val_loss, progress.val_bpb = val_loss, val_bpb
        if self.course.loop.n_sample_tokens:
            progress.samples += [self.sample(prompt) for prompt in self.course.prompts]
        self.model.train()
        self.line_time = time.monotonic()

    @torch.no_grad()
    def held_out(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Loss in nats per supervised token, and bits per UTF-8 byte of the text that those tokens stand for.

        Special tokens stand for no byte, but what they cost counts.
        """
        nll, n_tokens, n_bytes = 0.0, 0, 0
        for batch in batches:
            nll += self.nll(batch).item()
            _, targets = batch.learned()
            n_tokens += len(targets)
            n_bytes += int(self.token_n_bytes[targets].sum())
        return nll / n_tokens, nll / math.log(2) / max(1, n_bytes)

    def sample(self, prompt: list[int]) -> dict[str, Any]:
        """A text that goes on from `prompt`, drawn with a seed made of the run's seed and the step."""
        seed = int(np.random.SeedSequence((self.course.loop.seed, self.progress.step)).generate_state(1)[0])
        new = generate(
            self.model,
            prompt,
            max_new_tokens=self.course.loop.n_sample_tokens,
            stop=(self.tokenizer.end_token, self.tokenizer.document_token),
            seed=seed,
        )
        text = self.tokenizer.decode(list(new))
        return {"step": self.progress.step, "prompt": self.tokenizer.decode(prompt), "text": text}

    def save(self) -> None:
        """Writes a checkpoint of this step."""
        self.write_lines()  # first, so that a model that has diverged is never saved
        state = {
            "step": self.progress.step,
            "progress": asdict(self.progress),
            "identity": self.course.identity,
        }
        save_checkpoint(self.checkpoints, self.model, self.optimizer, state)


def require_same_identity(found: dict[str, Any], wanted: dict[str, Any], checkpoints: Path) -> None:
    """Raises ValueError that names what differs between the run of a checkpoint and this one."""
    differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {found.get(name)} then, {wanted.get(name)} now" for name in differing)
        raise ValueError(f"{checkpoints} belongs to another run ({changes}); use another work directory or remove it")
