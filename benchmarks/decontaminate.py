"""Decontamination: documents searched for benchmark items per second, beside sets of word 13-grams in plain Python.

Documents of about 220 words are made of the words of some text files, and an item is put into every hundredth. Recall
counts those items; every hit beside them is checked by brute force.

    python -m benchmarks.decontaminate --data DIR --benchmarks "core/*.jsonl" [--documents 20000]

`DIR` holds plain text (`*.txt`, some MB). Times are CPU seconds of one thread, the two ways in turns.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.dedup import fresh_documents
from llm.data.common.ngrams import split_words
from llm.data.decontaminate.decontaminate import DecontaminateConfig, build_index, put_into, read_benchmarks
from llm.data.decontaminate.ngram_index import NgramIndex, find_ngrams
from llm.data.user_files.benchmark_items import BenchmarkItem

Pairs = set[tuple[int, int]]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.txt")
    parser.add_argument("--benchmarks", required=True, help="pattern of JSONL files")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = DecontaminateConfig(benchmarks=(options.benchmarks,))
    items = read_benchmarks(config)
    start = time.process_time()
    index = build_index(items, config)
    print(f"{len(items):,} items, {len(index.keys):,} n-grams, indexed in {time.process_time() - start:.1f} s")
    texts, planted = make_corpus(options.data, options.documents, items, index)
    times: dict[str, list[float]] = {"sourdough": [], "plain Python": []}
    for _ in range(options.rounds):
        start = time.process_time()
        found = hits(texts, index)
        times["sourdough"].append((time.process_time() - start) / len(texts))
        start = time.process_time()
        plain_hits(texts[:2_000], items[:2_000], config.ngram)
        times["plain Python"].append((time.process_time() - start) / 2_000)
    for name, values in times.items():
        print(f"{name:14s} {1 / statistics.median(values):9,.0f} documents/s")
    beside = [pair for pair in found - planted if not shares_words(texts[pair[0]], items[pair[1]], config)]
    print(f"recall {len(planted & found) / len(planted):.4f} of {len(planted)} planted items")
    print(f"{len(found - planted):,} hits beside them, {len(beside)} of these not confirmed by brute force")


def make_corpus(data: Path, n: int, items: list[BenchmarkItem], index: NgramIndex) -> tuple[list[str], Pairs]:
    """Texts, and which (text, item) was planted."""
    rng = random.Random(1)
    texts = [" ".join(words) for words in itertools.islice(fresh_documents(data, rng), n)]
    searchable = np.unique(index.items).tolist()
    planted = {(i, rng.choice(searchable)) for i in range(0, n, 100)}
    for text, item in planted:
        texts[text] = put_into(texts[text], items[item].text)
    return texts, planted


def hits(texts: list[str], index: NgramIndex) -> Pairs:
    """(text, item) of all hits."""
    found = find_ngrams(texts, index)
    owner, item = index.items_of(found[1].view(np.uint64))
    return set(zip(found[0][owner].tolist(), item.tolist(), strict=True))


def runs_of(words: list[str], n: int) -> set[tuple[str, ...]]:
    """All runs of `n` words."""
    return set(zip(*(words[i:] for i in range(n)), strict=False))


def plain_hits(texts: list[str], items: list[BenchmarkItem], n: int) -> Pairs:
    """The same with sets of tuples, without the shorter items; the time is that of the documents mostly."""
    known: dict[tuple[str, ...], int] = {}
    for i, item in enumerate(items):
        known.update(dict.fromkeys(runs_of(split_words(item.text, punctuation=False), n), i))
    texts_runs = (runs_of(split_words(text, punctuation=False), n) for text in texts)
    return {(i, known[run]) for i, found in enumerate(texts_runs) for run in found if run in known}


def shares_words(text: str, item: BenchmarkItem, config: DecontaminateConfig) -> bool:
    """Whether text and item really have a run of words in common."""
    words = split_words(text, punctuation=False)
    for part in item.texts():
        wanted = split_words(part, punctuation=False)
        length = min(len(wanted), config.ngram)
        if length >= config.min_words and runs_of(words, length) & runs_of(wanted, length):
            return True
    return False


if __name__ == "__main__":
    main()
