"""The evaluate stage: scores of the base and the chat model, each with its 95 % interval, chance level and baseline."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..counts import Counts
from ..data.documents import read_documents
from ..files import write_table, write_text
from ..model.files import load_model
from ..model.generate import Sampling
from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .answers import SampledAnswer, Written, answer_loss, read_examples, sample_answers, write_on
from .benchmark_scores import ACCURACY, CORE, benchmark_units, centred_rows, outcome
from .benchmarks import Benchmark, check_benchmarks
from .bits_per_byte import document_tokens, text_bits
from .config import EvaluateConfig
from .contamination import contaminated_items
from .likelihood import Advance, n_targets
from .lm_eval_tasks import lm_eval_scores
from .multiple_choice import HEADLINE, ChoicePrompts, choice_prompts, read_benchmark, score_choices
from .scores import OVER_BASE as OVER_BASE
from .scores import SCORE_DECIMALS, Score, Units, item_table, score_rows, score_table
from .scores import SCORE_SCHEMA as SCORE_SCHEMA
from .units import (
    ANSWER_LOSS,
    BITS_PER_BYTE,
    DOCUMENTS,
    ENDED,
    EXACT_MATCH,
    EXAMPLES,
    TOKEN_F1,
    WORD_OVERLAP,
    HeldOut,
    answer_units,
    definition_units,
    document_units,
    example_units,
    word_overlap_units,
    xz_row,
)
from .units import BASE as BASE
from .units import CHAT as CHAT
from .units import DEFINITIONS as DEFINITIONS

logger = logging.getLogger(__name__)

ITEM_TOKENS = 50
"""What an item of a benchmark counts in the progress, beside the tokens of all else."""

_FIGURES = {
    (DOCUMENTS, BITS_PER_BYTE): "bits_per_byte",
    (EXAMPLES, ANSWER_LOSS): "answer_loss",
    (EXAMPLES, ENDED): "ended_share",
    (EXAMPLES, EXACT_MATCH): "exact_match",
    (EXAMPLES, TOKEN_F1): "token_f1",
    (DEFINITIONS, HEADLINE): "four_choice_accuracy",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A benchmark, the items of it that are asked, and the lines of items that are contaminated, by file."""

    benchmark: Benchmark
    indices: list[int]
    contaminated: Mapping[str, set[int]]


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
        """How many tokens scoring will predict, without those of benchmarks."""
        n_choices = self.choices.n_targets(self.model.config.context_length)
        return n_targets(self.documents) + n_targets([tokens for tokens, _ in self.examples]) + n_choices


def evaluate_models(
    model_dirs: Mapping[str, Path],
    documents_dir: Path,
    examples_dir: Path | None,
    out_dir: Path,
    config: EvaluateConfig,
    progress: Callable[[int, int], None],
) -> Counts:
    """Scores the models `BASE` and, where there is one, `CHAT`; writes what they scored and wrote.

    The files are scores.parquet, items.parquet (what each document, example and item adds to a score), answers.jsonl
    and samples.jsonl. Reads the held-out documents of `documents_dir`, and val.parquet and benchmark.jsonl of
    `examples_dir`, which must be given with a chat model. A part for which there is no held-out material is left out
    with a warning; ValueError when there is none at all.
    """
    held_out = read_held_out(documents_dir, examples_dir, config)
    asked = _asked(documents_dir, config)
    n_items = held_out.n_items + sum(len(each.indices) for each in asked)
    if n_items == 0:
        raise ValueError("nothing is held out, so nothing can be scored: raise clean.held_out_fraction")
    with _threads(config.n_threads):
        candidates = [_candidate(name, path, held_out, config) for name, path in model_dirs.items()]
        n_answer_tokens = len(held_out.questions) * config.max_new_tokens
        n_benchmark_tokens = len(candidates) * ITEM_TOKENS * (n_items - held_out.n_items)
        total = sum(candidate.n_targets for candidate in candidates) + n_answer_tokens + n_benchmark_tokens
        advance = _advance(progress, total)
        measured = {made.name: _by_name(_measure(made, held_out, asked, config, advance)) for made in candidates}
        answers = _answers(candidates[-1], held_out, config, advance)
        written = [text for candidate in candidates for text in _written(candidate, config)]
        scores = []
        for candidate in candidates:
            units, bare = _lm_eval(candidate, config)
            measured[candidate.name] |= _by_name(units)
            scores += bare
    if answers:
        measured[CHAT] |= _by_name(answer_units(held_out.questions, answers))
    if held_out.items:
        measured[WORD_OVERLAP] = _by_name([word_overlap_units(held_out.items)])
    scores += [xz_row(held_out.texts)] if held_out.documents else []
    scores += score_rows(measured, CHAT, BASE)
    scores += centred_rows(measured, [each.benchmark for each in asked], CHAT, BASE)
    write_table(out_dir / "scores.parquet", score_table(scores))
    write_table(out_dir / "items.parquet", item_table(measured))
    _write_lines(out_dir / "answers.jsonl", answers)
    _write_lines(out_dir / "samples.jsonl", written)
    return Counts("items", n_items, n_items, figures=figures(scores))


