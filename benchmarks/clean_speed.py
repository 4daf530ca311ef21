"""The clean stage on one core: pages a second with everything on, where the time goes, and our quality filters against
datatrove's on the same texts (verdicts and CPU time).

    python -m benchmarks.clean_speed --data WCXB_FOLDER [--peer PEER_PYTHON] [--pages 400]

WCXB_FOLDER holds `html/*.html.gz` and `ground-truth.jsonl.gz` (Murrough-Foley/web-content-extraction-benchmark).
PEER_PYTHON is the Python of datatrove's environment (see peers/datatrove_run.py). CPU seconds, median of three rounds;
in a round all parts run one after another on the same pages.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm.data.clean.clean import CleanConfig, clean_record
from llm.data.clean.extract import extract
from llm.data.clean.filters.c4 import C4, c4
from llm.data.clean.filters.filters import Filters, apply_filters
from llm.data.clean.filters.fineweb import FineWeb, fineweb
from llm.data.clean.filters.gopher import GopherQuality, GopherRepetition, gopher_quality, gopher_repetition
from llm.data.clean.filters.parts import Failure, TextParts
from llm.data.clean.language import detect_language
from llm.data.clean.pii import mask_pii
from llm.data.clean.url_filter import BlockList
from llm.data.common.warc_read import WebPage
from llm.data.html.mojibake import repair_mojibake
from llm.documents import Document

FILTERS = Filters(
    gopher_repetition=GopherRepetition(),
    gopher_quality=GopherQuality(),
    c4=C4(terminal_punctuation=False),
    fineweb=FineWeb(),
)
CONFIG = CleanConfig(filters=FILTERS)
NO_BLOCKS = BlockList.of(())
N_ROUNDS = 3
PEER = Path(__file__).parent / "peers" / "datatrove_filters.py"


def read_pages(data: Path, n_pages: int) -> list[WebPage]:
    """Every n-th page of the data set, so that all its kinds are there."""
    with gzip.open(data / "ground-truth.jsonl.gz", "rt") as file:
        truths = [json.loads(line) for line in file]
    chosen = truths[:: max(1, len(truths) // n_pages)][:n_pages]
    paths = [(truth["url"], data / "html" / f"{truth['id']}.html.gz") for truth in chosen]
    return [WebPage(url, 200, "text/html", gzip.decompress(path.read_bytes())) for url, path in paths]


def cpu_ms(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU milliseconds for each item."""
    started = time.process_time()
    for item in items:
        function(item)
    return (time.process_time() - started) / len(items) * 1_000


def measure_stage(pages: Sequence[WebPage], texts: Sequence[str]) -> None:
    """Prints the time of the whole stage and of its parts."""
    parts: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "whole stage": (lambda page: clean_record(page, CONFIG, NO_BLOCKS), pages),
        "extraction": (lambda page: extract(page.body, url=page.url, content_type=page.content_type), pages),
        "language": (detect_language, texts),
        "filters": (lambda text: apply_filters(text, "en", FILTERS), texts),
        "personal data": (mask_pii, texts),
        "mojibake": (repair_mojibake, texts),
    }
    for function, items in parts.values():
        function(items[0])
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(N_ROUNDS):
        for name, (function, items) in parts.items():
            times[name].append(cpu_ms(function, items))
    for name, values in times.items():
        ms = statistics.median(values)
        print(f"{name:15} {ms:7.3f} ms  {1_000 / ms:7.0f} a second  ({min(values):.3f} to {max(values):.3f})")


def our_reasons(text: str) -> dict[str, str]:
    """Why each of our filters drops a text; "" where it keeps it."""
    parts = TextParts(text, "en")
    found: dict[str, Failure | None] = {
        "gopher_repetition": gopher_repetition(parts, GopherRepetition()),
        "gopher_quality": gopher_quality(parts, GopherQuality()),
        "c4": c4(text, C4(terminal_punctuation=False))[1],
        "fineweb": fineweb(parts, FineWeb()),
    }
    return {name: failure.reason if failure else "" for name, failure in found.items()}


def compare_filters(peer: str, texts: Sequence[str]) -> None:
    """Prints how often our filters and datatrove's agree, and every kind of disagreement."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        out = subprocess.run([peer, str(PEER), str(path)], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(out.splitlines()[-1])
    started = time.process_time()
    ours = [our_reasons(text) for text in texts]
    seconds = time.process_time() - started
    print(f"\nfilters on {len(texts)} texts: ours {seconds:.2f} s CPU, datatrove {theirs['cpu_s']:.2f} s", end="")
    print(f" = {theirs['cpu_s'] / seconds:.1f}x")
    for name in ours[0]:
        pairs = [(mine[name], other[name]) for mine, other in zip(ours, theirs["rows"], strict=True)]
        n_equal = sum(bool(mine) == bool(other) for mine, other in pairs)
        print(f"{name}: {n_equal / len(pairs):.1%} equal, ours drops {sum(bool(mine) for mine, _ in pairs)}", end="")
        print(f", datatrove {sum(bool(other) for _, other in pairs)}")
        for pair, n in Counter(pair for pair in pairs if bool(pair[0]) != bool(pair[1])).most_common():
            print(f"    {n:4}  ours {pair[0] or 'keeps'!r}, datatrove {pair[1] or 'keeps'!r}")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer")
    parser.add_argument("--pages", type=int, default=400)
    arguments = parser.parse_args()
    pages = read_pages(arguments.data, arguments.pages)
    config = CleanConfig(min_chars=1, languages=(), max_link_share=1)
    found = [clean_record(page, config, NO_BLOCKS).result for page in pages]
    texts = [item.text for item in found if isinstance(item, Document)]
    n_bytes = sum(len(page.body) for page in pages)
    print(f"{len(pages)} pages of {n_bytes / len(pages):,.0f} bytes, {len(texts)} texts", end="")
    print(f" of {sum(map(len, texts)) / len(texts):,.0f} characters")
    measure_stage(pages, texts)
    if arguments.peer:
        compare_filters(arguments.peer, texts)


if __name__ == "__main__":
    main()
