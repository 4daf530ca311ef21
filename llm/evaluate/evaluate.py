"""The evaluate stage: scores of the base and the chat model, each with its 95 % interval, chance level and baseline."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..counts import Counts
from ..documents import Document, read_documents
from ..files import write_table, write_text
from ..model.files import load_model
from ..model.generate import Sampling
from ..model.gpt import GPT
from ..tokenizer.tokenizer import Tokenizer
from .answers import (
    Example,
    Sample,
    answer_loss,
    answer_units,
    continue_prompts,
    read_examples,
    sample_answers,
)
from .benchmarks import Benchmark, check_benchmarks, contaminated_items, read_definitions
from .bits_per_byte import bits_per_byte, document_tokens, xz_score
from .choices import centred_rows, choice_units, choose, word_overlap
from .config import EvaluateConfig
from .likelihood import Advance, n_targets
from .lm_eval_tasks import quiet_hub
from .metrics import BASE, CHAT, DEFINITIONS, DOCUMENTS, EXAMPLES, FOUR_CHOICE, WORD_OVERLAP
from .scores import (
    ANSWERS_FILE,
    ITEMS_FILE,
    SAMPLES_FILE,
    SCORE_DECIMALS,
    SCORES_FILE,
    Score,
    Units,
    item_table,
    score_rows,
    score_table,
)

logger = logging.getLogger(__name__)

ITEM_TOKENS = 50
"""What an item of a benchmark counts in the progress, beside the tokens of all else."""

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A benchmark, the items of it that are asked, and the lines of those that are contaminated."""

    benchmark: Benchmark
    indices: list[int]
    contaminated: set[int] | None = None
    """None: nobody has looked."""


@dataclass(frozen=True)
class Material:
    """What the models are measured on: what is held out of training, and benchmarks."""

    documents: list[Document]
    examples: list[Example]
    questions: list[Example]
    asked: list[Asked]

    @property
    def n_benchmark_items(self) -> int:
        """Items of all benchmarks."""
        return sum(len(each.indices) for each in self.asked)

    @property
    def n_items(self) -> int:
        """Documents, examples and items together."""
        return len(self.documents) + len(self.examples) + self.n_benchmark_items


@dataclass(frozen=True)
class Candidate:
    """A model with what it will be asked, in its own tokens."""

    name: str
    model: GPT
    tokenizer: Tokenizer
    documents: list[list[int]]
    examples: list[tuple[list[int], list[bool]]]


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
    material = read_material(documents_dir, examples_dir, config)
    if material.n_items == 0:
        raise ValueError("nothing is held out, so nothing can be scored: raise clean.held_out_fraction")
    scores: list[Score] = []
    with _threads(config.n_threads):
        candidates = [_candidate(name, path, material, config) for name, path in model_dirs.items()]
        advance = _advance(progress, candidates, material, config)
        measured = {made.name: _by_name(_measure(made, material, config, advance)) for made in candidates}
        answers = sample_answers(
            candidates[-1].model,
            candidates[-1].tokenizer,
            material.questions,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
            advance=advance,
        )
        samples = [sample for candidate in candidates for sample in _samples(candidate, config)]
        for candidate in candidates if config.lm_eval_tasks else []:
            units, bare = _lm_eval(candidate, config)
            measured[candidate.name] |= _by_name(units)
            scores += bare
    if answers:
        measured[CHAT] |= _by_name(answer_units(material.questions, answers))
    for each in material.asked:
        if each.benchmark.is_definitions:
            chosen = {FOUR_CHOICE: word_overlap(each.benchmark, each.indices)}
            measured[WORD_OVERLAP] = _by_name(choice_units(each.benchmark, each.indices, chosen))
    scores += [xz_score([document.text for document in material.documents])] if material.documents else []
    scores += score_rows(measured, CHAT, BASE)
    of_files = [each.benchmark for each in material.asked if not each.benchmark.is_definitions]
    scores += centred_rows(measured, of_files, CHAT, BASE)
    write_table(out_dir / SCORES_FILE, score_table(scores))
    write_table(out_dir / ITEMS_FILE, item_table(measured))
    _write_lines(out_dir / ANSWERS_FILE, answers)
    _write_lines(out_dir / SAMPLES_FILE, samples)
    return Counts("items", material.n_items, material.n_items, figures=headline_scores(scores))


