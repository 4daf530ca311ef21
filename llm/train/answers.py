"""Questions with known answers: a model answers them, and each answer earns a reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..data.questions import Question
from ..evaluate.statistics import wilson
from ..model.generate import Sampling, generate_batch
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .loader import Batch, Sequences, evenly_spaced
from .log_p import chats_batch
from .loss import Objective
from .method_configs import ReinforceConfig
from .order import one_group


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
        """The tokens in each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows with their right answers, filled up to the longest of them."""
        return chats_batch([self.prompts[row] for row in rows], [self._answers[row] for row in rows])


@dataclass(frozen=True)
class Writer:
    """Writes answers with a model and rewards them."""

    model: GPT
    tokenizer: Tokenizer
    config: ReinforceConfig

    def write(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        """The tokens of an answer to each prompt; the last one is `<|end|>` unless there was no room for it."""
        was_training = self.model.training
        self.model.eval()
        stop = (self.tokenizer.end_token,)
        n_tokens = self.config.max_answer_tokens
        found = generate_batch(self.model, prompts, max_new_tokens=n_tokens, sampling=sampling, stop=stop)
        self.model.train(was_training)
        return found

    def reward(self, question: Question, answer: list[int]) -> float:
        """1.0 for a right answer, else 0.0; see `ReinforceConfig.match`."""
        text, has_ended = self.tokenizer.decode(answer, skip_special=True), answer[-1] == self.tokenizer.end_token
        if self.config.match == "contains":
            return float(question.answer in text)
        return float(has_ended and text.strip() == question.answer)


@dataclass(frozen=True)
class HeldOutReward:
    """Measures by the likeliest answers to held-out questions."""

    writer: Writer
    questions: Questions

    def __call__(
        self, objective: Objective, batches: Iterable[Batch], token_n_bytes: Tensor, check_stop: Callable[[], None]
    ) -> dict[str, float]:
        """`val_reward`, the share of right answers, with its 95 % interval, and `val_loss`, 1 less that."""
        size, rewards = self.writer.config.loop.micro_batch_size, list[float]()
        chosen = evenly_spaced(len(self.questions), self.writer.config.loop.n_eval_sequences)
        for start in range(0, len(chosen), size):
            check_stop()
            rows = chosen[start : start + size]
            answers = self.writer.write([self.questions.prompts[row] for row in rows], Sampling(temperature=0))
            asked = (self.questions.questions[row] for row in rows)
            rewards += [self.writer.reward(*pair) for pair in zip(asked, answers, strict=True)]
        share = wilson(np.array(rewards) > 0)
        figures = {"val_reward": share.score, "val_reward_low": share.low, "val_reward_high": share.high}
        return {"val_loss": 1 - share.score, **figures}
