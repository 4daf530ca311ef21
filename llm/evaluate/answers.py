"""How a model answers held-out questions: the loss on the reference answer, and answers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import read_table
from ..model.generate import BATCH_SIZE, Sampling, generate_batch
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .answer_match import is_exact, token_f1
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
    exact: bool
    f1: float


@dataclass(frozen=True)
class Written:
    """What a model makes of a fixed prompt."""

    model: str
    prompt: str
    text: str


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
    prompts = [tokenizer.render_chat(example.messages[:-1], add_generation_prompt=True)[0] for example in examples]
    sampling = Sampling(temperature=temperature, seed=seed)
    continued = _continued(model, tokenizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling, advance=advance)
    answers = []
    for example, tokens in zip(examples, continued, strict=True):
        text, ended = _text(tokenizer, tokens), bool(tokens) and tokens[-1] == tokenizer.end_token
        exact, f1 = is_exact(text, example.reference), token_f1(text, example.reference)
        answers.append(SampledAnswer(example.question, example.reference, text, ended, exact, round(f1, 5)))
    return answers


def write_on(
    name: str,
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    as_chat: bool,
    max_new_tokens: int,
    sampling: Sampling,
) -> list[Written]:
    """What the model called `name` makes of fixed prompts: a chat model answers them, another goes on from them."""
    started = [_chat_prompt(tokenizer, text) if as_chat else _plain_prompt(tokenizer, text) for text in prompts]
    continued = _continued(model, tokenizer, started, max_new_tokens=max_new_tokens, sampling=sampling)
    return [Written(name, text, _text(tokenizer, tokens)) for text, tokens in zip(prompts, continued, strict=True)]


def _chat_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)[0]


def _plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    # A word begins with its space, so a space at the end of the prompt would have to be followed by half a word.
    return [tokenizer.document_token, *tokenizer.encode(text.rstrip(" "))]


def _continued(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    advance: Advance = lambda _: None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with the first special token."""
    special = special_tokens(tokenizer)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    results: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), BATCH_SIZE):
        part = order[start : start + BATCH_SIZE]
        made = generate_batch(
            model,
            [prompts[index] for index in part],
            max_new_tokens=max_new_tokens,
            sampling=replace(sampling, seed=sampling.seed + start),
            stop=special,
        )
        for index, tokens in zip(part, made, strict=True):
            results[index] = tokens
        advance(max_new_tokens * len(part))
    return results


def special_tokens(tokenizer: Tokenizer) -> set[int]:
    """The ids that stand for no text."""
    return set(np.flatnonzero(tokenizer.token_n_bytes() == 0).tolist())


def _text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    special = special_tokens(tokenizer)
    return tokenizer.decode([token for token in tokens if token not in special])