def read_material(documents_dir: Path, examples_dir: Path | None, config: EvaluateConfig) -> Material:
    """Returns the material, within the limits of `config`; a part that is empty is left out with a warning."""
    documents = [document for document in read_documents(documents_dir) if document.held_out and document.text]
    examples = read_examples(examples_dir / "val.parquet") if examples_dir else []
    path = examples_dir / "benchmark.jsonl" if examples_dir else None
    definitions = read_definitions(path) if path and path.exists() else None
    contaminated = contaminated_items(documents_dir)
    asked = [Asked(definitions, _indices(definitions, config))] if definitions and definitions.rows else []
    for name, part in ((DOCUMENTS, documents), (EXAMPLES, examples), (DEFINITIONS, asked)):
        if not part:
            logger.warning("there are no %s: this part of the evaluation is left out", name)
    for benchmark in check_benchmarks(config):
        asked.append(Asked(benchmark, _indices(benchmark, config), contaminated.get(benchmark.path.stem)))
    return Material(
        documents=_sample(documents, config.max_documents, config.seed),
        examples=_sample(examples, config.max_examples, config.seed),
        questions=_sample(examples, config.n_answers, config.seed + 1),
        asked=asked,
    )


def _indices(benchmark: Benchmark, config: EvaluateConfig) -> list[int]:
    return _sample(list(range(len(benchmark.rows))), config.max_items, config.seed)


def _sample(values: list[T], limit: int | None, seed: int) -> list[T]:
    """Returns `limit` of the values at random, in their own order; all when there are no more."""
    if limit is None or len(values) <= limit:
        return values
    chosen = np.random.default_rng(seed).choice(len(values), size=limit, replace=False)
    return [values[index] for index in sorted(chosen)]


def _candidate(name: str, model_dir: Path, material: Material, config: EvaluateConfig) -> Candidate:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.load(model_dir)
    return Candidate(
        name,
        load_model(model_dir, device),
        tokenizer,
        document_tokens(tokenizer, [document.text for document in material.documents]),
        [tokenizer.render_chat(example.messages) for example in material.examples],
    )


def _measure(candidate: Candidate, material: Material, config: EvaluateConfig, advance: Advance) -> Iterator[Units]:
    model, size = candidate.model, config.batch_tokens
    if material.documents:
        yield bits_per_byte(model, material.documents, candidate.documents, batch_tokens=size, advance=advance)
    if material.examples:
        yield answer_loss(model, material.examples, candidate.examples, batch_tokens=size, advance=advance)
    for each in material.asked:
        chosen = choose(
            model,
            candidate.tokenizer,
            each.benchmark,
            each.indices,
            as_chat=candidate.name == CHAT,
            neutral_question=config.neutral_question,
            batch_tokens=size,
            advance=lambda n: advance(ITEM_TOKENS * n),
        )
        yield from choice_units(each.benchmark, each.indices, chosen, each.contaminated)


def _by_name(units: Iterable[Units]) -> dict[tuple[str, str], Units]:
    return {(each.benchmark, each.metric.name): each for each in units}


def _samples(candidate: Candidate, config: EvaluateConfig) -> list[Sample]:
    return continue_prompts(
        candidate.name,
        candidate.model,
        candidate.tokenizer,
        config.prompts,
        as_chat=candidate.name == CHAT,
        max_new_tokens=config.max_new_tokens,
        sampling=Sampling(temperature=config.temperature, seed=config.seed),
    )


def _lm_eval(candidate: Candidate, config: EvaluateConfig) -> tuple[list[Units], list[Score]]:
    """Returns what a model scores in tasks of lm-eval."""
    quiet_hub(config.lm_eval_tasks)
    from .lm_eval_model import measured_by, run_tasks  # five seconds of imports, which must see the environment

    results = run_tasks(
        candidate.model,
        candidate.tokenizer,
        config.lm_eval_tasks,
        batch_tokens=config.batch_tokens,
        limit=config.max_items,
    )
    return measured_by(results, candidate.name)


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def headline_scores(scores: Sequence[Score]) -> dict[str, float]:
    """Returns the headline scores under flat names: `chat_four_choice_accuracy`, `xz_bits_per_byte`, `base_core`."""
    named = {}
    for score in scores:
        if score.metric.key and not score.is_difference and ", " not in score.benchmark:
            key = score.metric.key.format(benchmark=score.benchmark)
            named[f"{score.model.split()[0]}_{key}"] = round(score.estimate.score, SCORE_DECIMALS)
    return named


def _advance(
    progress: Callable[[int, int], None], candidates: Sequence[Candidate], material: Material, config: EvaluateConfig
) -> Advance:
    """Returns what adds tokens to the progress."""
    total = len(material.questions) * config.max_new_tokens
    for candidate in candidates:
        total += n_targets(candidate.documents) + n_targets([tokens for tokens, _ in candidate.examples])
        total += ITEM_TOKENS * material.n_benchmark_items
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
