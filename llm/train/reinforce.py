"""Reinforcement learning on answers that can be checked: GRPO (Shao et al. 2024), in its plainest form.

For each question the model writes a group of answers o_1 .. o_G, each of which earns the reward r_i = 1 if it is right,
else 0. An answer is as good as it is better than its group (their section 4.1.2; / std(r) only if asked for):

    A_i = r_i - mean(r)        loss = - sum_i sum_t A_i ln pi(o_i,t | question, o_i,<t) / number of all tokens

Every answer is learned from once, by the model that wrote it, so the ratio of the paper's equation 3 is 1, nothing is
clipped, and this is the policy gradient (Williams 1992, REINFORCE) with the group's mean as its baseline. There is no
KL term and so no reference model; all tokens of a step count alike (Yu et al. 2025, DAPO).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..counts import Counts
from ..data.json_records import record_files
from ..data.questions import Question, read_questions
from ..model.generate import Sampling
from ..splits import held_out_keys
from .answers import HeldOutReward, Questions, Writer
from .config import LoopConfig
from .examples import ASKED_LATER, held_out_questions, questions_of
from .loader import Batch, StepLoader, evenly_spaced, step_rows
from .log_p import AnswerObjective, chats_batch
from .loop import Course
from .method import Start, with_rates
from .method_configs import ReinforceConfig


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """B chats with answers that the model wrote."""

    advantages: Tensor | None = None
    """(B,) float32, how much better each answer is than its group."""
    rewards: Tensor | None = None
    """(B,) float32."""

    def arguments(self) -> tuple[Any, ...]:
        """What `PolicyObjective` is called with."""
        return self.inputs, *self.learned(), self.advantages, self.rewards


class Rollouts(StepLoader):
    """Batches of answers that the model writes when a step begins; which ones follows from its weights and the step."""

    def __init__(self, *arguments: Any, writer: Writer) -> None:
        """Further arguments as of `StepLoader`."""
        super().__init__(*arguments)
        self.writer = writer

    def batches(self, step: int) -> list[Batch]:
        """The answers to this process's part of the step's questions, on the device."""
        assert isinstance(self.sequences, Questions)
        rows = step_rows(self.sequences.order, self.batch_size, step, self.seed)
        places = self.share(np.arange(len(rows)))  # which of the step's questions are this process's
        chosen = np.repeat(rows[places], self.writer.config.group_size)
        seed = np.random.SeedSequence((self.seed, step, int(places[0]))).generate_state(1)[0]
        sampling = Sampling(temperature=self.writer.config.temperature, top_k=None, seed=int(seed))
        asked = [self.sequences.prompts[row] for row in chosen]
        answers = self.writer.write(asked, sampling)
        questions = (self.sequences.questions[row] for row in chosen)
        rewards = np.array([self.writer.reward(*pair) for pair in zip(questions, answers, strict=True)], np.float32)
        better = advantages(rewards.reshape(len(places), -1), scale_by_std=self.writer.config.scale_by_std).ravel()
        size = self.micro_batch_size
        parts = (slice(start, start + size) for start in range(0, len(chosen), size))
        return [answer_batch(asked[p], answers[p], better[p], rewards[p]).to(self.device) for p in parts]


def answer_batch(
    prompts: Sequence[list[int]], answers: Sequence[list[int]], better: np.ndarray, rewards: np.ndarray
) -> AnswerBatch:
    """Answers with their advantages and rewards, (B,) both."""
    chats = chats_batch(prompts, answers)
    numbers = (torch.tensor(values) for values in (better, rewards))
    return AnswerBatch(chats.inputs, chats.targets, chats.positions, *numbers)


def advantages(rewards: np.ndarray, *, scale_by_std: bool) -> np.ndarray:
    """Each reward less its group's mean, (groups, group_size); with `scale_by_std` over its standard deviation."""
    better = rewards - rewards.mean(axis=1, keepdims=True)
    return better / (rewards.std(axis=1, keepdims=True) + 1e-4) if scale_by_std else better


class PolicyObjective(AnswerObjective):
    """The loss of the module's docstring; notes each answer's reward and its length in tokens."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, positions: Tensor, targets: Tensor, advantages: Tensor, rewards: Tensor
    ) -> Tensor:
        """Minus the sum over tokens of advantage times ln p; arguments as an `AnswerBatch` gives them."""
        rows = positions // inputs.shape[1]  # (N,): the answer that each token is of
        self.note(reward=rewards, answer_tokens=torch.bincount(rows, minlength=len(inputs)).float())
        return -(advantages[rows] * self.log_p(inputs, positions, targets)).sum()


def reinforce(
    model_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: ReinforceConfig,
    should_stop: Callable[[], bool] = lambda: False,
    examples_dir: Path | None = None,
) -> Counts:
    """Trains a chat model on the rewards of its own answers and writes its artifact; counts the questions.

    Questions that `examples_dir` holds out are dropped. Goes on from the checkpoints in `work_dir`. Raises ValueError
    for malformed files, and when too few questions leave room for an answer; `Stopped` when asked to stop.
    """
    rates = with_rates(config.optimizer, learning_rate=3e-4, warmup_steps=5, weight_decay=0.0)
    config = replace(config, optimizer=rates, loop=without_outliers(config.loop))
    files = record_files("reinforce", config.files)
    found, dropped = read_questions(files)
    asked = held_out_questions(examples_dir)
    unasked = [item for item in found if not asked & questions_of(item.prompt)]
    start = Start.of(model_dir, config.loop, config.optimizer, config.loop.micro_batch_size)
    kept = fitting(unasked, start, config.max_answer_tokens)
    lost = {ASKED_LATER: len(found) - len(unasked), "no room for an answer": len(unasked) - len(kept)}
    dropped |= {reason: n for reason, n in lost.items() if n}
    held_out = held_out_keys((item.key for item in kept), config.held_out_fraction)
    train = Questions([item for item in kept if item.key not in held_out], start.tokenizer)
    val = Questions([item for item in kept if item.key in held_out], start.tokenizer)
    seen = [examples_dir / "val.parquet"] if examples_dir else []
    writer = Writer(start.model, start.tokenizer, config)
    course = Course(
        train=train,
        val=val,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[val.prompts[row] for row in evenly_spaced(len(val), config.n_samples)],
        identity=start.identity("reinforce", [*files, *seen], config),
        objective=PolicyObjective,
        measure=HeldOutReward(writer, val),
        loader=functools.partial(Rollouts, writer=writer),
    )
    progress = start.train(course, work_dir, out_dir, should_stop)
    n_epochs = config.n_steps * config.batch_size / len(train)
    figures = progress.figures() | {"n_tokens": progress.n_tokens, "n_epochs": n_epochs}
    return Counts("questions", len(kept) + sum(dropped.values()), len(kept), dropped, figures)


def fitting(questions: Sequence[Question], start: Start, n_answer_tokens: int) -> list[Question]:
    """The questions that leave room for an answer in the context, and whose right answer is not longer than that."""
    length = start.model.config.context_length
    rendered = Questions(questions, start.tokenizer)
    longest = np.maximum(
        [len(prompt) + n_answer_tokens for prompt in rendered.prompts], rendered.lengths(np.arange(len(questions)))
    )
    return [question for question, n_tokens in zip(questions, longest, strict=True) if n_tokens <= length]


def without_outliers(loop: LoopConfig) -> LoopConfig:
    """The settings with a guard that only objects to what is not finite."""
    return replace(loop, guard=replace(loop.guard, sigma=None))
