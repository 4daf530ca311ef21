"""The dedup stage over 1,000 to 1,000,000 short documents: CPU time per document and peak memory, each in a process.

Makes files of 10,000 documents of about 60 words: every tenth is another one with a word or two replaced, every
fiftieth an exact copy, every fifth has one of 40 repeated paragraphs. Then the stage runs as in the pipeline, with one
worker in the same process, so that the peak memory (resident set) is that of everything.

    python -m benchmarks.dedup_growth --data DIR [--documents 1000,10000,100000,1000000]

`DIR` is for the files that are made: about 2 kB a document.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llm.counts import Counts
from llm.data.dedup.dedup import DedupConfig
from llm.documents import Document, document_id, documents_table
from llm.files import write_table

FILE_DOCUMENTS = 10_000
N_WORDS = 50_000
CHILD = "--one"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder for the files that are made")
    parser.add_argument("--documents", default="1000,10000,100000,1000000")
    parser.add_argument("--json", action="store_true", help="print only the figures, a line for each run")
    parser.add_argument(CHILD, type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    if not options.json:
        print("documents   us/document (CPU)   peak MB   kept      by reason")
    for n_documents in map(int, options.documents.split(",")):
        folder = options.data / f"growth-{n_documents}"
        shutil.rmtree(folder, ignore_errors=True)
        make_documents(folder / "documents", n_documents)
        make_documents(folder / "few", 100)
        command = [sys.executable, "-m", "benchmarks.dedup_growth", "--data", str(options.data), CHILD, str(folder)]
        run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        shutil.rmtree(folder)
        time_each = run["seconds"] / n_documents * 1e6
        line = f"{n_documents:9,} {time_each:19.0f} {run['peak_mb']:9.0f}   {run['n_out']:8,}  {run['dropped']}"
        print(json.dumps(run) if options.json else line, flush=True)


def measure(folder: Path) -> dict[str, object]:
    """Runs the stage; CPU seconds, peak resident set of this process in MB, counts.

    A first run over few documents loads all code, so that its time does not count.
    """
    from tasks.core.build import Build
    from tasks.core.engine import EngineConfig
    from tasks.dedup import dedup

    def run(name: str) -> Counts:
        (folder / f"{name}-out").mkdir()
        build = Build(folder / f"{name}-out", folder / f"{name}-work", EngineConfig(n_workers=1), lambda *_: None)
        return dedup.__wrapped__(build, SimpleNamespace(path=folder / name), config=DedupConfig())

    run("few")
    start = time.process_time()
    counts = run("documents")
    seconds = time.process_time() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak_mb, "n_out": counts.n_out, "dropped": dict(counts.dropped)}


def make_documents(folder: Path, n_documents: int) -> None:
    """Files of documents that depend on their number alone."""
    folder.mkdir(parents=True)
    words = np.array([f"w{i:x}" for i in range(N_WORDS)])
    for number, start in enumerate(range(0, n_documents, FILE_DOCUMENTS)):
        rows = [make_document(i, words) for i in range(start, min(start + FILE_DOCUMENTS, n_documents))]
        write_table(folder / f"documents-{number:05d}.parquet", documents_table(rows))


def make_document(i: int, words: np.ndarray) -> Document:
    """Document `i`: fresh, or made from an earlier one."""
    random = np.random.default_rng(i)
    kind = random.integers(50) if i else 1
    source = int(random.integers(i)) if kind % 10 == 0 else i
    text = list(fresh_text(source, words))
    if kind and source != i:
        for place in random.integers(len(text), size=random.integers(1, 3)):
            text[place] = f"x{i}"
    paragraphs = [" ".join(text)]
    if i % 5 == 0 and source == i:
        paragraphs.append(
            f"Paragraph {i // 5 % 40} that stands in very many documents of this site and that says nothing new."
        )
    body = "\n\n".join(paragraphs)
    url = f"https://host{i % 100}.example/{i:08d}"
    return Document(document_id(url, body), url, "", body, "en", len(body), i % 20 == 0, f"host{i % 100}.example")


def fresh_text(i: int, words: np.ndarray) -> np.ndarray:
    """Some 60 words, the frequent ones more often."""
    random = np.random.default_rng([i, 1])
    return words[(random.random(random.integers(40, 80)) ** 3 * N_WORDS).astype(int)]


if __name__ == "__main__":
    main()
