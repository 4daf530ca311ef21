"""Benchmark items in the corpus: documents that share a run of words with one are dropped or marked.

An item is found in a document that has 13 words in a row of it (Brown et al., 2020, "Language Models are Few-Shot
Learners", appendix C); a shorter item, or a shorter line of one, must stand there whole. Case and punctuation do not
count. What is common is no sign: runs that stand in many documents of the corpus, or in many items of the benchmarks
(their instructions), are not looked for.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...config import Config, setting
from ...counts import Counts
from ...files import read_table, write_table
from ..common.canary_check import CanaryCheck, CanaryResult
from ..common.drops import Dropped, write_dropped
from ..common.keyed import runs
from ..common.ngrams import split_words
from ..common.parts import DocumentPart, spread_numbers
from ..user_files.benchmark_items import BenchmarkItem, benchmark_files, read_items
from .ngram_index import NgramIndex, find_ngrams

REASON = "benchmark item"
N_CANARIES = 20
"""Canaries: items put into copies of documents, to see that they are found."""

FOUND_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("id", pa.string()),
        ("url", pa.string()),
        ("held_out", pa.bool_()),
        ("key", pa.uint64()),
        ("ngram", pa.string()),
    ]
)
HIT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.int32()),  # line of the benchmark's file, from 0
        ("ngram", pa.string()),  # a run of words in common, the first in the document
        ("n_ngrams", pa.int32()),  # how many there are
        ("held_out", pa.bool_()),
        ("dropped", pa.bool_()),  # the document is not in the corpus any more
    ]
)


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig(Config):
    """Which benchmarks the corpus must not contain."""

    benchmarks: tuple[str, ...] = ()
    """JSONL files of benchmark items: paths, folders, or patterns ("bench/*.jsonl"); none: every document passes."""

    ngram: int = setting(13, at_least=2)
    """Words in a row that a document has in common with an item of which it gives the text away."""

    min_words: int = setting(8, at_least=2)
    """A shorter item or line is looked for whole if it has at least so many words; with fewer it could be anything."""

    max_documents: int = setting(10, at_least=1)
    """Words in a row that stand in more documents than this are common, and no sign of an item."""

    max_items: int = setting(10, at_least=1)
    """Words in a row that stand in more items than this are instructions, and no sign of an item."""

    action: Literal["drop", "mark"] = "drop"
    """What becomes of a document with an item: `drop` it, or leave it in and only `mark` it, in hits.parquet."""

    canary_check: CanaryCheck = CanaryCheck()
    """When to stop the run: canaries not found, or too many documents dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_words > self.ngram:
            raise ValueError(f"min_words is {self.min_words}; allowed: up to ngram, which is {self.ngram}")


def read_benchmarks(config: DecontaminateConfig) -> list[BenchmarkItem]:
    """Returns the items of all benchmarks, file by file."""
    return [item for path in benchmark_files(config.benchmarks) for item in read_items(path)]


def build_index(items: Sequence[BenchmarkItem], config: DecontaminateConfig) -> NgramIndex:
    """Returns the runs of words of some items, by which they are found; items are numbered in the order given."""
    texts = [(number, text) for number, item in enumerate(items) for text in item.texts()]
    return NgramIndex.build(texts, config.ngram, config.min_words, config.max_items)


# ---------------------------------------------------------------- find, decide, select


def find_part(part: DocumentPart, index: Path, out_dir: Path, config: DecontaminateConfig) -> Counts:
    """Writes `found.parquet`: the runs of words of benchmark items in one file of documents, each once a document."""
    table = part.read(["id", "url", "held_out", "text"])
    texts = table["text"].to_pylist()
    found = find_ngrams(texts, NgramIndex.load(index))
    words = {row: split_words(texts[row], punctuation=False) for row in set(found[0].tolist())}
    ngrams = [" ".join(words[row][start : start + length]) for row, _, start, length in found.T.tolist()]
    columns = [pa.array(part.start + found[0]), *(table[name].take(found[0]) for name in ("id", "url", "held_out"))]
    columns += [pa.array(found[1].view(np.uint64)), pa.array(ngrams, pa.string())]
    write_table(out_dir / "found.parquet", pa.Table.from_arrays(columns, schema=FOUND_SCHEMA))
    return Counts("documents", len(texts), len(texts))


