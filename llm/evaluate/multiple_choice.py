"""A closed-book multiple-choice benchmark, answered by likelihood: no letter has to be generated.

Three ways to pick a choice, all from the same log-likelihoods:

- `accuracy`, the headline: the choice with the largest ln p(choice | question) - ln p(choice | neutral question), the
  domain-conditional PMI of Holtzman et al. (2021). The wrong choices of an item are right answers of other
  items, that is, draws from p(choice). Then "choice i is the right one" has likelihood
  p(c_i | question) * prod over j != i of p(c_j), proportional to p(c_i | question) / p(c_i): PMI is the Bayes-optimal
  pick for how the benchmark is made, and no property of the choice alone (length, common words) can win.
  It was chosen for this reason, before any score was seen.
- `accuracy by likelihood`: the largest ln p(choice | question); prefers short and common texts.
- `accuracy per byte`: the same divided by the choice's UTF-8 bytes; prefers long and predictable texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .likelihood import Advance, n_targets, token_log_likelihoods

METRIC_VERSION = 1
HEADLINE = "accuracy"


@dataclass(frozen=True)
class ChoiceItem:
    """One question; `choices[gold]` is the right answer."""

    id: str
    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class ChoiceScores:
    """Log-likelihoods of every choice, with the question and without it, and its bytes: all (n_items, n_choices)."""

    given_question: npt.NDArray[np.float64]
    given_nothing: npt.NDArray[np.float64]
    n_bytes: npt.NDArray[np.float64]

    def chosen(self) -> dict[str, npt.NDArray[np.int64]]:
        """The index picked for each item under each metric; the first of equals."""
        scores = {
            HEADLINE: self.given_question - self.given_nothing,
            "accuracy by likelihood": self.given_question,
            "accuracy per byte": self.given_question / self.n_bytes,
        }
        return {metric: values.argmax(axis=1) for metric, values in scores.items()}


@dataclass(frozen=True)
class ChoicePrompts:
    """The token sequences to score for a benchmark, each with the first token that counts.

    A choice shared by several items is read once under the neutral question.
    """

    sequences: list[list[int]]
    starts: list[int]
    given_question: npt.NDArray[np.int64]  # (n_items, n_choices): index into sequences
    given_nothing: npt.NDArray[np.int64]  # (n_items, n_choices): index into sequences
    n_bytes: npt.NDArray[np.float64]  # (n_items, n_choices)

    def n_targets(self) -> int:
        """How many tokens scoring will predict."""
        return n_targets(self.sequences)


def read_benchmark(path: Path) -> list[ChoiceItem]:
    """The items of a benchmark.jsonl, in file order; raises ValueError for choices of unequal number."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    items = [ChoiceItem(line["id"], line["query"], tuple(line["choices"]), line["gold"]) for line in lines]
    if len({len(item.choices) for item in items}) > 1:
        raise ValueError(f"{path.name}: every item must have the same number of choices")
    return items


def choice_prompts(
    tokenizer: Tokenizer, items: Sequence[ChoiceItem], *, as_chat: bool, neutral_question: str
) -> ChoicePrompts:
    """What to score. A chat model is asked in its chat form, a base model in plain text: question, newline, choice."""
    render = _chat_prompt if as_chat else _plain_prompt
    index: dict[tuple[str, str], int] = {}
    for item in items:
        for choice in item.choices:
            index.setdefault((item.query, choice), len(index))
            index.setdefault((neutral_question, choice), len(index))
    rendered = [render(tokenizer, question, choice) for question, choice in index]
    return ChoicePrompts(
        [tokens for tokens, _ in rendered],
        [start for _, start in rendered],
        np.array([[index[item.query, choice] for choice in item.choices] for item in items], dtype=np.int64),
        np.array([[index[neutral_question, choice] for choice in item.choices] for item in items], dtype=np.int64),
        np.array([[max(1, len(choice.encode())) for choice in item.choices] for item in items], dtype=np.float64),
    )


def score_choices(
    model: GPT, prompts: ChoicePrompts, *, batch_tokens: int, advance: Advance = lambda _: None
) -> ChoiceScores:
    """The log-likelihoods (nats) of all choices; tokens of the question do not count."""
    scores = token_log_likelihoods(model, prompts.sequences, batch_tokens=batch_tokens, advance=advance)
    sums = np.array([values[start - 1 :].sum() for values, start in zip(scores, prompts.starts, strict=True)])
    return ChoiceScores(sums[prompts.given_question], sums[prompts.given_nothing], prompts.n_bytes)


def _chat_prompt(tokenizer: Tokenizer, question: str, choice: str) -> tuple[list[int], int]:
    """Tokens and the position of the first that counts: the answer with its end of turn, as in fine-tuning."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": choice}]
    tokens, supervised = tokenizer.render_chat(messages)
    return tokens, supervised.index(True)


def _plain_prompt(tokenizer: Tokenizer, question: str, choice: str) -> tuple[list[int], int]:
    prompt = [tokenizer.document_token, *tokenizer.encode(question + "\n")]
    return [*prompt, *tokenizer.encode(choice)], len(prompt)


def word_overlap(items: Sequence[ChoiceItem]) -> npt.NDArray[np.int64]:
    """The choice of each item that shares most words with its question, (n_items,); the first of equals.

    What can be had without knowing anything: names often say what they do. Names are cut at dots, underscores and
    capitals, and a word counts as shared if one begins with the other and both have three letters or more.
    """
    return np.array([np.argmax([_n_shared(item.query, choice) for choice in item.choices]) for item in items])


def _n_shared(query: str, choice: str) -> int:
    words = _words(choice)
    return sum(any(word.startswith(name) or name.startswith(word) for word in words) for name in _words(query))


def _words(text: str) -> set[str]:
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return {part.lower() for part in parts if len(part) >= 3}
