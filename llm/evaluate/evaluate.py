"""The evaluate stage: held-out scores of the base and the chat model, each with its 95 % interval and baseline."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..counts import Counts
from ..data.documents import read_documents
from ..files import write_table, write_text
from ..model.files import load_model
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .answers import AnswerLoss, Example, SampledAnswer, answer_loss, read_examples, sample_answers
from .bits_per_byte import document_tokens, text_bits, text_bytes, xz_bits_per_byte
from .config import EvaluateConfig
from .likelihood import Advance, n_targets
from .multiple_choice import (
    HEADLINE,
    ChoiceItem,
    ChoicePrompts,
    ChoiceScores,
    choice_prompts,
    read_benchmark,
    score_choices,
    word_overlap,
)
from .statistics import Estimate, bootstrap_ratio, paired_difference, wilson

logger = logging.getLogger(__name__)

DOCUMENTS, EXAMPLES, DEFINITIONS = "held-out documents", "held-out examples", "four-choice definitions"
BITS_PER_BYTE, ANSWER_LOSS, ENDED = "bits per byte", "answer loss", "well-formed ends of turn"
OVER_BASE = " minus base"
METRIC_VERSION = 1
BASE, CHAT, XZ, WORD_OVERLAP = "base", "chat", "xz -9", "word overlap"

SCORE_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("metric_version", pa.int32()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("chance", pa.float64()),
    ]
)
ITEM_SCHEMA = pa.schema([("model", pa.string()), ("id", pa.string()), ("gold", pa.int32()), ("chosen", pa.int32())])
_DECIMALS = 5
"""Digits kept of a score: float sums differ in the seventh between thread counts, and files must not."""

_FIGURES = {
    (DOCUMENTS, BITS_PER_BYTE): "bits_per_byte",
    (EXAMPLES, ANSWER_LOSS): "answer_loss",
    (EXAMPLES, ENDED): "ended_share",
    (DEFINITIONS, HEADLINE): "four_choice_accuracy",
}


@dataclass(frozen=True)
class Score:
    """One row of scores.parquet; `chance` is the score of blind guessing, where there is one."""

    model: str
    benchmark: str
    metric: str
    estimate: Estimate
    chance: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """What the models are measured on."""

    texts: list[str]
    examples: list[Example]
    items: list[ChoiceItem]
    questions: list[Example]

    @property
    def n_items(self) -> int:
        """Documents, examples and questions together."""
        return len(self.texts) + len(self.examples) + len(self.items)


@dataclass(frozen=True)
class Candidate:
    """A model with everything it will be asked, in its own tokens."""

    name: str
    model: GPT
    tokenizer: Tokenizer
    documents: list[list[int]]
    examples: list[tuple[list[int], list[bool]]]
    choices: ChoicePrompts

    @property
    def n_targets(self) -> int:
        """How many tokens scoring will predict."""
        return sum(map(n_targets, (self.documents, [tokens for tokens, _ in self.examples], self.choices.sequences)))


@dataclass(frozen=True)
class Measured:
    """The per-unit results of one model; units are in the order of `HeldOut`."""

    bits: npt.NDArray[np.float64]
    answers: AnswerLoss
    choices: ChoiceScores


def evaluate_models(
    model_dirs: Mapping[str, Path],
    documents_dir: Path,
    examples_dir: Path | None,
    out_dir: Path,
    config: EvaluateConfig,
    progress: Callable[[int, int], None],
) -> Counts:
    """Scores the models `BASE` and, where there is one, `CHAT`; writes scores.parquet, items.parquet and answers.jsonl.

    Reads the held-out documents of `documents_dir` and val.parquet and benchmark.jsonl of `examples_dir`, which must be
    given with a chat model. A part for which there is no held-out material is left out with a warning; ValueError
    when there is none at all.
    """
    held_out = read_held_out(documents_dir, examples_dir, config)
    with _threads(config.n_threads):
        candidates = [_candidate(name, path, held_out, config) for name, path in model_dirs.items()]
        n_answer_tokens = len(held_out.questions) * config.max_new_tokens
        advance = _advance(progress, sum(candidate.n_targets for candidate in candidates) + n_answer_tokens)
        measured = {candidate.name: _measure(candidate, config, advance) for candidate in candidates}
        answers = _answers(candidates[-1], held_out.questions, config, advance)
    scores = _scores(held_out, measured, answers)
    write_table(out_dir / "scores.parquet", _score_table(scores))
    write_table(out_dir / "items.parquet", _item_table(held_out.items, measured))
    write_text(out_dir / "answers.jsonl", "".join(json.dumps(asdict(answer)) + "\n" for answer in answers))
    return Counts("items", held_out.n_items, held_out.n_items, figures=_figures(scores))


def _answers(
    chat: Candidate, questions: Sequence[Example], config: EvaluateConfig, advance: Advance
) -> list[SampledAnswer]:
    return sample_answers(
        chat.model,
        chat.tokenizer,
        questions,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        advance=advance,
    )


def read_held_out(documents_dir: Path, examples_dir: Path | None, config: EvaluateConfig) -> HeldOut:
    """The material, within the limits of `config`; ValueError when there is none at all."""
    examples = read_examples(examples_dir / "val.parquet") if examples_dir else []
    items = read_benchmark(examples_dir / "benchmark.jsonl") if examples_dir else []
    held_out = HeldOut(
        texts=_sample(_held_out_texts(documents_dir), config.max_documents, config.seed),
        examples=_sample(examples, config.max_examples, config.seed),
        items=_sample(items, config.max_items, config.seed),
        questions=_sample(examples, config.n_answers, config.seed + 1),
    )
    if held_out.n_items == 0:
        raise ValueError("nothing is held out, so nothing can be scored: raise clean.held_out_fraction")
    for name, part in ((DOCUMENTS, held_out.texts), (EXAMPLES, held_out.examples), (DEFINITIONS, held_out.items)):
        if not part:
            logger.warning("there are no %s: this part of the evaluation is left out", name)
    return held_out


def _held_out_texts(documents_dir: Path) -> list[str]:
    """The texts of all held-out documents that are not empty, in the order of the files."""
    return [document.text for document in read_documents(documents_dir) if document.held_out and document.text]


T = TypeVar("T")


def _sample(values: list[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of the values at random, in their own order; all when there are no more."""
    if limit is None or len(values) <= limit:
        return values
    chosen = np.random.default_rng(seed).choice(len(values), size=limit, replace=False)
    return [values[index] for index in sorted(chosen)]


