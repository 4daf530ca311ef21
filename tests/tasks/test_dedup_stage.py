"""The dedup stage on real files, as the pipeline builds it."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.data.common import keyed
from llm.data.common.ngrams import hash_shingles
from llm.data.dedup import minhash
from llm.data.dedup import steps as dedup_steps
from llm.data.dedup.dedup import DedupConfig
from llm.documents import Document, document_id
from tasks.dedup import dedup
from tests.tasks.document_stage import StageRun, prose

EXACT, NEAR, REPEATED = "exact duplicate", "near duplicate", "repeated paragraphs"
CONFIG = DedupConfig()


def make_document(text: str, url: str) -> Document:
    held_out = random.Random(url).random() < 0.3
    return Document(document_id(url, text), url, "", text, "en", len(text), held_out, "site")


def edited(text: str, n_words: int, seed: object) -> str:
    rng, words = random.Random(str(seed)), text.split(" ")
    for place in rng.sample(range(len(words)), n_words):
        words[place] = f"x{rng.randrange(1_000)}"
    return " ".join(words)


def make_corpus(seed: int) -> list[Document]:
    """Documents in order of URL, half of them with copies; the lengths of the URLs do not follow that order."""
    rng = random.Random(seed)
    texts = []
    for i in range(60):
        original = prose(rng.randint(60, 200), (seed, i))
        texts += [original] + [
            edited(original, rng.randint(0, 4), (seed, i, j)) for j in range(rng.choice((0, 0, 1, 2)))
        ]
    rng.shuffle(texts)
    documents = [make_document(text, f"https://site/{i:03d}{'x' * rng.randint(0, 5)}") for i, text in enumerate(texts)]
    return sorted(documents, key=lambda document: document.url)


def build_stage(
    documents: Sequence[Document], root: Path, n_files: int = 2, config: DedupConfig = CONFIG, **engine: Any
) -> StageRun:
    return StageRun(dedup, documents, root, config, n_files, **engine)


def shingle_set(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def exact_jaccard(a: str, b: str) -> float:
    return len(shingle_set(a) & shingle_set(b)) / len(shingle_set(a) | shingle_set(b))


def brute_force_clusters(documents: Sequence[Document]) -> list[set[str]]:
    """The ids of each cluster, by comparing all pairs."""
    sets = [shingle_set(document.text) for document in documents]
    clusters = [{i} for i in range(len(sets))]
    for i in range(len(sets)):
        for j in range(i):
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8 and clusters[i] is not clusters[j]:
                clusters[i] |= clusters[j]
                for member in clusters[i]:
                    clusters[member] = clusters[i]
    return [{documents[i].id for i in cluster} for cluster in {id(cluster): cluster for cluster in clusters}.values()]


# ---------------------------------------------------------------- duplicates


def test_the_shortest_url_of_each_cluster_stays(tmp_path: Path) -> None:
    documents = make_corpus(seed=5)
    by_id = {document.id: document for document in documents}
    clusters = brute_force_clusters(documents)
    kept = {min(cluster, key=lambda id: (len(by_id[id].url), by_id[id].url)) for cluster in clusters}
    run = build_stage(documents, tmp_path, 3)
    rows = run.rows("documents-*")
    assert [row["id"] for row in rows] == [document.id for document in documents if document.id in kept]
    assert all(Document(**row) == by_id[row["id"]] for row in rows)
    assert run.counts.n_in == len(documents)
    assert run.counts.figures["n_chars"] == sum(by_id[id].n_chars for id in kept)
    assert run.counts.figures["n_held_out"] == sum(by_id[id].held_out for id in kept)
    drops = run.rows("dropped-*")
    assert {row["id"] for row in drops} == set(by_id) - kept
    for reason, n_dropped in run.counts.dropped.items():
        assert n_dropped == sum(row["reason"] == reason for row in drops) > 0


def test_clusters_agree_with_the_texts(tmp_path: Path) -> None:
    documents = make_corpus(seed=6)
    text_of = {document.id: document.text for document in documents}
    rows = build_stage(documents, tmp_path).rows("clusters.parquet")
    for row in rows:
        ours, kept = text_of[row["id"]], text_of[row["cluster"]]
        assert row["jaccard"] == pytest.approx(exact_jaccard(ours, kept), abs=1e-6)
        assert row["kept"] == (row["id"] == row["cluster"]) == (row["reason"] == "")
        assert row["kept"] or row["reason"] == (EXACT if ours == kept else NEAR)
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["cluster"], set()).add(row["id"])
    expected = [cluster for cluster in brute_force_clusters(documents) if len(cluster) > 1]
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected))


@pytest.mark.parametrize(("n_files", "range_entries"), [(1, 2**20), (7, 2**20), (3, 40)])
def test_neither_files_nor_ranges_change_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int, range_entries: int
) -> None:
    documents = [*make_corpus(seed=7), *boilerplate_documents(15)]
    expected = build_stage(documents, tmp_path / "a", 2)
    monkeypatch.setattr(keyed, "RANGE_ENTRIES", range_entries)
    monkeypatch.setattr(dedup_steps, "RANGE_ENTRIES", range_entries)
    run = build_stage(documents, tmp_path / "b", n_files)
    assert run.counts == expected.counts
    for pattern in ("documents-*", "dropped-*", "clusters.parquet", "paragraphs.parquet"):
        assert run.rows(pattern) == expected.rows(pattern)


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path: Path) -> None:
    documents = [*make_corpus(seed=8), *boilerplate_documents(15)]
    expected = build_stage(documents, tmp_path / "one", 3).hashes()
    assert build_stage(documents, tmp_path / "two", 3, n_workers=2).hashes() == expected


def test_a_dask_cluster_writes_the_same_bytes(tmp_path: Path) -> None:
    from distributed import LocalCluster

    documents = [*make_corpus(seed=8), *boilerplate_documents(15)]
    expected = build_stage(documents, tmp_path / "one", 3)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert build_stage(documents, tmp_path / "dask", 3, kind="dask", address=address).hashes() == expected.hashes()


def test_no_text_is_left_on_both_sides_of_the_split(tmp_path: Path) -> None:
    rows = build_stage(make_corpus(seed=8), tmp_path).rows("documents-*")
    assert {row["held_out"] for row in rows} == {True, False}
    assert all(len(cluster) == 1 for cluster in brute_force_clusters([Document(**row) for row in rows]))


def test_empty_files_and_a_corpus_without_duplicates(tmp_path: Path) -> None:
    run = build_stage([make_document("a b c", "https://site/a")], tmp_path, 3)
    assert (run.counts.n_in, run.counts.n_out, dict(run.counts.dropped)) == (1, 1, {})
    assert len(run.rows("documents-*")) == 1
    assert run.rows("clusters.parquet") == run.rows("paragraphs.parquet") == []


def test_a_hundred_copies_of_one_page(tmp_path: Path) -> None:
    text = "\n\n".join(prose(40, i) for i in range(4))
    documents = [make_document(text, f"https://site/{i:03d}") for i in range(50)]
    documents += [make_document(edited(text, 2, i), f"https://site/{i}") for i in range(100, 150)]
    run = build_stage(
        documents, tmp_path, 4, replace(CONFIG, canary_check=replace(CONFIG.canary_check, max_reason_share=1))
    )
    assert [row["text"] for row in run.rows("documents-*")] == [text]
    assert run.counts.dropped == {EXACT: 49, NEAR: 50}


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 25, hard))
    try:
        run = build_stage(make_corpus(seed=3)[:40], tmp_path, 30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert run.counts.n_in == 40


# ---------------------------------------------------------------- paragraphs

NOTICE = "This notice stands on every page of the site, it is longer than eighty characters and says nothing at all."
SHORT = "Returns"


def boilerplate_documents(n: int, site: str = "notice") -> list[Document]:
    texts = [f"{prose(60, (site, i))}\n\n{NOTICE}\n\n{SHORT}\n\n{prose(60, (site, i, 'end'))}" for i in range(n)]
    return [make_document(text, f"https://{site}/{i:03d}") for i, text in enumerate(texts)]


def test_a_paragraph_of_many_documents_stays_in_the_first_only(tmp_path: Path) -> None:
    documents = boilerplate_documents(12)
    run = build_stage(documents, tmp_path, 3)
    rows = run.rows("documents-*")
    assert [row["id"] for row in rows] == [document.id for document in documents]
    assert rows[0]["text"] == documents[0].text
    for row, document in zip(rows[1:], documents[1:], strict=True):
        assert row["text"] == document.text.replace(f"{NOTICE}\n\n", "")
        assert row["n_chars"] == len(row["text"])
    assert run.rows("paragraphs.parquet") == [{"paragraph": NOTICE, "n_documents": 12, "n_removed": 11}]
    assert run.counts.figures["n_paragraphs_removed"] == 11
    assert run.counts.figures["n_chars"] == sum(row["n_chars"] for row in rows)


@pytest.mark.parametrize("fields", [{"max_paragraph_documents": 12}, {"max_paragraph_documents": None}])
def test_a_paragraph_of_few_documents_stays(tmp_path: Path, fields: dict[str, Any]) -> None:
    documents = boilerplate_documents(12)
    run = build_stage(documents, tmp_path, 1, replace(CONFIG, **fields))
    assert [row["text"] for row in run.rows("documents-*")] == [document.text for document in documents]


def test_documents_that_are_dropped_do_not_count(tmp_path: Path) -> None:
    # Ten documents have the notice, and the first of them five copies: the notice is in more than ten texts.
    documents = boilerplate_documents(10)
    documents += [make_document(documents[0].text, f"https://notice/copy-{i}") for i in range(5)]
    run = build_stage(documents, tmp_path)
    assert [row["text"] for row in run.rows("documents-*")] == [document.text for document in documents[:10]]
    assert run.counts.dropped == {EXACT: 5}


def test_a_removed_paragraph_is_left_once_though_its_first_document_is_dropped(tmp_path: Path) -> None:
    documents = boilerplate_documents(12)
    documents.append(make_document(edited(documents[0].text, 3, "near"), "https://n/1"))  # the shorter address stays
    run = build_stage(documents, tmp_path)
    texts = [row["text"] for row in run.rows("documents-*")]
    assert documents[0].id not in {row["id"] for row in run.rows("documents-*")}
    assert sum(NOTICE in text for text in texts) == 1


def test_boilerplate_around_hides_no_copy(tmp_path: Path) -> None:
    frames = [[prose(40, (site, part)) for part in ("top", "bottom")] for site in ("a", "b")]
    documents = []
    for site, (top, bottom) in zip("ab", frames, strict=True):
        main = [prose(80, "same"), *(prose(80, (site, i)) for i in range(12))]
        documents += [
            make_document(f"{top}\n\n{text}\n\n{bottom}", f"https://{site}/{i}") for i, text in enumerate(main)
        ]
    assert exact_jaccard(documents[0].text, documents[13].text) < 0.5
    run = build_stage(documents, tmp_path)
    assert run.counts.dropped == {NEAR: 1}
    assert [row["id"] for row in run.rows("dropped-*")] == [documents[13].id]


def test_a_document_of_nothing_but_repeated_paragraphs_is_dropped(tmp_path: Path) -> None:
    documents = [*boilerplate_documents(12), make_document(f"Licence\n\n{NOTICE}", "https://z/licence")]
    run = build_stage(documents, tmp_path)
    drop = run.rows("dropped-*")[0]
    assert (drop["url"], drop["reason"]) == ("https://z/licence", REPEATED)
    assert drop["detail"].startswith("7 of ")
    assert run.counts.dropped == {REPEATED: 1}


# ---------------------------------------------------------------- the canary check


def test_planted_copies_are_found_and_never_get_out(tmp_path: Path) -> None:
    documents = make_corpus(seed=9)
    run = build_stage(documents, tmp_path)
    names = {name: value for name, value in run.counts.figures.items() if name.startswith("planted")}
    kind = "planted near duplicate"
    assert names == {f"{kind}: n": 20, f"{kind}: recall": 1, f"{kind}: precision": 1}
    assert {row["id"] for row in run.rows("clusters.parquet")} <= {document.id for document in documents}
    assert not any("planted" in row["text"] for row in run.rows("documents-*"))


def test_copies_planted_among_hundreds_of_like_pages_are_found(tmp_path: Path) -> None:
    template = prose(300, "template")
    documents = [make_document(edited(template, 2, i), f"https://site/{i:03d}") for i in range(250)]
    config = replace(CONFIG, canary_check=replace(CONFIG.canary_check, max_reason_share=1))
    run = build_stage(documents, tmp_path, config=config)
    assert run.counts.dropped == {NEAR: 249}
    assert run.counts.figures["planted near duplicate: n"] == 20
    assert run.counts.figures["planted near duplicate: recall"] == 1


def test_the_run_stops_when_copies_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(pairs: Any, *rest: Any) -> Any:
        return np.zeros(len(pairs))

    monkeypatch.setattr(dedup_steps, "similarities", blind)
    with pytest.raises(ValueError, match=r"recall of the canaries of 'near duplicate' is 0.00[\s\S]*https://site/"):
        build_stage(make_corpus(seed=9), tmp_path)


def test_the_run_stops_when_datasketch_contradicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shingles of one word for those of five: alike in every step of ours, and seen from outside only."""
    monkeypatch.setattr(minhash, "hash_shingles", lambda words, n: hash_shingles(words, 1))
    with pytest.raises(ValueError, match="the similarity differs from that of datasketch"):
        build_stage(make_corpus(seed=9), tmp_path)


def test_the_run_stops_when_look_alikes_are_taken_for_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup_steps, "similarities", lambda pairs, *rest: np.ones(len(pairs)))
    with pytest.raises(ValueError, match="precision of the canaries of 'near duplicate'"):
        build_stage(make_corpus(seed=9), tmp_path, config=replace(CONFIG, n_permutations=512, threshold=0.5))


def test_the_run_stops_when_most_of_the_corpus_is_copies(tmp_path: Path) -> None:
    documents = [make_document(prose(50, i % 20), f"https://site/{i:02d}") for i in range(60)]
    with pytest.raises(ValueError, match=r"'exact duplicate' dropped 40 of 60 documents[\s\S]*Jaccard 1.00 with"):
        build_stage(documents, tmp_path)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_the_self_check_fits_every_threshold(tmp_path: Path, threshold: float) -> None:
    documents = [make_document(prose(150, i), f"https://site/{i:02d}") for i in range(30)]
    figures = build_stage(documents, tmp_path, config=replace(CONFIG, threshold=threshold)).counts.figures
    assert figures["planted near duplicate: n"] > 10
