"""A closed-book multiple-choice benchmark, answered by likelihood: no letter has to be generated.

Three ways to pick a choice, all from the same log-likelihoods:

- `accuracy`, the headline: the choice with the largest ln p(choice | question) - ln p(choice | neutral question), the
  domain-conditional PMI of Holtzman et al. (2021). The wrong choices of an item are right answers of other
  items. Were they drawn from p(choice), "choice i is the right one" would have the likelihood
  p(c_i | question) * prod over j != i of p(c_j), proportional to p(c_i | question) / p(c_i): PMI is the Bayes-optimal
  pick, and no property of the choice alone (length, common words) can win. (They are drawn among those that look
  like the question, llm/data/four_choice.py, so this holds among them.) It was chosen before any score was seen.
- `accuracy by likelihood`: the largest ln p(choice | question); prefers short and common texts.
- `accuracy per byte`: the same divided by the choice's UTF-8 bytes; prefers long and predictable texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.four_choice import n_shared_words
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .likelihood import Advance, fitted, score
from .trees import Continuation

METRIC_VERSION = 2
"""1: wrong choices were alike in kind and length only."""

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
    """What to score for a benchmark.

    A choice shared by several items is read once under the neutral question.
    """

    continuations: list[Continuation]
    given_question: npt.NDArray[np.int64]  # (n_items, n_choices): index into continuations
    given_nothing: npt.NDArray[np.int64]  # (n_items, n_choices): index into continuations
    n_bytes: npt.NDArray[np.float64]  # (n_items, n_choices)

    def n_targets(self, context_length: int) -> int:
        """How many tokens scoring will predict."""
        return sum(fitted(continuation, context_length).n_targets for continuation in self.continuations)


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
        [Continuation(tokens, start) for tokens, start in rendered],
        np.array([[index[item.query, choice] for choice in item.choices] for item in items], dtype=np.int64),
        np.array([[index[neutral_question, choice] for choice in item.choices] for item in items], dtype=np.int64),
        np.array([[max(1, len(choice.encode())) for choice in item.choices] for item in items], dtype=np.float64),
    )


def score_choices(
    model: GPT, prompts: ChoicePrompts, *, batch_tokens: int, advance: Advance = lambda _: None
) -> ChoiceScores:
    """The log-likelihoods (nats) of all choices; tokens of the question do not count."""
    fitting = [fitted(continuation, model.config.context_length) for continuation in prompts.continuations]
    scored = score(model, fitting, batch_tokens=batch_tokens, advance=advance)
    sums = np.array([scores.log_p.sum() for scores in scored])
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

    What can be had without knowing anything: names often say what they do.
    """
    counts = [[n_shared_words(item.query, choice) for choice in item.choices] for item in items]
    return np.array([np.argmax(shared) for shared in counts])
