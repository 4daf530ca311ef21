"""Near duplicates at Jaccard 0.8 among 100,000 documents of about 220 words: speed, recall and precision beside peers.

Makes documents of the words of some text files and plants edited copies of every fifth: words substituted, words
inserted, a block moved, boilerplate around, each so strong that the similarities spread over 0.5 to 1. The truth is the
Jaccard similarity of the sets of word 5-grams of every planted pair, computed by brute force.

    python -m benchmarks.dedup --data DIR [--documents 100000] [--peers datasketch,datatrove]

`DIR` holds plain text (`*.txt`, some MB). All times are CPU seconds of one thread. datatrove is run by the interpreter
that `--datatrove-python` names, on the first 2,000 documents.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llm.data.dedup.dedup import DedupConfig, cluster_signatures, sign

NGRAM, THRESHOLD = 5, 0.8
EDITS = ("substitute", "insert", "move", "surround")
Pair = tuple[int, int, str, float]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.txt")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="datasketch")
    parser.add_argument("--datatrove-python", default="")
    options = parser.parse_args()
    texts, pairs = make_corpus(options.data, options.documents)
    n_words = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{len(texts):,} documents of {n_words:.0f} words, {len(pairs):,} planted pairs")
    speed_of_signatures(texts[:10_000], options)
    quality(texts, pairs, options.peers)


def make_corpus(data: Path, n_documents: int, seed: int = 7) -> tuple[list[str], list[Pair]]:
    """Texts, and the planted pairs: two indices, the kind of edit, and the exact Jaccard similarity."""
    rng = random.Random(seed)
    documents = fresh_documents(data, rng)
    boilerplate = [next(documents)[: rng.randint(5, 60)] for _ in range(200)]
    texts: list[list[str]] = []
    pairs: list[Pair] = []
    while len(texts) < n_documents:
        texts.append(next(documents))
        if rng.random() < 0.25:
            original = len(texts) - 1
            for _ in range(rng.choice((1, 1, 2))):
                kind = rng.choice(EDITS)
                texts.append(edited(texts[original], kind, texts[0] + texts[original // 2], boilerplate, rng))
                pairs.append((original, len(texts) - 1, kind, exact_jaccard(texts[original], texts[-1])))
    order = list(range(len(texts)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return [" ".join(texts[i]) for i in order], [(place[i], place[j], kind, s) for i, j, kind, s in pairs]


def fresh_documents(data: Path, rng: random.Random) -> Iterator[list[str]]:
    """Documents of 120 to 320 words; once the text is used up, it begins anew with every third word drawn at random."""
    words = [word for path in sorted(data.glob("*.txt")) for word in path.read_text().split()]
    place, is_new = 0, True
    while True:
        length = rng.randint(120, 320)
        if place + length > len(words):
            place, is_new = rng.randint(0, 300), False
        taken = words[place : place + length]
        place += length
        yield taken if is_new else [rng.choice(words) if rng.random() < 0.35 else word for word in taken]


def edited(
    words: list[str], kind: str, other: list[str], boilerplate: list[list[str]], rng: random.Random
) -> list[str]:
    """A copy of a document after one kind of edit of random strength."""
    words = list(words)
    if kind == "surround":
        return rng.choice(boilerplate) + words + rng.choice(boilerplate)
    if kind == "move":
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(words))
            block = words[start : start + rng.randint(5, 60)]
            del words[start : start + len(block)]
            place = rng.randrange(len(words) + 1)
            words[place:place] = block
        return words
    for _ in range(int(len(words) * rng.choice((0.005, 0.01, 0.015, 0.02, 0.03, 0.05)) + 1)):
        place = rng.randrange(len(words))
        words[place : place + (kind == "substitute")] = [rng.choice(other)]
    return words


def shingle_set(words: list[str]) -> set[tuple[str, ...]]:
    """The word 5-grams, lower-cased."""
    words = [word.lower() for word in words]
    return set(zip(*(words[i:] for i in range(NGRAM)), strict=False))


def exact_jaccard(a: list[str], b: list[str]) -> float:
    """By brute force."""
    first, second = shingle_set(a), shingle_set(b)
    return len(first & second) / len(first | second)


def speed_of_signatures(texts: list[str], options: argparse.Namespace) -> None:
    """Documents per CPU second: ours and datasketch in turns, datatrove in a process of its own."""
    config = DedupConfig()
    names: dict[str, Callable[[], object]] = {
        "sourdough, 128 permutations": lambda: sign(texts, np.arange(len(texts)), config)
    }
    if "datasketch" in options.peers:
        names["datasketch bulk, sha1 (default)"] = lambda: datasketch_bulk(texts[:2_000], False)
        names["datasketch bulk, xxhash"] = lambda: datasketch_bulk(texts[:2_000], True)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, run in names.items():
            n = len(texts) if name.startswith("sourdough") else 2_000
            speeds[name].append(n / cpu_seconds(run))
    rows = {name: statistics.median(values) for name, values in speeds.items()}
    if options.datatrove_python:
        rows["datatrove, 112 hashes"] = datatrove_speed(options.datatrove_python, texts[:2_000])
    ours = next(iter(rows.values()))
    print("\nsignatures                          documents/s   ours is")
    for name, speed in rows.items():
        print(f"{name:34s} {speed:12,.0f} {ours / speed:8.1f}x")


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def datasketch_bulk(texts: list[str], xxhash: bool) -> object:
    """datasketch 2 in its bulk form, word 5-grams."""
    import xxhash as xx
    from datasketch import MinHash

    encoded = ([shingle.encode() for shingle in joined_shingles(text)] for text in texts)
    extra = {"hashfunc": xx.xxh32_intdigest} if xxhash else {}
    return MinHash.bulk(encoded, num_perm=128, **extra)


def joined_shingles(text: str) -> set[str]:
    """The word 5-grams as strings, the plain Python way."""
    words = text.lower().split()
    return {" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


DATATROVE = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
texts = json.load(open(sys.argv[1]))
block = MinhashDedupSignature(output_folder=sys.argv[2], config=MinhashConfig())
documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
block.run(iter(documents[:20]), 1, 2)
start = time.process_time()
block.run(iter(documents), 0, 2)
print(len(texts) / (time.process_time() - start))
"""


