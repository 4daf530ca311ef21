"""What stages left out, from the three kinds of table that say so."""

from __future__ import annotations

import pyarrow as pa

from llm.counts import Counts
from llm.data.common.drops import Dropped, write_dropped
from llm.files import write_table
from llm.report.sections import dropped


def test_reasons_come_by_frequency_with_their_counts_and_at_most_n_samples(tmp_path):
    items = [Dropped.of("", f"http://site/{i}", "text", "too short" if i % 3 else "language", f"{i}") for i in range(9)]
    write_dropped(tmp_path / "dropped-00000.parquet", items)
    found = dropped(tmp_path, Counts("pages", 9, 0, {"too short": 6, "language": 3}), 2)
    assert [(sample.reason, sample.n, len(sample.examples)) for sample in found] == [
        ("too short", 6, 2),
        ("language", 3, 2),
    ]
    assert all(example in items for sample in found for example in sample.examples)


def test_refused_addresses_and_skipped_records_show_their_story(tmp_path):
    refused = [{"url": "http://a/", "reason": "robots"}, {"url": "http://b/", "reason": "http 500: after 2 tries"}]
    write_table(tmp_path / "refused.parquet", pa.Table.from_pylist(refused))
    skipped = [{"file": "a.warc.gz", "place": "byte 12", "reason": "damaged: no gzip member"}]
    write_table(tmp_path / "skipped.parquet", pa.Table.from_pylist(skipped))
    counts = Counts("records", 4, 1, {"http 500": 1, "robots": 1, "damaged": 1})
    examples = {sample.reason: sample.examples for sample in dropped(tmp_path, counts, 5)}
    assert examples["http 500"] == [Dropped("", "http://b/", "http 500", "after 2 tries")]
    assert examples["robots"] == [Dropped("", "http://a/", "robots")]
    assert examples["damaged"] == [Dropped("", "a.warc.gz byte 12", "damaged", "no gzip member")]


def test_a_stage_that_drops_nothing_has_no_samples(tmp_path):
    assert dropped(tmp_path, Counts("tokens", 1, 1), 5) == []
