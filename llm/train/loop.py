"""The training loop. Methods differ in their sequences and their objective, not in the loop.

A step: take the next sequences, accumulate gradients over micro-batches, clip them, set the learning rate, update. On
the way: held-out loss, samples, checkpoints; steps whose loss or gradient is out of all bounds are not learned from
(guard.py). Everything that decides the outcome is a function of seed and step or is in the checkpoint, so a run that
was killed and resumed makes the same bytes as one that was not (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import remove, write_json
from ..model.gpt import GPT
from ..model.size import flops_per_token
from ..process import MetricsLog, Stopped
from ..tokenizer.tokenizer import Tokenizer
from .checkpoint import Checkpoint, Checkpoints, generator_tensors, set_generators, state_tensors
from .compile import compiled, in_one_shape
from .config import LoopConfig, ResolvedOptimizer
from .guard import SKIPPED_FILE, rejection_reason, write_batch
from .loader import Batch, Sequences, StepLoader, evenly_spaced, step_rows
from .loss import Objective
from .measure import continue_text, held_out
from .optimizer import learning_rate, make_optimizer
from .parallel import World, accumulate, clip_gradients, distribute, whole_model
from .throughput import Throughput

log = logging.getLogger(__name__)

MAX_SECONDS_BETWEEN_LINES = 1.0


@dataclass(frozen=True)
class RunSpec:
    """What is trained on, for how long, and how."""

    train: Sequences
    val: Sequences
    n_steps: int
    batch_size: int
    """Sequences in a step."""
    optimizer: ResolvedOptimizer
    loop: LoopConfig
    dtype: torch.dtype
    """Of matrix products: float32 or bfloat16; weights, gradients and moments are float32 always."""
    prompts: Sequence[list[int]]
    """Tokens that samples continue."""
    identity: dict[str, Any]
    """Plain values that decide the result; a checkpoint of a run with other ones is refused."""
    compiled_width: int | None = None
    """Tokens in every sequence of a compiled step; None: the step is not compiled."""
    objective: Callable[[GPT, torch.dtype], Objective] = Objective
    """The loss, and what is measured on held-out sequences."""
    loader: Callable[..., StepLoader] = StepLoader
    """What makes batches out of the training sequences; called as the class is."""


@dataclass
class Progress:
    """Where a run stands; kept in its checkpoints."""

    step: int = 0
    """Steps done, the skipped ones too."""
    n_tokens: int = 0
    """Supervised tokens learned from."""
    loss: float | None = None
    """Loss of the last step that was learned from, in nats per supervised token."""
    val: dict[str, float] = field(default_factory=dict)
    """The last measurement on held-out data: `val_loss`, and what else the method measures."""
    best: dict[str, Any] = field(default_factory=dict)
    """`step` and metrics of the measurement with the lowest held-out loss."""
    measured_step: int = -1
    """The step of the last measurement."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "prompt", "text"}` of each sample so far."""
    recent: list[list[float]] = field(default_factory=list)
    """Loss and gradient norm of the last steps that were learned from."""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """`{"step", "batch", "why"}` of each step that was not."""
    n_skipped_in_a_row: int = 0
    good_step: int = 0
    """The last measured step that no skipped one came right before: where to roll back to."""
    n_rollbacks: int = 0
    n_rollbacks_in_a_row: int = 0
    """Those to the same step."""
    n_batches_ahead: int = 0
    """Step s learns from batch s + n_batches_ahead: a roll-back skips batches."""

    def metrics(self) -> dict[str, float]:
        """Returns the numbers of a finished run that depend on nothing but its config and inputs."""
        values = {
            "n_steps": self.step,
            "final_loss": self.loss,
            **self.val,
            "best_step": self.best.get("step"),
            "best_val_loss": self.best.get("val_loss"),
            "n_skipped": len(self.skipped) or None,
            "n_rollbacks": self.n_rollbacks or None,
        }
        return {name: value for name, value in values.items() if value is not None}


