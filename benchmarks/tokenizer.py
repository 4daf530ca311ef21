"""The tokenizer: are its ids those of `tokenizers`, its speed in a fresh process, and its bytes per token.

    python -m benchmarks.tokenizer --corpus DIR --text PATH [PATH ...] --gpt2 DIR

`--corpus`: a folder with `documents-*.parquet`, as the dedup stage leaves them. `--text`: text files, or folders of
them; each file is one kind of text. `--gpt2`: a folder with GPT-2's `encoder.json` and `vocab.bpe`. The modules of
Python's own library are the kind "source code".

Speed is CPU time of one thread. Every measurement is a process of its own (gigatoken remembers pieces it has seen), and
the methods take turns, so that a busy machine slows all of them. The corpus is encoded once per process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from llm.documents import read_documents
from llm.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

VOCAB_SIZES = (4096, 32768)
N_ROUNDS = 5
REFERENCE = "tokenizers, encode_batch_fast"


def main() -> None:
    """Runs the three parts and prints Markdown."""
    options = _options()
    if options.measure:
        print(json.dumps(measure(options.measure, options.tokenizer, corpus_texts(options.corpus))))
        return
    documents = list(read_documents(options.corpus))
    corpus = [document.text for document in documents if not document.held_out]
    kinds = {"held-out documents": [document.text for document in documents if document.held_out]}
    kinds |= {"source code": source_code()} | text_files(options.text)
    with tempfile.TemporaryDirectory() as folder:
        trained = {size: train(corpus, size, Path(folder) / str(size)) for size in VOCAB_SIZES}
        for size, tokenizer in trained.items():
            print(f"\nVocabulary {size:,}, trained on {mega_bytes(corpus):.1f} MB\n")
            print_differing(tokenizer, Path(folder) / str(size), {"training documents": corpus} | kinds)
            print_speed(Path(folder) / str(size), options.corpus)
    print_bytes_per_token(trained, gpt2(options.gpt2), kinds)


def train(texts: Sequence[str], vocab_size: int, folder: Path) -> Tokenizer:
    """A tokenizer trained on the texts, saved in `folder` and read from there."""
    folder.mkdir()
    Tokenizer.train(texts, vocab_size).save(folder)
    return Tokenizer.load(folder)


def print_differing(tokenizer: Tokenizer, folder: Path, kinds: dict[str, list[str]]) -> None:
    """On how many texts of each kind the ids differ from those of `tokenizers`."""
    backend = plain_backend(folder)
    print("| texts | number | MB | texts with other ids than tokenizers |\n|---|---|---|---|")
    for kind, texts in kinds.items():
        expected = [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]
        n_differing = sum(ours != theirs for ours, theirs in zip(tokenizer.encode_batch(texts), expected, strict=True))
        print(f"| {kind} | {len(texts)} | {mega_bytes(texts):.2f} | {n_differing} |", flush=True)


def print_speed(folder: Path, corpus: Path) -> None:
    """CPU speed of each method over the corpus in fresh processes, and its ratio to `tokenizers` in the same round."""
    command = [sys.executable, "-m", "benchmarks.tokenizer", "--corpus", str(corpus), "--tokenizer", str(folder)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    rounds = []
    for _ in range(N_ROUNDS):
        outputs = [
            subprocess.run([*command, "--measure", name], env=environment, check=True, capture_output=True, text=True)
            for name in METHODS
        ]
        rounds.append({name: json.loads(output.stdout) for name, output in zip(METHODS, outputs, strict=True)})
    print("\n| method | load and check, s | cold MB/s | times tokenizers |\n|---|---|---|---|")
    for name in METHODS:
        speeds = [row[name]["mb_per_s"] for row in rounds]
        ratios = [row[name]["mb_per_s"] / row[REFERENCE]["mb_per_s"] for row in rounds]
        load = statistics.median(row[name]["load_s"] for row in rounds)
        spread = f"{min(speeds):.1f} to {max(speeds):.1f}"
        print(f"| {name} | {load:.2f} | {statistics.median(speeds):.1f} ({spread}) | {statistics.median(ratios):.1f} |")


def measure(method: str, folder: Path, texts: list[str]) -> dict[str, float]:
    """Seconds to load and speed of the first pass over the texts, both in CPU time."""
    start = time.process_time()
    encode = METHODS[method](folder)
    loaded = time.process_time()
    encode(texts)
    done = time.process_time()
    return {"load_s": loaded - start, "mb_per_s": mega_bytes(texts) / (done - loaded)}


def load_reference(folder: Path) -> Callable[[list[str]], object]:
    """The peer: `encode_batch_fast`, without making lists of its results."""
    backend = plain_backend(folder)
    return lambda texts: backend.encode_batch_fast(texts, add_special_tokens=False)


def load_arrays(folder: Path) -> Callable[[list[str]], object]:
    """Ours as the shard stage uses it."""
    tokenizer = Tokenizer.load(folder)
    tokenizer.encode_arrays([""])  # loads and checks the fast encoder
    return tokenizer.encode_arrays


def load_lists(folder: Path) -> Callable[[list[str]], object]:
    """Ours, as lists of Python integers."""
    tokenizer = Tokenizer.load(folder)
    tokenizer.encode_batch([""])
    return tokenizer.encode_batch


METHODS = {REFERENCE: load_reference, "encode_arrays": load_arrays, "encode_batch (lists)": load_lists}


def print_bytes_per_token(trained: dict[int, Tokenizer], theirs: Backend, kinds: dict[str, list[str]]) -> None:
    """Bytes per token by kind of text."""
    columns: dict[str, Callable[[list[str]], int]] = {
        f"ours, {size:,}": lambda texts, t=tokenizer: sum(map(len, t.encode_arrays(texts)))
        for size, tokenizer in trained.items()
    }
    columns["GPT-2, 50,257"] = lambda texts: sum(len(row.ids) for row in theirs.encode_batch_fast(texts))
    print("\n| bytes per token | MB | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns))
    for kind, texts in kinds.items():
        values = [1e6 * mega_bytes(texts) / n_tokens(texts) for n_tokens in columns.values()]
        print(f"| {kind} | {mega_bytes(texts):.2f} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


def plain_backend(folder: Path) -> Backend:
    """A saved tokenizer in the `tokenizers` library alone; special tokens in a text are text."""
    backend = Backend.from_file(str(folder / TOKENIZER_FILE))
    backend.encode_special_tokens = True
    return backend


def gpt2(folder: Path) -> Backend:
    """GPT-2's tokenizer."""
    backend = Backend(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def corpus_texts(folder: Path) -> list[str]:
    """The texts of all documents."""
    return [document.text for document in read_documents(folder)]


def source_code() -> list[str]:
    """The modules of Python's library, packages left out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_text("utf-8", "replace") for path in files]


def text_files(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Each file as one text under its name; of folders the files in them."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {file.name: [file.read_text("utf-8")] for file in files}


def mega_bytes(texts: Sequence[str]) -> float:
    """UTF-8 bytes of the texts, in millions."""
    return sum(len(text.encode()) for text in texts) / 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    parser.add_argument("--gpt2", type=Path, required="--measure" not in sys.argv)
    parser.add_argument(
        "--measure", choices=METHODS, help="one measurement in this process (used by the script itself)"
    )
    parser.add_argument("--tokenizer", type=Path, help="the saved tokenizer to measure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
