"""How a model answers held-out questions: the loss on the reference answer, and answers of its own.

How near an answer is to the reference is counted as SQuAD does (Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for
Machine Comprehension of Text", section 6.1): both texts are compared in lower case, without punctuation and the
articles a, an, the, with single spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_table
from ..model.generate import BATCH_SIZE, Sampling, generate_batch
from ..model.gpt import GPT
from ..tokenizer.tokenizer import Tokenizer
from .likelihood import Advance, token_log_likelihoods
from .metrics import ANSWER_LOSS, ENDED, EXACT_MATCH, EXAMPLES, TOKEN_F1
from .scores import Units

_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
class SampledAnswer:
    """An answer of the model's own. `ended`: it closed its turn itself, and with the right token."""

    question: str
    reference: str
    answer: str
    ended: bool
    exact: bool
    f1: float


@dataclass(frozen=True)
class Sample:
    """What a model makes of a fixed prompt."""

    model: str
    prompt: str
    text: str


def read_examples(path: Path) -> list[Example]:
    """Returns the examples of a train.parquet or val.parquet of the instruct stage, in file order."""
    rows: list[dict[str, Any]] = read_table(path, columns=["id", "messages"]).to_pylist()
    return [Example(row["id"], tuple(row["messages"])) for row in rows]


def answer_loss(
    model: GPT,
    examples: Sequence[Example],
    rendered: Sequence[tuple[list[int], list[bool]]],
    *,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> Units:
    """Returns the loss (nats) on what fine-tuning trains on: the assistant's tokens and the end of the turn.

    `rendered` holds `Tokenizer.render_chat` of each example: token ids and their loss mask. A base model is asked in
    the chat form too, so that the tokens are the same.
    """
    scores = token_log_likelihoods(
        model, [tokens for tokens, _ in rendered], batch_tokens=batch_tokens, advance=advance
    )
    masks = [np.array(loss_mask[1:], dtype=bool) for _, loss_mask in rendered]
    return Units(
        benchmark=EXAMPLES,
        metric=ANSWER_LOSS,
        ids=[example.id for example in examples],
        values=np.array([-values[mask].sum() for values, mask in zip(scores, masks, strict=True)]),
        weights=np.array([mask.sum() for mask in masks], dtype=np.float64),
    )


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
    """Returns one answer for each example, generated until the first special token or `max_new_tokens`."""
    prompts = [tokenizer.render_chat(example.messages[:-1], add_generation_prompt=True)[0] for example in examples]
    sampling = Sampling(temperature=temperature, seed=seed)
    continued = _continued(model, tokenizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling, advance=advance)
    answers = []
    for example, tokens in zip(examples, continued, strict=True):
        text, ended = _text(tokenizer, tokens), bool(tokens) and tokens[-1] == tokenizer.end_token
        exact = normalised(text) == normalised(example.reference)
        f1 = round(token_f1(text, example.reference), 5)
        answers.append(SampledAnswer(example.question, example.reference, text, ended, exact, f1))
    return answers


def normalised(text: str) -> list[str]:
    """Returns the words that are compared."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> float:
    """Returns the harmonic mean of precision and recall of the answer's words, 0 to 1; two empty texts are equal."""
    found, wanted = normalised(answer), normalised(reference)
    n_common = (Counter(found) & Counter(wanted)).total()
    return 2 * n_common / (len(found) + len(wanted)) if found or wanted else 1.0


def answer_units(examples: Sequence[Example], answers: Sequence[SampledAnswer]) -> list[Units]:
    """Returns how many answers close their turn, are the reference, and how many words they share with it."""
    found = {
        ENDED: [answer.ended for answer in answers],
        EXACT_MATCH: [answer.exact for answer in answers],
        TOKEN_F1: [answer.f1 for answer in answers],
    }
    return [
        Units(
            benchmark=EXAMPLES,
            metric=metric,
            ids=[example.id for example in examples],
            values=np.array(values, dtype=np.float64),
            is_share=metric != TOKEN_F1,
        )
        for metric, values in found.items()
    ]


def continue_prompts(
    name: str,
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    as_chat: bool,
    max_new_tokens: int,
    sampling: Sampling,
) -> list[Sample]:
    """Samples what the model called `name` makes of fixed prompts: a chat model answers, another continues the text."""
    if as_chat:
        chats = ([{"role": "user", "content": text}] for text in prompts)
        started = [tokenizer.render_chat(chat, add_generation_prompt=True)[0] for chat in chats]
    else:
        # A word begins with its space, so a space at the end of the prompt would have to be followed by half a word.
        started = [[tokenizer.document_token, *tokenizer.encode(text.rstrip(" "))] for text in prompts]
    continued = _continued(model, tokenizer, started, max_new_tokens=max_new_tokens, sampling=sampling)
    return [Sample(name, text, _text(tokenizer, tokens)) for text, tokens in zip(prompts, continued, strict=True)]


def _continued(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    advance: Advance = lambda _: None,
) -> list[list[int]]:
    """Returns the tokens that follow each prompt, up to and with the first special token."""
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
    """Returns the ids that stand for no text."""
    return set(np.flatnonzero(tokenizer.token_n_bytes() == 0).tolist())


def _text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    special = special_tokens(tokenizer)
    return tokenizer.decode([token for token in tokens if token not in special])