def decide(
    found: Sequence[Path], index: NgramIndex, items: Sequence[BenchmarkItem], config: DecontaminateConfig
) -> pa.Table:
    """Returns the hits, a row for each document and item, in order of document and item.

    `HIT_SCHEMA` and the column `number`.

    `found` are the files of `find_part`, in order. What stands in too many documents is left out.
    """
    table = pa.concat_tables([FOUND_SCHEMA.empty_table(), *(read_table(path) for path in found)])
    keys = table["key"].to_numpy()
    _, index_of_key, n_documents = np.unique(keys, return_inverse=True, return_counts=True)
    table = table.filter(pa.array(n_documents[index_of_key] <= config.max_documents))
    owner, item = index.items_of(table["key"].to_numpy())
    table = table.take(owner)
    order = np.lexsort((owner, item, table["number"].to_numpy()))  # the first run of a document and item leads
    table, item = table.take(order), item[order]
    number = table["number"].to_numpy()
    pair = number.astype(np.uint64) * np.uint64(len(items) + 1) + item.astype(np.uint64)
    first, lengths = runs(pair)
    table, item = table.take(first), item[first]
    columns = {
        "id": table["id"],
        "url": table["url"],
        "benchmark": pa.array([items[i].benchmark for i in item], pa.string()),
        "item": pa.array([items[i].item for i in item], pa.int32()),
        "ngram": table["ngram"],
        "n_ngrams": pa.array(lengths, pa.int32()),
        "held_out": table["held_out"],
        "dropped": pa.array(np.full(len(item), config.action == "drop")),
    }
    return pa.table(columns, schema=HIT_SCHEMA).append_column("number", table["number"])


def dropped_by(hits: pa.Table, config: DecontaminateConfig) -> pa.Table:
    """Returns the documents to drop, in order of number: `number`, and in `detail` what was found.

    None to be only marked.
    """
    rows: dict[int, str] = {}
    n_items = Counter(hits["number"].to_pylist())
    for row in hits.to_pylist() if config.action == "drop" else ():
        what = f"{row['benchmark']} {row['item']}: {row['ngram']!r}"
        rows.setdefault(row["number"], f"{what} ({n_items[row['number']]} items in all)")
    schema = pa.schema([("number", pa.int64()), ("detail", pa.string())])
    return pa.table({"number": list(rows), "detail": list(rows.values())}, schema=schema)


def select_part(part: DocumentPart, decided: Path, out_dir: Path, config: DecontaminateConfig) -> Counts:
    """Writes the documents without an item of a benchmark, and those dropped; `decided` has what `dropped_by` gives.

    Counts documents; the figures are n_chars and n_held_out of those kept. A file without a drop is copied as it is.
    """
    table = read_table(decided)
    table = table.filter((pc.field("number") >= part.start) & (pc.field("number") < part.stop))
    details = {number - part.start: detail for number, detail in zip(*table.to_pydict().values(), strict=True)}
    if details:
        documents = part.read()
        drops = [_dropped(documents.slice(row, 1).to_pylist()[0], detail) for row, detail in details.items()]
        kept = documents.take(np.setdiff1d(np.arange(documents.num_rows), list(details)))
        write_table(out_dir / "documents.parquet", kept)
    else:
        drops = []
        kept = part.read(["n_chars", "held_out"])
        shutil.copyfile(part.path, out_dir / "documents.parquet")
    write_dropped(out_dir / "dropped.parquet", drops)
    figures = {"n_chars": pc.sum(kept["n_chars"]).as_py() or 0, "n_held_out": pc.sum(kept["held_out"]).as_py() or 0}
    dropped = {REASON: len(drops)} if drops else {}
    return Counts("documents", kept.num_rows + len(drops), kept.num_rows, dropped, figures)


def _dropped(row: dict[str, Any], detail: str) -> Dropped:
    return Dropped.of(row["id"], row["url"], row["text"], REASON, detail)


