"""The examples of all sources as one set: without duplicates, split so that nothing held out is in training."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...counts import Counts
from ...files import read_table, write_table, write_text
from ...splits import held_out_groups
from ..common.components import components
from ..common.drops import Dropped, write_dropped
from .config import InstructConfig, InstructSource
from .definitions import hash_of
from .four_choice import N_CHOICES, benchmark_items
from .sources import DUPLICATE, Example, Found

N_LINKED = 3
"""Examples that share a last answer or a later question, and are kept together for it."""


def write_examples(
    definitions: Sequence[Path], given: Found, out_dir: Path, config: InstructConfig, dropped_name: str
) -> Counts:
    """Writes `train.parquet`, `val.parquet`, the examples dropped here, and of definitions `benchmark.jsonl`.

    `definitions` are the files of `extract_definitions`, `given` what `read_sources` found. Counts the examples that
    come in and those that stay. Raises ValueError when there are too few for both parts and the benchmark.
    """
    from_corpus = definition_examples(definitions, config)
    kept, repeated = without_duplicates([*from_corpus.examples, *given.examples])
    dropped = [*from_corpus.dropped, *given.dropped, *repeated]
    held_out = held_out_ids(kept, config)
    train = [example for example in kept if example.id not in held_out for _ in range(example.weight)]
    val = [example for example in kept if example.id in held_out]
    schema = example_schema(kept)
    write_table(out_dir / "train.parquet", example_table(train, schema))
    write_table(out_dir / "val.parquet", example_table(val, schema))
    write_dropped(out_dir / dropped_name, dropped)
    figures = {"n_train": len(train), "n_val": len(val)}
    if definitions:
        items = benchmark_items([example.definition for example in val if example.definition], config.seed)
        write_text(out_dir / "benchmark.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
        figures["n_benchmark"] = len(items)
    reasons = Counter(item.reason for item in dropped)
    return Counts("examples", from_corpus.n_read + given.n_read, len(kept), dict(reasons), figures)


def definition_examples(paths: Sequence[Path], config: InstructConfig) -> Found:
    """Returns examples made of the partitions' definitions; a symbol defined twice keeps its first definition."""
    source, found = config.definitions or InstructSource(), Found()
    seen: set[str] = set()
    for row in (row for path in paths for row in read_table(path).to_pylist()):
        reason = "duplicate symbol" if row["symbol"] in seen else ""
        if not reason and source.limit is not None and len(found.examples) >= source.limit:
            reason = "over the limit"
        if reason:
            found.dropped.append(Dropped.of(row["id"], row["url"], f"{row['symbol']}: {row['answer']}", reason))
            continue
        seen.add(row["symbol"])
        question = {"role": "user", "content": row["question"]}
        messages = [question, {"role": "assistant", "content": row["answer"]}]
        found.examples.append(Example(row["id"], row["symbol"], messages, row["document_id"], source.weight, row))
    return found


def without_duplicates(examples: Sequence[Example]) -> tuple[list[Example], list[Dropped]]:
    """Returns the first of each group of examples that say the same, and the others."""
    kept: dict[str, Example] = {}
    dropped = []
    for example in examples:
        said = json.dumps(example.messages)
        if said in kept:
            url = example.definition["url"] if example.definition else ""
            dropped.append(Dropped.of(example.id, url, example.first_question, DUPLICATE))
        else:
            kept[said] = example
    return list(kept.values()), dropped