def _candidate(name: str, model_dir: Path, held_out: HeldOut, config: EvaluateConfig) -> Candidate:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.load(model_dir)
    return Candidate(
        name,
        load_model(model_dir, device),
        tokenizer,
        document_tokens(tokenizer, held_out.texts),
        [tokenizer.render_chat(example.messages) for example in held_out.examples],
        choice_prompts(tokenizer, held_out.items, as_chat=name == CHAT, neutral_question=config.neutral_question),
    )


def _measure(candidate: Candidate, config: EvaluateConfig, advance: Advance) -> Measured:
    model, size = candidate.model, config.batch_tokens
    return Measured(
        text_bits(model, candidate.documents, batch_tokens=size, advance=advance),
        answer_loss(model, candidate.examples, batch_tokens=size, advance=advance),
        score_choices(model, candidate.choices, batch_tokens=size, advance=advance),
    )


def _scores(held_out: HeldOut, measured: dict[str, Measured], answers: Sequence[SampledAnswer]) -> list[Score]:
    scores = []
    if held_out.texts:
        scores += _document_scores(held_out.texts, measured)
    if held_out.examples:
        scores += _example_scores(measured)
    if answers:
        scores.append(Score(CHAT, EXAMPLES, ENDED, wilson([answer.ended for answer in answers])))
    if held_out.items:
        scores += _choice_scores(held_out.items, measured)
    return scores