def hit_figures(hits: pa.Table, items: Sequence[BenchmarkItem], index: NgramIndex) -> dict[str, float]:
    """Returns the figures of the stage: items, those looked for, those found (also of each benchmark), hits."""
    found = {(row["benchmark"], row["item"]) for row in hits.select(["benchmark", "item"]).to_pylist()}
    by_name = Counter(benchmark for benchmark, _ in found)
    names = {f"items found of {name}": by_name[name] for name in sorted({item.benchmark for item in items})}
    n_searched = len(np.unique(index.items))
    return {"items": len(items), "items searched": n_searched, "items found": len(found), "hits": len(hits), **names}


# ---------------------------------------------------------------- self-check


def check_canaries(
    parts: Sequence[DocumentPart], items: Sequence[BenchmarkItem], index: NgramIndex, config: DecontaminateConfig
) -> CanaryResult:
    """Returns whether items are found in documents that they were put into, but not with every second word replaced.

    Without benchmarks the items are made up, so that the search is tried in any case.
    """
    if not items:
        items = made_up_items(config)
        index = build_index(items, config)
    searchable = np.unique(index.items).tolist()
    n = min(N_CANARIES, len(searchable))
    chosen = [searchable[i * len(searchable) // n] for i in range(n)]
    texts = list(itertools.islice(itertools.cycle(_sample(parts)), n))
    before = _has_item(texts, chosen, index)
    canaries = _has_item([put_into(text, items[i].text) for text, i in zip(texts, chosen, strict=True)], chosen, index)
    others = [put_into(text, half_replaced(items[i].text)) for text, i in zip(texts, chosen, strict=True)]
    wrong = [found and not was for found, was in zip(_has_item(others, chosen, index), before, strict=True)]
    failures = [f"not found: {_place(items[i])}" for i, found in zip(chosen, canaries, strict=True) if not found]
    failures += [
        f"found with half its words: {_place(items[i])}" for i, is_so in zip(chosen, wrong, strict=True) if is_so
    ]
    return CanaryResult(REASON, n, sum(canaries), n, sum(wrong), tuple(failures))


def made_up_items(config: DecontaminateConfig) -> list[BenchmarkItem]:
    """Returns items of words that no text has, long ones and ones just long enough to be looked for."""
    lengths = [config.min_words if i % 2 else 2 * config.ngram for i in range(N_CANARIES)]
    texts = [" ".join(f"made{i}up{j}" for j in range(length)) for i, length in enumerate(lengths)]
    return [BenchmarkItem("made up", i, text) for i, text in enumerate(texts)]


def put_into(text: str, addition: str) -> str:
    """Returns the text with another as a paragraph in its middle, between two words."""
    middle = next((i for i in range(len(text) // 2, len(text)) if text[i].isspace()), len(text))
    return f"{text[:middle]}\n\n{addition}\n\n{text[middle:]}"


def half_replaced(text: str) -> str:
    """Returns the words of a text, every second one replaced: no two in a row are left."""
    words = split_words(text, punctuation=False)
    return " ".join(f"planted{i}" if i % 2 == 0 else word for i, word in enumerate(words))


def _sample(parts: Sequence[DocumentPart]) -> list[str]:
    """Texts from all over the corpus."""
    numbers = np.array(spread_numbers(parts, N_CANARIES))
    texts: list[str] = []
    for part in parts:
        rows = numbers[(numbers >= part.start) & (numbers < part.stop)] - part.start
        if len(rows):
            texts += part.read(["text"])["text"].take(rows).to_pylist()
    return texts


def _has_item(texts: Sequence[str], items: Sequence[int], index: NgramIndex) -> list[bool]:
    """Whether each text has the item of the same position."""
    found = find_ngrams(texts, index)
    owner, item = index.items_of(found[1].view(np.uint64))
    hits = set(zip(found[0][owner].tolist(), item.tolist(), strict=True))
    return [pair in hits for pair in enumerate(items)]


def _place(item: BenchmarkItem) -> str:
    return f"item {item.item} of {item.benchmark}, {item.text[:80]!r}"
