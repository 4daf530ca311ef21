"""Reinforcement learning on answers that can be checked: GRPO (Shao et al. 2024), in its plainest form.

For each question the model writes a group of answers o_1 .. o_G, each of which earns the reward r_i = 1 if it is right,
else 0. An answer is as good as it is better than its group (their section 4.1.2; / std(r) only if asked for):

    A_i = r_i - mean(r)        loss = - sum_i sum_t A_i ln pi(o_i,t | question, o_i,<t) / number of all tokens

Every answer is trained on once, by the model that wrote it, so the ratio of the paper's equation 3 is 1, nothing is
clipped, and this is the policy gradient (Williams 1992, REINFORCE) with the group's mean as its baseline. There is no
KL term and so no reference model; all tokens of a step count alike (Yu et al. 2025, DAPO).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...counts import Counts
from ...data.user_files.json_records import record_files
from ...data.user_files.questions import Question, read_questions
from ...model.generate import Sampling, generate_batch
from ...model.gpt import GPT
from ...process import METRICS_FILE, read_metrics
from ...splits import held_out_keys
from ...statistics import wilson
from ...tokenizer.tokenizer import Tokenizer
from ..loader import Batch, Sequences, StepLoader, evenly_spaced, files_digest, step_rows
from ..loop import RunSpec
from ..order import one_group
from .answers import AnswerObjective, chats_batch
from .config import ReinforceConfig
from .examples import ASKED_LATER, HeldOutQuestions
from .start import Start

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class QuestionBatch(Batch):
    """B questions with their right answers."""

    rows: Tensor
    """(B,) int64, which of the questions they are."""


class Questions(Sequences):
    """Questions in memory; as sequences they are chats that end with the right answer."""

    def __init__(self, questions: Sequence[Question], tokenizer: Tokenizer) -> None:
        """Renders the questions and their answers."""
        self.questions = questions
        self.prompts = [tokenizer.render_chat(item.prompt, add_generation_prompt=True)[0] for item in questions]
        self._answers = [[*tokenizer.encode(item.answer), tokenizer.end_token] for item in questions]
        both = zip(self.prompts, self._answers, strict=True)
        self._lengths = np.array([len(prompt) + len(answer) for prompt, answer in both], np.int64)
        self.order = one_group(len(questions))

    def __len__(self) -> int:
        return len(self.questions)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> QuestionBatch:
        """Returns the rows with their right answers, padded to the longest of them."""
        chats = chats_batch([self.prompts[row] for row in rows], [self._answers[row] for row in rows])
        return QuestionBatch(chats.inputs, chats.targets, chats.positions, rows=torch.from_numpy(rows))

    def batches(self, rows: np.ndarray, micro_batch_size: int) -> Iterator[QuestionBatch]:
        """Yields the rows in batches of `micro_batch_size`, in their order: prompts are not padded to be answered."""
        for start in range(0, len(rows), micro_batch_size):
            yield self.batch(rows[start : start + micro_batch_size])


@dataclass(frozen=True)
class Sampler:
    """Samples answers from a model and rewards them."""

    model: GPT
    tokenizer: Tokenizer
    config: ReinforceConfig

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        """Returns the tokens of an answer to each prompt; the last one is `<|end|>` unless there was no room for it."""
        was_training = self.model.training
        self.model.eval()
        stop = (self.tokenizer.end_token,)
        n_tokens = self.config.max_answer_tokens
        found = generate_batch(self.model, prompts, max_new_tokens=n_tokens, sampling=sampling, stop=stop)
        self.model.train(was_training)
        return found

    def rewards(self, questions: Sequence[Question], answers: Sequence[list[int]]) -> np.ndarray:
        """Returns the reward of an answer to each question, float32."""
        return np.array([self.reward(*pair) for pair in zip(questions, answers, strict=True)], np.float32)

    def reward(self, question: Question, answer: list[int]) -> float:
        """Returns 1.0 for a right answer, else 0.0; see `ReinforceConfig.match`."""
        text, has_ended = self.tokenizer.decode(answer, skip_special=True), answer[-1] == self.tokenizer.end_token
        if self.config.match == "contains":
            return float(question.answer in text)
        return float(has_ended and text.strip() == question.answer)


@dataclass(frozen=True, kw_only=True)
class AnswerBatch(Batch):
    """B chats with sampled answers."""

    advantages: Tensor
    """(B,) float32, how much better each answer is than its group."""
    rewards: Tensor
    """(B,) float32."""


class Rollouts(StepLoader):
    """Batches of answers that are sampled when a step begins; which ones follows from the weights and the step."""

    def __init__(self, *arguments: Any, sampler: Sampler) -> None:
        """Takes further arguments as `StepLoader` does."""
        super().__init__(*arguments)
        self.sampler = sampler

    def batches(self, step: int) -> list[Batch]:
        """Returns the answers to this process's part of the step's questions, on the device."""
        assert isinstance(self.sequences, Questions)
        config = self.sampler.config
        rows = step_rows(self.sequences.order, self.batch_size, step, self.seed)
        indices = self.share(np.arange(len(rows)))  # which of the step's questions are this process's
        chosen = np.repeat(rows[indices], config.group_size)
        seed = np.random.SeedSequence((self.seed, step, int(indices[0]))).generate_state(1)[0]
        prompts = [self.sequences.prompts[row] for row in chosen]
        sampling = Sampling(temperature=config.temperature, top_k=None, seed=int(seed))
        answers = self.sampler.sample(prompts, sampling)
        rewards = self.sampler.rewards([self.sequences.questions[row] for row in chosen], answers)
        better = advantages(rewards.reshape(len(indices), -1), scale_by_std=config.scale_by_std).ravel()
        size = self.micro_batch_size
        parts = (slice(start, start + size) for start in range(0, len(chosen), size))
        return [answer_batch(prompts[p], answers[p], better[p], rewards[p]).to(self.device) for p in parts]


def answer_batch(
    prompts: Sequence[list[int]], answers: Sequence[list[int]], better: np.ndarray, rewards: np.ndarray
) -> AnswerBatch:
    """Returns answers with their advantages and rewards, (B,) both."""
    chats = chats_batch(prompts, answers)
    numbers = [torch.tensor(values) for values in (better, rewards)]
    return AnswerBatch(chats.inputs, chats.targets, chats.positions, advantages=numbers[0], rewards=numbers[1])


def advantages(rewards: np.ndarray, *, scale_by_std: bool) -> np.ndarray:
    """Returns each reward less its group's mean, (groups, group_size); with `scale_by_std` over their deviation."""
    better = rewards - rewards.mean(axis=1, keepdims=True)
    return better / (rewards.std(axis=1, keepdims=True) + 1e-4) if scale_by_std else better