def _document_scores(texts: list[str], measured: dict[str, Measured]) -> list[Score]:
    sizes = text_bytes(texts)
    xz = xz_bits_per_byte(texts)  # one number for all documents together: no interval
    scores = [Score(XZ, DOCUMENTS, BITS_PER_BYTE, Estimate(xz, xz, xz, len(texts)))]
    for name, results in measured.items():
        scores.append(Score(name, DOCUMENTS, BITS_PER_BYTE, bootstrap_ratio(results.bits, sizes)))
    if CHAT in measured:
        difference = paired_difference(measured[CHAT].bits, measured[BASE].bits, sizes)
        scores.append(Score(CHAT, DOCUMENTS, BITS_PER_BYTE + OVER_BASE, difference))
    return scores


def _example_scores(measured: dict[str, Measured]) -> list[Score]:
    """Nats per supervised token; the base model is asked in the chat form too, so the tokens are the same."""
    scores = []
    for name, results in measured.items():
        estimate = bootstrap_ratio(results.answers.nats, results.answers.n_tokens)
        scores.append(Score(name, EXAMPLES, ANSWER_LOSS, estimate))
    chat, base = measured[CHAT].answers, measured[BASE].answers
    difference = paired_difference(chat.nats, base.nats, chat.n_tokens)
    return [*scores, Score(CHAT, EXAMPLES, ANSWER_LOSS + OVER_BASE, difference)]


def _choice_scores(items: list[ChoiceItem], measured: dict[str, Measured]) -> list[Score]:
    chance = 1 / len(items[0].choices)
    gold = np.array([item.gold for item in items])
    right = {
        name: {metric: chosen == gold for metric, chosen in results.choices.chosen().items()}
        for name, results in measured.items()
    }
    scores = [
        Score(name, DEFINITIONS, metric, wilson(hits), chance)
        for name, metrics in right.items()
        for metric, hits in metrics.items()
    ]
    scores.append(Score(WORD_OVERLAP, DEFINITIONS, HEADLINE, wilson(word_overlap(items) == gold), chance))
    difference = paired_difference(right[CHAT][HEADLINE], right[BASE][HEADLINE])
    return [*scores, Score(CHAT, DEFINITIONS, HEADLINE + OVER_BASE, difference)]


def _score_table(scores: list[Score]) -> pa.Table:
    rows = [
        {
            "model": score.model,
            "benchmark": score.benchmark,
            "metric": score.metric,
            "metric_version": METRIC_VERSION,
            "score": round(score.estimate.score, _DECIMALS),
            "low": None if score.model == XZ else round(score.estimate.low, _DECIMALS),
            "high": None if score.model == XZ else round(score.estimate.high, _DECIMALS),
            "n": score.estimate.n,
            "chance": score.chance,
        }
        for score in scores
    ]
    return pa.Table.from_pylist(rows, schema=SCORE_SCHEMA)


def _item_table(items: list[ChoiceItem], measured: dict[str, Measured]) -> pa.Table:
    rows = [
        {"model": name, "id": item.id, "gold": item.gold, "chosen": int(chosen)}
        for name, results in measured.items()
        if items
        for item, chosen in zip(items, results.choices.chosen()[HEADLINE], strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def _figures(scores: list[Score]) -> dict[str, float]:
    """The headline scores under flat names: `chat_four_choice_accuracy`, `xz_bits_per_byte`."""
    return {
        f"{score.model.split()[0]}_{_FIGURES[score.benchmark, score.metric]}": round(score.estimate.score, _DECIMALS)
        for score in scores
        if (score.benchmark, score.metric) in _FIGURES
    }


def _advance(progress: Callable[[int, int], None], total: int) -> Advance:
    done = 0

    def advance(n_tokens: int) -> None:
        nonlocal done
        done += n_tokens
        progress(done, total)

    advance(0)
    return advance


@contextlib.contextmanager
def _threads(n_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