class Trainer:
    """Trains a model as a `RunSpec` says, keeping checkpoints and `metrics.jsonl` in a work directory."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, spec: RunSpec, work_dir: Path, world: World | None = None
    ) -> None:
        """Takes over the newest checkpoint in `work_dir`, if there is one.

        Raises ValueError when that checkpoint belongs to a run with another identity.
        """
        self.model, self.tokenizer, self.spec, loop = model, tokenizer, spec, spec.loop
        self.device = model.token_embedding.weight.device
        self.world = world or World(self.device, config=loop.parallel)
        self.world.share(np.arange(spec.batch_size))  # refuses a batch that cannot be shared out
        self.objective = spec.objective(model, spec.dtype)
        is_compiled = spec.compiled_width is not None
        self.trained = distribute(compiled(self.objective) if is_compiled else self.objective, self.world)
        self.token_n_bytes = torch.from_numpy(tokenizer.token_n_bytes()).to(self.device)  # (V,) int32
        self.optimizer = make_optimizer(model, spec.optimizer)
        self.loader = spec.loader(
            spec.train, spec.batch_size, loop.micro_batch_size, loop.seed, self.device, self.world.share
        )
        in_background = loop.checkpoint_in_background
        self.work_dir = work_dir
        self.checkpoints = Checkpoints(
            work_dir / "checkpoints",
            self.world,
            n_kept=loop.n_checkpoints,
            in_background=self.device.type == "cuda" if in_background is None else in_background,
        )
        self.throughput = Throughput(self.device, spec.n_steps, flops_per_token(model.config))
        self.progress, self.is_saved = Progress(), False
        self.should_stop: Callable[[], bool] = lambda: False
        self.metrics: MetricsLog | None = None
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            self.restore(checkpoint)
            log.info("going on from step %d of %d", self.progress.step, spec.n_steps)
        elif self.world.size > 1:
            self.world.seed(loop.seed, step=0)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores weights, optimizer and progress of a checkpoint."""
        require_same_identity(checkpoint.state["identity"], self.spec.identity, checkpoint.path)
        has_generators = self.checkpoints.read(checkpoint, state_tensors(self.model, self.optimizer))
        self.progress, self.is_saved = Progress(**checkpoint.state["progress"]), True
        if not has_generators:
            self.world.seed(self.spec.loop.seed, self.progress.step)
            log.info(
                "%d processes wrote it, now there are %d: dropout draws anew", checkpoint.world_size, self.world.size
            )

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Progress:
        """Trains to the end. When `should_stop` says so, saves a checkpoint and raises `Stopped`, in the middle of a
        step too: what was done of it is thrown away.

        Raises ValueError when training diverges, OSError when no checkpoint can be written.
        """
        self.should_stop = should_stop
        self.metrics = MetricsLog(self.work_dir, keep=self.is_done) if self.world.is_first else None
        try:
            self.go_on()
            self.finish()
        except Stopped:
            if not self.is_saved:
                self.save()
            raise
        finally:
            if self.metrics is not None:
                self.metrics.close()
            self.checkpoints.finish()
        return self.progress

    def go_on(self) -> None:
        """Takes the steps that are left, with what is due between them."""
        n_steps, loop = self.spec.n_steps, self.spec.loop
        self.model.train()
        while True:
            step = self.progress.step
            is_last = step == n_steps
            if (step % loop.eval_every == 0 or is_last) and self.progress.measured_step < step:
                self.measure()
                if self.progress.step != step:
                    continue  # rolled back
            is_due = is_last or step == self.progress.measured_step or step % loop.checkpoint_every == 0
            if is_due and not self.is_saved:
                self.save()
            if is_last:
                return
            self.check_stop()
            self.step()

    def check_stop(self) -> None:
        """Raises `Stopped` when any process was asked to stop."""
        if self.world.any(self.should_stop()):
            raise Stopped(f"stopped at step {self.progress.step} of {self.spec.n_steps}")

    def step(self) -> None:
        """Takes one step, unless it is to be skipped."""
        spec, progress = self.spec, self.progress
        before = generator_tensors(self.world.rank)
        try:
            loss_sum, n_tokens = self.accumulate_gradients(
                self.loader.batches(progress.step + progress.n_batches_ahead)
            )
        except Stopped:
            set_generators(before, self.world.rank)
            self.optimizer.zero_grad()
            raise
        norm = clip_gradients(self.model.parameters(), spec.optimizer.max_grad_norm)
        # the only place where a step waits for the device: a few microseconds for each of its many milliseconds
        loss, grad_norm = torch.stack((loss_sum, norm.to(loss_sum.device))).tolist()
        rate = learning_rate(progress.step, spec.n_steps, spec.optimizer)
        why = rejection_reason(loss, grad_norm, progress.recent, spec.loop.guard)
        if why is None:
            self.optimizer.set_learning_rate(rate)
            self.optimizer.step()
            progress.recent = [*progress.recent, [loss, grad_norm]][-spec.loop.guard.window :]
            progress.n_tokens += n_tokens
            progress.loss, progress.n_skipped_in_a_row = loss, 0
        self.optimizer.zero_grad()
        progress.step += 1
        self.is_saved = False
        self.throughput.count(n_tokens)
        shown = {name: float(values.double().mean()) for name, values in self.objective.metrics.take().items()}
        self.write_line(
            loss=loss, grad_norm=grad_norm, learning_rate=rate, **shown, **({"skipped": why} if why else {})
        )
        if why is not None:
            self.skip(why)

    def accumulate_gradients(self, batches: list[Batch]) -> tuple[Tensor, int]:
        """Returns the mean loss of a step, however it falls into micro-batches, and the number of tokens trained on."""
        n_missing = self.world.most(len(batches)) - len(batches)  # packed rows: as many as a process' sequences fill
        batches = [*batches, *[batches[-1].emptied()] * n_missing]
        counts = torch.tensor([[batch.n_learned, batch.n_tokens] for batch in batches]).sum(0)
        n_learned, n_tokens = self.world.total(counts).tolist()
        loss, width = torch.zeros((), device=self.device), self.spec.compiled_width
        for number, batch in enumerate(batches, start=1):
            self.check_stop()
            with accumulate(self.trained, is_last=number == len(batches)):
                part = self.trained(batch if width is None else in_one_shape(batch, width)) / n_learned
                part.backward()
            loss += part.detach()
        return self.world.total(loss), n_tokens

    def skip(self, why: str) -> None:
        """Keeps a record of the step that was just skipped; after several in a row, goes back."""
        progress, spec = self.progress, self.spec
        batch = progress.step - 1 + progress.n_batches_ahead
        record = {"step": progress.step, "batch": batch, "why": why}
        progress.skipped.append(record)
        progress.n_skipped_in_a_row += 1
        path = self.work_dir / "skipped" / f"step-{progress.step:08d}-batch-{batch:08d}.jsonl"
        if self.world.is_first:
            rows = step_rows(spec.train.order, spec.batch_size, batch, spec.loop.seed)
            write_batch(path, spec.train, rows, self.tokenizer, record)
        log.warning("step %d is skipped: %s; its sequences are in %s", progress.step, why, path)
        if progress.n_skipped_in_a_row >= spec.loop.guard.max_skipped:
            self.roll_back(why)

    def roll_back(self, why: str) -> None:
        """Goes back to the last good checkpoint, and on with the batches after the bad ones.

        Where to is a function of the steps, so a run that is killed on the way does the same. Raises ValueError with a
        remedy when going back has not helped.
        """
        left = self.progress
        self.checkpoints.forget_after(left.good_step)
        if left.n_rollbacks_in_a_row >= self.spec.loop.guard.max_rollbacks or left.measured_step < 0:
            raise ValueError(
                f"training has diverged at step {left.step} ({why}) after {left.n_rollbacks_in_a_row} times back to "
                f"step {left.good_step}: lower optimizer.learning_rate, which is "
                f"{self.spec.optimizer.learning_rate:g}, or raise optimizer.warmup_steps"
            )
        self.restore(self.checkpoints.of_step(left.good_step))
        progress = self.progress
        progress.n_batches_ahead = left.step + left.n_batches_ahead - progress.step
        progress.skipped = left.skipped
        progress.n_rollbacks, progress.n_rollbacks_in_a_row = left.n_rollbacks + 1, left.n_rollbacks_in_a_row + 1
        if self.metrics is not None:
            self.metrics.cut(self.is_done)
        log.warning("back from step %d to %d; the batches between are skipped", left.step, progress.step)

    def is_done(self, line: dict[str, Any]) -> bool:
        """Returns whether a line of metrics stands for something that this run has done by now, or will do again."""
        return line["step"] <= (self.progress.measured_step if "val_loss" in line else self.progress.step)

    def write_line(self, **values: float | str) -> None:
        """Writes the line of a step, with the speed if that is due; values that are not finite are left out."""
        step, is_due = self.progress.step, self.throughput.seconds >= MAX_SECONDS_BETWEEN_LINES
        if is_due or step % self.spec.loop.log_every == 0:
            values |= self.throughput.metrics(step, self.world.size)
        if self.metrics is not None:
            finite = {k: v for k, v in values.items() if isinstance(v, str) or math.isfinite(v)}
            self.metrics.write(step, of=self.spec.n_steps, **finite)

    def measure(self) -> None:
        """Measures held-out sequences and samples, at this step."""
        progress, spec, loop = self.progress, self.spec, self.spec.loop
        self.model.eval()
        rows = evenly_spaced(len(spec.val), loop.n_eval_sequences)
        batches = (batch.to(self.device) for batch in spec.val.batches(rows, loop.micro_batch_size))
        val = held_out(self.objective, batches, self.token_n_bytes, self.check_stop)
        if not math.isfinite(val["val_loss"]):
            self.model.train()
            return self.roll_back(f"val_loss {val['val_loss']}")
        samples = self.samples()
        self.model.train()
        progress.samples += samples
        progress.val, progress.measured_step = val, progress.step
        if val["val_loss"] < progress.best.get("val_loss", math.inf):
            progress.best = {"step": progress.step, **val}
        if progress.n_skipped_in_a_row == 0:
            progress.good_step, progress.n_rollbacks_in_a_row = progress.step, 0
        if self.metrics is not None:
            self.metrics.write(progress.step, of=spec.n_steps, **val)
        self.is_saved = False
        self.throughput.resume()
        return None

    def samples(self) -> list[dict[str, Any]]:
        """Samples a text after each prompt in the first process; raises `Stopped` when asked to in the meantime."""
        loop, step = self.spec.loop, self.progress.step
        model = whole_model(self.model, self.world) if loop.n_sample_tokens else None
        texts = [
            continue_text(model, self.tokenizer, prompt, loop.n_sample_tokens, (loop.seed, step), self.should_stop)
            for prompt in self.spec.prompts
            if model is not None
        ]
        self.check_stop()
        return [{"step": step, **text} for text in texts]

    def save(self) -> None:
        """Writes a checkpoint of this step; the best one and the last good one stay besides the newest."""
        progress = self.progress
        state = {"step": progress.step, "progress": asdict(progress), "identity": self.spec.identity}
        retained = {progress.good_step, progress.best.get("step", 0)}
        self.checkpoints.save(state_tensors(self.model, self.optimizer), state, retained=retained)
        self.is_saved = True

    def finish(self) -> None:
        """Leaves the weights that become the model in it, and the record of skipped steps in the work directory."""
        progress, record = self.progress, self.work_dir / SKIPPED_FILE
        if self.spec.loop.keep == "best" and progress.best["step"] < progress.step:
            best = self.checkpoints.of_step(progress.best["step"])
            self.checkpoints.read(best, state_tensors(self.model, self.optimizer))
            progress.val = {name: value for name, value in progress.best.items() if name != "step"}
        if self.world.is_first:
            remove(record)
        if self.world.is_first and progress.skipped:
            write_json(record, progress.skipped)


def require_same_identity(found: dict[str, Any], wanted: dict[str, Any], checkpoint: Path) -> None:
    """Raises ValueError that names what differs between the run of a checkpoint and this one."""
    differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {found.get(name)} then, {wanted.get(name)} now" for name in differing)
        raise ValueError(f"{checkpoint} belongs to another run ({changes}); use another work directory or remove it")