def held_out_ids(examples: Sequence[Example], config: InstructConfig) -> set[str]:
    """Returns the examples kept from training: the groups with the lowest hashes, up to the configured share of all.

    See `linked` for what a group is. One that is larger than the share stays in training; a benchmark of definitions
    takes at least four. Raises ValueError when there are too few groups.
    """
    n_least = N_CHOICES if config.definitions else 1
    n_wanted = max(n_least, round(config.held_out_fraction * len(examples)))
    groups, n_with = linked(examples, n_wanted), n_sharing(examples)

    def drawn_by(example: Example) -> str:
        """Those with one answer are drawn together, unless it is a label that would bring all others with it."""
        is_label = n_with["answer", example.answer] > N_LINKED and example.definition is None
        return hash_of(str(config.seed), example.id if is_label else example.answer)

    chosen = held_out_groups(groups, drawn_by, n_wanted, n_least)
    if len(groups) <= n_least:
        raise ValueError(
            f"among {len(examples)} examples {len(groups)} with different questions were found, {n_least + 1} "
            "are needed: give more examples; for definitions crawl pages that hold Sphinx definition lists (dl.py), or "
            "widen min_answer_chars and max_answer_chars"
        )
    if not chosen:
        raise ValueError(
            f"the {len(examples)} examples make {len(groups)} groups that share a question, the smallest of "
            f"{min(map(len, groups))} examples, and at most {n_wanted} may be held out: give more examples, or raise "
            "held_out_fraction"
        )
    return {example.id for group in chosen for example in group}


def linked(examples: Sequence[Example], n_most: int) -> list[list[Example]]:
    """Returns the examples in groups, each of which stands whole on one side of the split.

    A question that begins a chat is whole in itself: all chats that ask it, at any turn, are one group, and so are
    those with the answer of a definition, which the benchmark asks. Any other text of a chat means little without it,
    and links only where at most `N_LINKED` examples share it ("continue", "Yes" and other labels do not), and not into
    a group of more than `n_most` examples, of which none could be held out.
    """
    n_with = n_sharing(examples)
    whole = {("question", example.first_question) for example in examples}
    whole |= {("answer", example.answer) for example in examples if example.definition}
    always = {example.id: [text for text in texts_of(example) if text in whole] for example in examples}
    few = {
        example.id: [text for text in texts_of(example) if text in whole or n_with[text] <= N_LINKED]
        for example in examples
    }
    groups = connected(examples, few)
    return [part for group in groups for part in ([group] if len(group) <= n_most else connected(group, always))]


def texts_of(example: Example) -> list[tuple[str, str]]:
    """Returns what two examples may share: each question once, and the last answer."""
    asked = dict.fromkeys(message["content"] for message in example.messages if message["role"] == "user")
    return [*(("question", text) for text in asked), ("answer", example.answer)]


def n_sharing(examples: Sequence[Example]) -> Counter[tuple[str, str]]:
    """Returns how many examples have each of their texts."""
    return Counter(text for example in examples for text in texts_of(example))


def connected(examples: Sequence[Example], texts: Mapping[str, Sequence[tuple[str, str]]]) -> list[list[Example]]:
    """Returns the examples in groups; two that have a text in common, directly or through others, are in one.

    `texts` holds those of each example, by its id, one at least.
    """
    first_with: dict[tuple[str, str], int] = {}
    pairs = [
        (first_with.setdefault(text, number), number)
        for number, example in enumerate(examples)
        for text in texts[example.id]
    ]
    groups: dict[int, list[Example]] = defaultdict(list)
    for number, first in zip(*components(np.array(pairs, dtype=np.int64).reshape(-1, 2)), strict=True):
        groups[first].append(examples[number])
    return list(groups.values())


def example_schema(examples: Sequence[Example]) -> pa.Schema:
    """Returns how the examples are stored; `messages` have a field `weight` only where a turn is not to be learned."""
    turn = [("role", pa.string()), ("content", pa.string())]
    if any("weight" in message for example in examples for message in example.messages):
        turn.append(("weight", pa.int8()))
    return pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("messages", pa.list_(pa.struct(turn))),
            ("document_id", pa.string()),
        ]
    )


def example_table(examples: Sequence[Example], schema: pa.Schema) -> pa.Table:
    """Returns the examples as they are stored."""
    return pa.Table.from_pylist([{name: getattr(one, name) for name in schema.names} for one in examples], schema)


def overall_counts(extracted: Counts | None, written: Counts) -> Counts:
    """Returns the counts of both steps as one: what was found, examples made, and every reason on the way.

    `extracted` is the total of `extract_definitions`, if there was one; `written` what `write_examples` returned.
    """
    if extracted is None:
        return written
    reasons = Counter(extracted.dropped) + Counter(written.dropped)
    n_in = extracted.n_in + written.n_in - extracted.n_out
    return dataclasses.replace(written, n_in=n_in, dropped=dict(reasons))
