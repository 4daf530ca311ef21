"""How a model answers held-out questions: the loss on the reference answer, and answers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import read_table
from ..model.generate import generate
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .likelihood import Advance, token_log_likelihoods


@dataclass(frozen=True)
class Example:
    """A conversation that ends with the assistant's reference answer."""

    id: str
    messages: tuple[dict[str, str], ...]

    @property
    def question(self) -> str:
        """The last message before the answer."""
        return self.messages[-2]["content"] if len(self.messages) > 1 else ""

    @property
    def reference(self) -> str:
        """The answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class AnswerLoss:
    """Negative log-likelihood (nats) of each example's supervised tokens, and their number: both (n,) float64."""

    nats: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampledAnswer:
    """An answer of the model's own. `ended`: it closed its turn itself, and with the right token."""

    question: str
    reference: str
    answer: str
    ended: bool


def read_examples(path: Path) -> list[Example]:
    """The examples of a train.parquet or val.parquet of the instruct stage, in file order."""
    rows: list[dict[str, Any]] = read_table(path, columns=["id", "messages"]).to_pylist()
    return [Example(row["id"], tuple(row["messages"])) for row in rows]


def answer_loss(
    model: GPT,
    rendered: Sequence[tuple[list[int], list[bool]]],
    *,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> AnswerLoss:
    """The loss on what fine-tuning supervises: the assistant's tokens and the end of the turn.

    `rendered` holds `Tokenizer.render_chat` of each example: token ids and which of them count.
    """
    scores = token_log_likelihoods(
        model, [tokens for tokens, _ in rendered], batch_tokens=batch_tokens, advance=advance
    )
    masks = [np.array(supervised[1:], dtype=bool) for _, supervised in rendered]
    nats = [-values[mask].sum() for values, mask in zip(scores, masks, strict=True)]
    return AnswerLoss(np.array(nats), np.array([mask.sum() for mask in masks], dtype=np.float64))


def sample_answers(
    model: GPT,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    advance: Advance = lambda _: None,
) -> list[SampledAnswer]:
    """One answer for each example, generated until the first special token or `max_new_tokens`."""
    special = {token for token, n_bytes in enumerate(tokenizer.token_n_bytes()) if n_bytes == 0}
    answers = []
    for index, example in enumerate(examples):
        prompt, _ = tokenizer.render_chat(example.messages[:-1], add_generation_prompt=True)
        tokens = list(
            generate(
                model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, stop=special, seed=seed + index
            )
        )
        ended = bool(tokens) and tokens[-1] == tokenizer.end_token
        text = tokenizer.decode([token for token in tokens if token not in special])
        answers.append(SampledAnswer(example.question, example.reference, text, ended))
        advance(max_new_tokens)
    return answers
