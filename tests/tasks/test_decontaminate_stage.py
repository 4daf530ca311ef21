"""The decontaminate stage on real files, as the pipeline builds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm.data.decontaminate import decontaminate as science
from llm.data.decontaminate.decontaminate import DecontaminateConfig
from llm.documents import Document, document_id
from llm.files import sha256_file
from tasks.decontaminate import decontaminate
from tests.tasks.document_stage import StageRun, prose

REASON = "benchmark item"
QUESTION = "Question: which of these breads is raised by wild yeast and bacteria in flour and water?"


def make_documents(texts: Sequence[str]) -> list[Document]:
    urls = [f"https://site/{i:03d}" for i in range(len(texts))]
    rows = enumerate(zip(urls, texts, strict=True))
    return [Document(document_id(u, t), u, "", t, "en", len(t), i % 3 == 0, "site") for i, (u, t) in rows]


@pytest.fixture
def benchmarks(tmp_path: Path) -> DecontaminateConfig:
    """Two benchmarks: `bread` of three items, of which one is too short, and `quiz` of thirty."""
    bread = [
        {"query": QUESTION, "choices": ["toast", "sourdough"], "gold": 1},
        {"query": "Why?", "choices": ["because", "so"], "gold": 0},
        {"context": "The oldest sourdough bread found so far was baked in", "continuation": "Switzerland"},
    ]
    quiz = [{"context": prose(20, ("quiz", i)), "continuation": "x"} for i in range(30)]
    for name, rows in (("bread", bread), ("quiz", quiz)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DecontaminateConfig(benchmarks=(f"{tmp_path}/*.jsonl",))


def corpus() -> list[Document]:
    texts = [prose(100, i) for i in range(12)]
    texts[2] = f"{texts[2]} Which of these BREADS is raised, by wild yeast and bacteria in flour and water? {texts[2]}"
    texts[6] = f"The oldest sourdough bread found so far was baked in Switzerland. {texts[6]}"
    texts[7] = f"The oldest sourdough bread found so far was baked in France. Why? because {texts[7]}"
    texts[9] = f"{prose(20, ('quiz', 4))} x {texts[9]} {prose(20, ('quiz', 8))}"
    return make_documents(texts)


def test_documents_with_items_are_dropped_and_every_hit_is_named(
    tmp_path: Path, benchmarks: DecontaminateConfig
) -> None:
    documents = corpus()
    run = StageRun(decontaminate, documents, tmp_path / "run", benchmarks)
    gone = {2, 6, 9}
    assert [Document(**row) for row in run.rows("documents-*")] == [d for i, d in enumerate(documents) if i not in gone]
    assert run.counts.dropped == {REASON: 3}
    hits = [(row["id"], row["benchmark"], row["item"], row["dropped"]) for row in run.rows("hits.parquet")]
    assert hits == [
        (documents[2].id, "bread", 0, True),
        (documents[6].id, "bread", 2, True),
        (documents[9].id, "quiz", 4, True),
        (documents[9].id, "quiz", 8, True),
    ]
    first = run.rows("hits.parquet")[0]
    assert first["ngram"] == "which of these breads is raised by wild yeast and bacteria in flour"
    assert (first["n_ngrams"], first["url"], first["held_out"]) == (3, documents[2].url, documents[2].held_out)
    drop = run.rows("dropped-*")[2]
    assert (drop["id"], drop["reason"]) == (documents[9].id, REASON)
    assert drop["detail"].startswith("quiz 4: 'w")
    assert drop["detail"].endswith("(2 items in all)")
    figures = run.counts.figures
    assert (figures["items"], figures["items searched"], figures["items found"], figures["hits"]) == (33, 32, 4, 4)
    assert (figures["items found of bread"], figures["items found of quiz"]) == (2, 2)
    assert figures["n_chars"] == sum(row["n_chars"] for row in run.rows("documents-*"))
    assert figures["n_held_out"] == sum(row["held_out"] for row in run.rows("documents-*"))


def test_documents_can_be_marked_only(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    run = StageRun(decontaminate, corpus(), tmp_path / "run", replace(benchmarks, action="mark"))
    assert [Document(**row) for row in run.rows("documents-*")] == corpus()
    assert run.counts.dropped == {}
    assert run.rows("dropped-*") == []
    assert [row["dropped"] for row in run.rows("hits.parquet")] == [False] * 4


def test_what_many_documents_say_is_no_hit(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    line = prose(20, ("quiz", 4))
    documents = make_documents([f"{prose(30, i)} {line if i < 4 else ''} {prose(30, -i)}" for i in range(20)])
    loose = replace(benchmarks, max_documents=4)
    assert StageRun(decontaminate, documents, tmp_path / "4", loose).counts.dropped == {REASON: 4}
    strict = StageRun(decontaminate, documents, tmp_path / "3", replace(benchmarks, max_documents=3))
    assert strict.counts.dropped == {}
    assert strict.rows("hits.parquet") == []


def test_without_benchmarks_every_document_passes_as_it_is(tmp_path: Path) -> None:
    run = StageRun(decontaminate, corpus(), tmp_path, DecontaminateConfig(), 3)
    for path in sorted((tmp_path / "in").iterdir()):
        assert sha256_file(path) == run.hashes()[path.name]
    assert run.counts.n_out == 12
    assert run.rows("hits.parquet") == []
    assert run.counts.figures["planted benchmark item: n"] == 20
    assert run.counts.figures["planted benchmark item: recall"] == 1


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    expected = StageRun(decontaminate, corpus(), tmp_path / "a", benchmarks, 3).hashes()
    assert StageRun(decontaminate, corpus(), tmp_path / "b", benchmarks, 3, n_workers=2).hashes() == expected


def test_the_files_do_not_change_the_result(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    expected = StageRun(decontaminate, corpus(), tmp_path / "a", benchmarks, 3)
    for n_files in (1, 7):
        run = StageRun(decontaminate, corpus(), tmp_path / str(n_files), benchmarks, n_files)
        assert run.counts == expected.counts
        for pattern in ("documents-*", "dropped-*", "hits.parquet"):
            assert run.rows(pattern) == expected.rows(pattern)


# ---------------------------------------------------------------- the canary check


def test_planted_items_never_get_out(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    run = StageRun(decontaminate, corpus(), tmp_path / "run", benchmarks)
    figures = {name: value for name, value in run.counts.figures.items() if name.startswith("planted")}
    kind = "planted benchmark item"
    assert figures == {f"{kind}: n": 20, f"{kind}: recall": 1, f"{kind}: precision": 1}
    assert not any("planted" in row["text"] for row in run.rows("documents-*"))


def test_the_run_stops_when_items_are_missed(
    tmp_path: Path, benchmarks: DecontaminateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(science, "find_ngrams", lambda texts, index: np.zeros((4, 0), dtype=np.int64))
    with pytest.raises(ValueError, match=r"recall of the canaries of 'benchmark item' is 0.00[\s\S]*item 0 of bread"):
        StageRun(decontaminate, corpus(), tmp_path / "run", benchmarks)


def test_the_run_stops_when_look_alikes_are_taken_for_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(science, "half_replaced", lambda text: text)
    with pytest.raises(ValueError, match=r"precision of the canaries .*20 of 20 look-alikes"):
        StageRun(decontaminate, corpus(), tmp_path, DecontaminateConfig())


def test_the_run_stops_when_most_of_the_corpus_is_a_benchmark(tmp_path: Path, benchmarks: DecontaminateConfig) -> None:
    texts = [f"{prose(30, i)} {prose(20, ('quiz', i % 30))}" if i < 40 else prose(50, i) for i in range(60)]
    with pytest.raises(ValueError, match=r"'benchmark item' dropped 40 of 60 documents[\s\S]*quiz \d+: 'w"):
        StageRun(decontaminate, make_documents(texts), tmp_path / "run", benchmarks)