def datatrove_speed(python: str, texts: list[str]) -> float:
    """Documents per CPU second of datatrove's signature block, after a run to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(texts))
        command = [python, "-c", DATATROVE, str(path), folder]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def quality(texts: list[str], pairs: list[Pair], peers: str) -> None:
    """Recall by kind of edit, precision, and the time after the signatures; the same for the LSH of datasketch."""
    config = DedupConfig()
    start = time.process_time()
    content, signatures = sign(texts, np.arange(len(texts)), config)
    signing = time.process_time() - start
    start = time.process_time()
    first = cluster_signatures(content, signatures, config.threshold)
    clustering = time.process_time() - start
    true = [pair for pair in pairs if pair[3] >= THRESHOLD]
    print(f"\nsigned in {signing:.2f} s, clustered and verified in {clustering:.2f} s (CPU)")
    for kind in (*EDITS, "all"):
        ours = [pair for pair in true if kind in (pair[2], "all")]
        n_found = sum(first[i] == first[j] for i, j, *_ in ours)
        print(f"recall, {kind:11s} {n_found / max(1, len(ours)):.4f} of {len(ours):,} pairs at >= {THRESHOLD}")
    joined = np.flatnonzero(first != np.arange(len(first)))
    n_right = count_right(texts, first, joined)
    print(f"precision           {n_right / len(joined):.4f} of {len(joined):,} duplicates (by exact Jaccard)")
    if "datasketch" in peers:
        datasketch_lsh(texts, true, signatures.rows)


def datasketch_lsh(texts: list[str], true: list[Pair], rows: np.ndarray) -> None:
    """Recall and precision of the pairs that datasketch's MinHashLSH gives for the same signatures."""
    from datasketch import MinHash, MinHashLSH

    made = MinHash(num_perm=rows.shape[1])
    start = time.process_time()
    index = MinHashLSH(threshold=THRESHOLD, num_perm=rows.shape[1])
    found: set[tuple[int, int]] = set()
    for i, row in enumerate(rows):
        minhash = made.copy()
        minhash.hashvalues = row
        found.update((j, i) for j in index.query(minhash))
        index.insert(i, minhash)
    seconds = time.process_time() - start
    recall = sum((min(i, j), max(i, j)) in found for i, j, *_ in true) / len(true)
    right = sum(exact_jaccard(texts[i].split(), texts[j].split()) >= THRESHOLD for i, j in found)
    print(
        f"datasketch MinHashLSH: recall {recall:.4f}, precision {right / len(found):.4f} of {len(found):,} pairs, ",
        end="",
    )
    print(f"{seconds:.2f} s")


def count_right(texts: list[str], first: np.ndarray, joined: np.ndarray) -> int:
    """How many of the joined documents really are near some other document of their cluster, by brute force."""
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(np.isin(first, first[joined])):
        members.setdefault(int(first[i]), []).append(int(i))
    words = {i: texts[i].split() for cluster in members.values() for i in cluster}
    return sum(
        any(exact_jaccard(words[i], words[j]) >= THRESHOLD for j in members[int(first[i])] if j != i) for i in joined
    )


if __name__ == "__main__":
    main()