def read_held_out(documents_dir: Path, examples_dir: Path | None, config: EvaluateConfig) -> HeldOut:
    """The material, within the limits of `config`; a part that is empty is left out with a warning."""
    documents = [document for document in read_documents(documents_dir) if document.held_out and document.text]
    examples = read_examples(examples_dir / "val.parquet") if examples_dir else []
    benchmark = examples_dir / "benchmark.jsonl" if examples_dir else None
    items = read_benchmark(benchmark) if benchmark and benchmark.exists() else []
    held_out = HeldOut(
        documents=_sample(documents, config.max_documents, config.seed),
        examples=_sample(examples, config.max_examples, config.seed),
        items=_sample(items, config.max_items, config.seed),
        questions=_sample(examples, config.n_answers, config.seed + 1),
    )
    for name, part in ((DOCUMENTS, held_out.documents), (EXAMPLES, held_out.examples), (DEFINITIONS, held_out.items)):
        if not part:
            logger.warning("there are no %s: this part of the evaluation is left out", name)
    return held_out


def _asked(documents_dir: Path, config: EvaluateConfig) -> list[Asked]:
    contaminated = contaminated_items(documents_dir)
    return [
        Asked(benchmark, _sample(list(range(len(benchmark.rows))), config.max_items, config.seed), contaminated)
        for benchmark in check_benchmarks(config)
    ]


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


def _measure(
    candidate: Candidate, held_out: HeldOut, asked: Sequence[Asked], config: EvaluateConfig, advance: Advance
) -> Iterator[Units]:
    model, tokenizer, size = candidate.model, candidate.tokenizer, config.batch_tokens
    if held_out.documents:
        bits = text_bits(model, candidate.documents, batch_tokens=size, advance=advance)
        yield document_units(held_out.documents, bits)
    if held_out.examples:
        loss = answer_loss(model, candidate.examples, batch_tokens=size, advance=advance)
        yield example_units(held_out.examples, loss)
    if held_out.items:
        scores = score_choices(model, candidate.choices, batch_tokens=size, advance=advance)
        yield from definition_units(held_out.items, scores)
    for each in asked:

        def advance_items(n: int) -> None:
            advance(ITEM_TOKENS * n)

        found = outcome(model, tokenizer, each.benchmark, each.indices, batch_tokens=size, advance=advance_items)
        yield benchmark_units(each.benchmark, each.indices, found, each.contaminated)


def _by_name(units: Iterator[Units] | Sequence[Units]) -> dict[tuple[str, str], Units]:
    return {(each.benchmark, each.metric): each for each in units}


def _answers(chat: Candidate, held_out: HeldOut, config: EvaluateConfig, advance: Advance) -> list[SampledAnswer]:
    return sample_answers(
        chat.model,
        chat.tokenizer,
        held_out.questions,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        advance=advance,
    )


def _written(candidate: Candidate, config: EvaluateConfig) -> list[Written]:
    return write_on(
        candidate.name,
        candidate.model,
        candidate.tokenizer,
        config.prompts,
        as_chat=candidate.name == CHAT,
        max_new_tokens=config.max_new_tokens,
        sampling=Sampling(temperature=config.temperature, seed=config.seed),
    )


def _lm_eval(candidate: Candidate, config: EvaluateConfig) -> tuple[list[Units], list[Score]]:
    return lm_eval_scores(
        candidate.name,
        candidate.model,
        candidate.tokenizer,
        config.lm_eval_tasks,
        batch_tokens=config.batch_tokens,
        limit=config.max_items,
    )


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def figures(scores: Sequence[Score]) -> dict[str, float]:
    """The headline scores under flat names: `chat_four_choice_accuracy`, `xz_bits_per_byte`, `base_core`."""
    named = {}
    for score in scores:
        name = _FIGURES.get((score.benchmark, score.metric))
        if score.benchmark == CORE and not score.metric.endswith(OVER_BASE):
            name = "core"
        elif name is None and score.metric == ACCURACY and ", " not in score.benchmark:
            name = f"{score.benchmark}_accuracy"
        if name:
            named[f"{score.model.split()[0]}_{name}"] = round(score.estimate.score, SCORE_DECIMALS)
    return named


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
