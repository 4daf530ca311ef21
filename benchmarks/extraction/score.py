"""Scores the extractor on pages of domains that its model has not seen, beside trafilatura and BeautifulSoup.

    python -m benchmarks.extraction.score --data DIR

Splits the pages of WCXB by domain (60/40, stratified by page type), trains on the first part exactly as `train` does on
all, and scores on the second: word F1 by page type, a bootstrap over domains of the mean and of its difference to
trafilatura's on the same pages, and CPU time a page of all three, measured in turn. Needs lightgbm and trafilatura.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trafilatura
from bs4 import BeautifulSoup

from llm.data.clean.extract import extract_with
from llm.data.html.block_model import BlockModel, model_from

from .pages import SEED, LabelledPage, read_pages, split_pages, word_f1
from .train import trained_model, write_model

N_DRAWS = 2_000
CHUNK = 20
"""Pages that one extractor reads before it is the next one's turn."""

Extractor = Callable[[bytes], str]


def extractors(model: BlockModel) -> dict[str, Extractor]:
    """The ones compared, by name."""
    return {
        "ours": lambda html: extract_with(model, html).text,
        "trafilatura": lambda html: trafilatura.extract(html) or "",
        "bs4": lambda html: BeautifulSoup(html, "html.parser").get_text(" "),
    }


def read_all(pages: list[LabelledPage], model: BlockModel) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """F1 of each page, and CPU seconds a page of each chunk of pages, by extractor; garbage collection is on."""
    scores: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(pages), CHUNK):
        chunk = pages[start : start + CHUNK]
        for name, read in extractors(model).items():
            gc.collect()  # what the one before left behind is not this one's work
            begin = time.process_time()
            texts = [read(page.html) for page in chunk]
            seconds[name].append((time.process_time() - begin) / len(chunk))
            scores[name] += [word_f1(text, page.main_content) for text, page in zip(texts, chunk, strict=True)]
    return scores, seconds


def interval(pages: list[LabelledPage], values: list[float]) -> tuple[float, float]:
    """95 % interval of the mean over pages, by drawing domains with replacement."""
    of_domain: dict[str, list[float]] = defaultdict(list)
    for page, value in zip(pages, values, strict=True):
        of_domain[page.domain].append(value)
    sums = np.array([(sum(values), len(values)) for values in of_domain.values()])
    drawn = sums[np.random.default_rng(SEED).integers(0, len(sums), (N_DRAWS, len(sums)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


def print_scores(pages: list[LabelledPage], scores: dict[str, list[float]]) -> None:
    """A table of F1 by page type, and the intervals."""
    print("| page type | pages | " + " | ".join(scores) + " |\n|---|---|" + "---|" * len(scores))
    for kind in [*sorted({page.type for page in pages}), "all"]:
        chosen = [i for i, page in enumerate(pages) if kind in (page.type, "all")]
        means = [np.mean([values[i] for i in chosen]) for values in scores.values()]
        print(f"| {kind} | {len(chosen)} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    low, high = interval(pages, scores["ours"])
    print(f"ours: 95 % interval {low:.3f} to {high:.3f} (over domains)")
    gains = [ours - theirs for ours, theirs in zip(scores["ours"], scores["trafilatura"], strict=True)]
    low, high = interval(pages, gains)
    print(f"ours - trafilatura: {np.mean(gains):+.4f}, 95 % interval {low:+.4f} to {high:+.4f} (paired, over domains)")


def print_speeds(seconds: dict[str, list[float]]) -> None:
    """Pages per second of CPU time, and how many times as fast as each peer ours is (median over chunks)."""
    for name, values in seconds.items():
        ratio = np.median(np.array(values) / np.array(seconds["ours"]))
        print(f"{name}: {1 / np.mean(values):.0f} pages/s; ours is {ratio:.1f} times as fast (median of {len(values)})")


def main() -> None:
    """Trains on part 1, or reads a model that was; prints the figures of part 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of WCXB pages")
    parser.add_argument("--model", type=Path, help="where the model of part 1 is kept: read if it exists, else written")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # trafilatura complains of pages
    seen, unseen = split_pages(read_pages(arguments.data))
    if arguments.model and arguments.model.exists():
        values = json.loads(arguments.model.read_text(encoding="utf-8"))
    else:
        values = trained_model(seen)
        if arguments.model:
            write_model(values, arguments.model)
    scores, seconds = read_all(unseen, model_from(values))
    print_scores(unseen, scores)
    print_speeds(seconds)


if __name__ == "__main__":
    main()