class PolicyObjective(AnswerObjective):
    """The loss of the module's docstring; its metrics are each answer's reward and its length in tokens.

    On held-out questions it is measured by the reward of greedy answers.
    """

    def __init__(self, model: GPT, dtype: torch.dtype, sampler: Sampler, val: Questions) -> None:
        """Takes what `Objective` does; `sampler` answers the held-out questions `val`."""
        super().__init__(model, dtype)
        self.sampler, self.val = sampler, val

    def forward(self, batch: Batch) -> Tensor:
        """Returns minus the sum over the tokens of an `AnswerBatch` of advantage times ln p."""
        assert isinstance(batch, AnswerBatch)
        rows = batch.learned_rows()  # (N,)
        lengths = torch.bincount(rows, minlength=len(batch.inputs))
        self.metrics.add(reward=batch.rewards, answer_tokens=lengths.float())
        return -(batch.advantages[rows] * self.log_p(batch)).sum()

    def held_out_loss(self, batch: Batch) -> Tensor:
        """Returns the number of wrong answers to the questions of a `QuestionBatch`."""
        assert isinstance(batch, QuestionBatch)
        rows = batch.rows.tolist()
        answers = self.sampler.sample([self.val.prompts[row] for row in rows], Sampling(temperature=0))
        rewards = torch.from_numpy(self.sampler.rewards([self.val.questions[row] for row in rows], answers))
        self.metrics.add(reward=rewards)
        return (1 - rewards).sum()

    def held_out_metrics(self, loss: float, n_bytes: int, examples: dict[str, Tensor]) -> dict[str, float]:
        """Returns `val_reward`, the share of right answers, with its 95 % interval, and `val_loss`, 1 less that."""
        share = wilson(examples["reward"].numpy() > 0)
        metrics = {"val_reward": share.score, "val_reward_low": share.low, "val_reward_high": share.high}
        return {"val_loss": 1 - share.score, **metrics}


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
    optimizer = config.optimizer.resolved(learning_rate=3e-4, warmup_steps=5, weight_decay=0.0)
    only_finite = replace(config.loop.guard, sigma=None)  # loss and gradient say how surprising the rewards are
    config = replace(config, optimizer=optimizer, loop=replace(config.loop, guard=only_finite))
    files = record_files("reinforce", config.files)
    found, dropped = read_questions(files, config.bad_examples)
    held_out_questions = HeldOutQuestions.of(examples_dir)
    unasked = [item for item in found if not held_out_questions.are_in(item.prompt)]
    start = Start.of(model_dir, config.loop)
    start.require_memory(config.loop.micro_batch_size, optimizer)
    kept = fitting(unasked, start, config.max_answer_tokens)
    dropped_later = {ASKED_LATER: len(found) - len(unasked), "no room for an answer": len(unasked) - len(kept)}
    dropped |= {reason: n for reason, n in dropped_later.items() if n}
    held_out = held_out_keys((item.key for item in kept), config.held_out_fraction)
    train = Questions([item for item in kept if item.key not in held_out], start.tokenizer)
    val = Questions([item for item in kept if item.key in held_out], start.tokenizer)
    seen = [examples_dir / "val.parquet"] if examples_dir else []
    sampler = Sampler(start.model, start.tokenizer, config)
    spec = RunSpec(
        train=train,
        val=val,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        optimizer=optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[val.prompts[row] for row in evenly_spaced(len(val), config.n_samples)],
        identity=start.identity("reinforce", files_digest([*files, *seen]), config),
        objective=functools.partial(PolicyObjective, sampler=sampler, val=val),
        loader=functools.partial(Rollouts, sampler=sampler),
    )
    progress = start.train(spec, work_dir, out_dir, should_stop)
    if start.world.is_first:
        warn_unless_rewarded(work_dir / METRICS_FILE)
    n_epochs = config.n_steps * config.batch_size / len(train)
    figures = progress.metrics() | {"n_tokens": progress.n_tokens, "n_epochs": n_epochs}
    return Counts("questions", len(kept) + sum(dropped.values()), len(kept), dropped, figures)


def warn_unless_rewarded(path: Path) -> None:
    """Warns when the answers of each question were all as good as each other at every step: none taught anything."""
    lines = [line for line in read_metrics(path) if "reward" in line]
    if any(line.get("loss") for line in lines):
        return
    if any(line["reward"] for line in lines):
        log.warning("nothing was learned: to each question all answers earned the same reward; ask harder ones")
    else:
        log.warning(
            "nothing was learned: no answer earned a reward in %d steps; fine-tune on some questions of this kind "
            "first, ask easier ones, or see whether reinforce.match and max_answer_tokens let a right answer count",
            len(lines),
        )


def fitting(questions: Sequence[Question], start: Start, n_answer_tokens: int) -> list[Question]:
    """Returns the questions that leave room for an answer in the context, and whose right answer is no longer."""
    length = start.model.config.context_length
    rendered = Questions(questions, start.tokenizer)
    longest = np.maximum(
        [len(prompt) + n_answer_tokens for prompt in rendered.prompts], rendered.lengths(np.arange(len(questions)))
    )
    return [question for question, n_tokens in zip(questions, longest, strict=True) if n_tokens <= length]
