from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.counts import Counts
from llm.data.dedup import (
    EXACT,
    NEAR,
    DedupConfig,
    band_shape,
    candidate_pairs,
    cluster_documents,
    components,
    content_hash,
    duplicate_clusters,
    jaccard,
    select_partition,
    shingle_hashes,
    shingles,
    sign_partition,
    signatures,
)
from llm.data.documents import Document, document_id, documents_table
from llm.files import read_table, sha256_file, write_table

CONFIG = DedupConfig()
ODD_TEXTS = ["", "", "one", "One ", "two", "😀 🍞", "😀  🍞", "a b c d", "a b c d e", "A b\nc d e", "a b c d e f"]


def planted_texts(n_originals: int, seed: int) -> list[str]:
    """Shuffled random texts, most with up to three copies in which up to five words are replaced; and odd texts."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(2_000)]
    texts = list(ODD_TEXTS)
    for _ in range(n_originals):
        original = rng.choices(words, k=rng.randint(60, 200))
        for _ in range(rng.randint(1, 4)):
            texts.append(" ".join(original))
            for _ in range(rng.randint(0, 5)):
                original = list(original)
                original[rng.randrange(len(original))] = rng.choice(words)
    rng.shuffle(texts)
    return texts


def brute_force_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    if len(words) < ngram:
        return {tuple(words)}
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def brute_force_clusters(texts: list[str], config: DedupConfig) -> list[int]:
    """Compares all pairs, then follows the smallest known partner to the end of the chain."""
    sets = [brute_force_shingles(text, config.ngram) for text in texts]
    first = list(range(len(texts)))
    changed = True
    alike = [
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= config.threshold
    ]
    while changed:
        changed = False
        for i, j in alike:
            smallest = min(first[i], first[j])
            changed = changed or first[i] != first[j]
            first[i] = first[j] = smallest
    return first


# ---------------------------------------------------------------- texts and signatures


@given(text=st.text("ab \n", max_size=40), ngram=st.integers(1, 4))
def test_shingles_are_the_word_ngrams(text: str, ngram: int) -> None:
    assert shingles(text, ngram) == {" ".join(words) for words in brute_force_shingles(text, ngram)}


def test_the_content_hash_sees_words_only() -> None:
    assert content_hash("A  b\nC") == content_hash("a b c")
    assert len({content_hash(text) for text in ("a b c", "a bc", "c b a", "", "a b")}) == 5


@given(a=st.sets(st.integers(0, 30), min_size=1), b=st.sets(st.integers(0, 30), min_size=1))
def test_jaccard(a: set[int], b: set[int]) -> None:
    arrays = (np.array(sorted(values), dtype=np.uint64) for values in (a, b))
    assert jaccard(*arrays) == len(a & b) / len(a | b)


def test_signatures_equal_those_of_datasketch_made_shingle_by_shingle() -> None:
    config = replace(CONFIG, n_permutations=40, seed=7)
    texts = [*ODD_TEXTS, *planted_texts(5, seed=1)]
    rows = signatures(texts, config)
    assert rows.shape == (len(texts), 40)
    assert rows.dtype == np.uint32
    for text, row in zip(texts, rows, strict=True):
        minhash = MinHash(num_perm=40, seed=7, hashfunc=xxhash.xxh32_intdigest)
        for words in sorted(brute_force_shingles(text, config.ngram)):
            minhash.update(" ".join(words).encode())
        np.testing.assert_array_equal(row, minhash.hashvalues)


def test_a_signature_estimates_the_jaccard_similarity() -> None:
    config = replace(CONFIG, n_permutations=1_000)
    original = [f"w{i}" for i in range(300)]
    changed = [*original[:250], *(f"x{i}" for i in range(50))]
    rows = signatures([" ".join(original), " ".join(changed)], config)
    exact = jaccard(*(shingle_hashes(" ".join(words), 5) for words in (original, changed)))
    assert abs(np.mean(rows[0] == rows[1]) - exact) < 4 * (exact * (1 - exact) / 1_000) ** 0.5


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("n_permutations", [64, 120, 256])
def test_bands_fit_and_find_pairs_at_the_threshold(threshold: float, n_permutations: int) -> None:
    n_bands, n_rows = band_shape(threshold, n_permutations)
    assert n_bands * n_rows <= n_permutations
    assert 1 - (1 - threshold**n_rows) ** n_bands >= 0.995
    longer = n_rows + 1
    if longer <= n_permutations:
        assert 1 - (1 - threshold**longer) ** (n_permutations // longer) < 0.995


def test_the_default_bands_are_20_of_6() -> None:
    assert band_shape(CONFIG.threshold, CONFIG.n_permutations) == (20, 6)


@given(rows=st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), max_size=12))
def test_candidates_are_the_pairs_that_share_a_band(rows: list[list[int]]) -> None:
    n_bands, n_rows = band_shape(0.8, 6)
    array = np.array(rows, dtype=np.uint32).reshape(-1, 6)
    bands = [slice(band * n_rows, (band + 1) * n_rows) for band in range(n_bands)]
    n = len(rows)
    expected = [
        (i, j) for i in range(n) for j in range(i + 1, n) if any(rows[i][band] == rows[j][band] for band in bands)
    ]
    assert [tuple(pair) for pair in candidate_pairs(array, 0.8)] == expected


def test_a_large_bucket_gives_few_pairs_that_connect_it() -> None:
    rows = np.zeros((5_000, 120), dtype=np.uint32)
    pairs = candidate_pairs(rows, 0.8)
    assert len(pairs) < 20 * len(rows)
    assert set(components(pairs, len(rows))) == {0}


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_components_name_their_smallest_node(pairs: list[tuple[int, int]]) -> None:
    first = list(range(10))
    for _ in range(10):
        for i, j in pairs:
            first[i] = first[j] = min(first[i], first[j])
    assert components(np.array(pairs, dtype=np.int64).reshape(-1, 2), 10).tolist() == first


# ---------------------------------------------------------------- clusters of texts


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("threshold", "ngram"), [(0.8, 5), (0.6, 3)])
def test_clusters_are_those_of_brute_force(seed: int, threshold: float, ngram: int) -> None:
    config = replace(CONFIG, threshold=threshold, ngram=ngram)
    texts = planted_texts(110, seed)
    found = duplicate_clusters(texts, config)
    assert found.dtype == np.int64
    assert found.tolist() == brute_force_clusters(texts, config)
    n_duplicates = int(np.sum(found != np.arange(len(texts))))
    assert 50 < n_duplicates < len(texts) - 110


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.text("ab \n", max_size=20), max_size=8))
def test_odd_texts(texts: list[str]) -> None:
    # Sets of so few shingles have either exactly the same signature or one far away from it at threshold 1.
    config = replace(CONFIG, threshold=1.0, ngram=2, n_permutations=16)
    assert duplicate_clusters(texts, config).tolist() == brute_force_clusters(texts, config)


def test_texts_shorter_than_an_ngram_are_compared_as_a_whole() -> None:
    assert duplicate_clusters(ODD_TEXTS, CONFIG).tolist() == [0, 0, 2, 2, 4, 5, 5, 7, 8, 8, 10]


# ---------------------------------------------------------------- the stage


def make_document(text: str, url: str) -> Document:
    return Document(document_id(url, text), url, "", text, "en", len(text), random.Random(url).random() < 0.3)


def make_corpus(seed: int) -> list[Document]:
    """Documents in order of URL; their URLs have different lengths, so this is not the order of preference."""
    texts = planted_texts(40, seed)
    lengths = random.Random(seed)
    made = [make_document(text, f"https://site/{i:03d}{'x' * lengths.randint(0, 5)}") for i, text in enumerate(texts)]
    return sorted(made, key=lambda document: document.url)


def run_stage(documents: list[Document], folder: Path, n_partitions: int) -> tuple[list[Counts], list[Path], Path]:
    """The three steps over the corpus cut in `n_partitions`: counts of select, documents files, clusters file."""
    counts, inputs, signed, outputs = [], [], [], []
    clusters = folder / "clusters.parquet"
    for i, part in enumerate(np.array_split(np.arange(len(documents)), n_partitions)):
        (folder / f"sign{i}").mkdir(parents=True)
        (folder / f"select{i}").mkdir()
        inputs.append(folder / f"documents-{i:05d}.parquet")
        write_table(inputs[-1], documents_table([documents[j] for j in part]))
        signing = sign_partition(inputs[-1], folder / f"sign{i}", CONFIG)
        assert (signing.n_in, signing.n_out) == (len(part), len(part))
        signed.append(folder / f"sign{i}" / "signatures.parquet")
    cluster_documents(inputs, signed, clusters, CONFIG)
    for i, path in enumerate(inputs):
        counts.append(select_partition(path, clusters, folder / f"select{i}", CONFIG))
        outputs.append(folder / f"select{i}" / "documents.parquet")
    return counts, outputs, clusters


def rows_of(paths: list[Path]) -> list[dict[str, object]]:
    return [row for path in paths for row in read_table(path).to_pylist()]


def test_the_stage_keeps_the_shortest_url_of_each_cluster(tmp_path: Path) -> None:
    documents = make_corpus(seed=5)
    preferred = sorted(documents, key=lambda document: (len(document.url), document.url))
    first = brute_force_clusters([document.text for document in preferred], CONFIG)
    kept = {preferred[i].id for i in first}
    counts, outputs, _ = run_stage(documents, tmp_path, 3)
    rows = rows_of(outputs)
    assert [row["id"] for row in rows] == [document.id for document in documents if document.id in kept]
    by_id = {document.id: document for document in documents}
    assert [row["held_out"] for row in rows] == [by_id[str(row["id"])].held_out for row in rows]
    total = Counts.total(counts)
    assert (total.n_in, total.n_out) == (len(documents), len(kept))
    assert total.figures == {
        "n_chars": sum(by_id[id].n_chars for id in kept),
        "n_held_out": sum(by_id[id].held_out for id in kept),
    }


def test_clusters_and_counts_agree_with_the_texts(tmp_path: Path) -> None:
    documents = make_corpus(seed=6)
    text_of = {document.id: document.text for document in documents}
    counts, _, clusters = run_stage(documents, tmp_path, 2)
    rows = read_table(clusters).to_pylist()
    for row in rows:
        ours, kept = (brute_force_shingles(text_of[id], CONFIG.ngram) for id in (row["id"], row["cluster"]))
        assert row["jaccard"] == pytest.approx(len(ours & kept) / len(ours | kept), abs=1e-6)
        assert row["kept"] == (row["id"] == row["cluster"]) == (row["reason"] == "")
        is_equal = text_of[row["id"]].lower().split() == text_of[row["cluster"]].lower().split()
        assert row["kept"] or row["reason"] == (EXACT if is_equal else NEAR)
    assert len({row["id"] for row in rows}) == len(rows)
    dropped = Counts.total(counts).dropped
    assert dropped == {reason: sum(row["reason"] == reason for row in rows) for reason in (EXACT, NEAR)}
    assert min(dropped.values()) > 0


@pytest.mark.parametrize("n_partitions", [1, 4])
def test_partitions_change_neither_the_clusters_nor_the_documents(tmp_path: Path, n_partitions: int) -> None:
    documents = make_corpus(seed=7)
    _, outputs, clusters = run_stage(documents, tmp_path / "a", n_partitions)
    _, other_outputs, other_clusters = run_stage(documents, tmp_path / "b", 7)
    assert sha256_file(clusters) == sha256_file(other_clusters)
    assert rows_of(outputs) == rows_of(other_outputs)


def test_no_text_is_left_on_both_sides_of_the_split(tmp_path: Path) -> None:
    documents = make_corpus(seed=8)
    _, outputs, _ = run_stage(documents, tmp_path, 2)
    rows = rows_of(outputs)
    assert {row["held_out"] for row in rows} == {True, False}
    texts = [str(row["text"]) for row in rows]
    assert brute_force_clusters(texts, CONFIG) == list(range(len(texts)))


def test_empty_partitions_and_a_corpus_without_duplicates(tmp_path: Path) -> None:
    documents = [make_document("a b c", "https://site/a")]
    counts, outputs, clusters = run_stage(documents, tmp_path, 3)
    assert [(count.n_in, count.n_out) for count in counts] == [(1, 1), (0, 0), (0, 0)]
    assert len(rows_of(outputs)) == 1
    assert read_table(clusters).num_rows == 0


def test_signatures_of_other_documents_are_refused(tmp_path: Path) -> None:
    documents = make_corpus(seed=9)
    run_stage(documents, tmp_path, 2)
    inputs = sorted(tmp_path.glob("documents-*.parquet"))
    signed = [tmp_path / "sign1" / "signatures.parquet", tmp_path / "sign0" / "signatures.parquet"]
    with pytest.raises(ValueError, match="make them anew"):
        cluster_documents(inputs, signed, tmp_path / "clusters.parquet", CONFIG)


def test_equal_signature_bits_whatever_the_hash_seed_of_python() -> None:
    row: npt.NDArray[np.uint32] = signatures(
        ["Flour and water stand in a warm place until wild yeast wakes up"], CONFIG
    )
    # Remake: print(xxhash.xxh3_64_hexdigest(row.astype("<u4").tobytes()))
    assert xxhash.xxh3_64_hexdigest(row.astype("<u4").tobytes()) == "75ab1fab6f08309a"
