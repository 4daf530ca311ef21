"""Ingest: how fast WARC files are read beside warcio, and that memory does not grow with the input.

    python benchmarks/ingest.py --data DIR       DIR holds WARC files (*.warc.gz), such as those of a crawl artifact

    --datatrove PYTHON       also runs datatrove's reader, with the Python of an environment that holds it

Reading: every way goes over the same files in turn, in one process; figures are CPU seconds, median of the rounds, and
MB of HTTP bodies a CPU second. Memory: each run is a process of its own over the input once and ten times; its highest
resident set is compared. Input for JSONL, text and Parquet is made of the pages. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fastwarc.warc import ArchiveIterator as FastIterator
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from llm.data.sources.config import SourceConfig
from llm.data.sources.ingest import IngestConfig, ingest_partition, plan, put_together
from llm.data.sources.warc_files import read_warc

MIB = 2**20


def ours(path: Path) -> int:
    """Bytes of the pages, read as the ingest stage does: checksums, digests, damage named, records kept for copying."""
    with open(path, "rb", buffering=2**18) as file:
        return sum(len(page.body) for page in read_warc(file))  # type: ignore[union-attr]


def bare_fastwarc(path: Path) -> int:
    """Bytes of the pages, with FastWARC alone: a file that is cut off ends silently."""
    with open(path, "rb") as file:
        return sum(len(record.reader.read()) for record in FastIterator(file, parse_http=True))


def warcio(path: Path) -> int:
    """Bytes of the pages, with warcio alone: a file that is cut off ends silently."""
    with open(path, "rb") as file:
        return sum(len(record.content_stream().read()) for record in WarcioIterator(file))


def warcio_with_digests(path: Path) -> int:
    """Bytes of the pages, with warcio comparing the digests."""
    with open(path, "rb") as file:
        return sum(len(record.content_stream().read()) for record in WarcioIterator(file, check_digests="raise"))


def whole_stage(path: Path) -> int:
    """Bytes of the pages, read and written as an artifact: plan, one partition, tables."""
    with tempfile.TemporaryDirectory() as folder:
        ingest_to(Path(folder), "warc", str(path))
        table = pq.read_table(Path(folder) / "artifact/pages.parquet", columns=["n_bytes"])
        return int(sum(table["n_bytes"].to_pylist()))


def ingest_to(root: Path, kind: str, path: str) -> None:
    """The artifact of one source, in `root/artifact`."""
    options = {"separator": "<|endoftext|>"} if kind == "text" else {}
    config = IngestConfig(sources=(SourceConfig(name="a", kind=kind, paths=(path,), **options),))  # type: ignore[arg-type]
    folders = []
    for number, item in enumerate(plan(config, root)):
        folders.append(root / f"part-{number}")
        folders[-1].mkdir()
        ingest_partition(item, root, out_dir=folders[-1], config=config)
    (root / "artifact").mkdir()
    put_together(folders, root / "artifact", config)


def datatrove(python: str, folder: Path) -> tuple[int, float]:
    """Pages that datatrove's reader gives, and its CPU seconds, without its start."""
    command = [python, str(Path(__file__).parent / "peers/datatrove_read.py"), str(folder)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["n_pages"], found["cpu_s"]


def speed(paths: list[Path], n_rounds: int, python: str | None) -> None:
    """Prints CPU seconds and MB a CPU second of each way, with the ratio to warcio."""
    ways: list[Callable[[Path], int]] = [warcio, warcio_with_digests, bare_fastwarc, ours, whole_stage]
    seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    n_bytes = {way.__name__: sum(way(path) for path in paths) for way in ways}
    assert len(set(n_bytes.values())) == 1, f"the ways do not read the same pages: {n_bytes}"
    for _ in range(n_rounds):
        for way in ways:
            started = time.process_time()
            for path in paths:
                way(path)
            seconds[way.__name__].append(time.process_time() - started)
        if python:
            n_pages, cpu_s = datatrove(python, paths[0].parent)
            seconds.setdefault(f"datatrove ({n_pages:,} pages)", []).append(cpu_s)
    base = statistics.median(seconds["warcio"])
    n_pages = sum(len(pages_of(path)) for path in paths)
    print(f"{n_pages:,} pages of {n_bytes['ours'] / 1e6:.1f} MB, {n_rounds} rounds")
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        rate = n_bytes["ours"] / 1e6 / median
        print(f"{name:24} {median:6.2f} s ({spread})  {rate:6.0f} MB/s  {base / median:.2f}x warcio")


def make_input(folder: Path, kind: str, paths: list[Path], times: int) -> Path:
    """A file of this kind with the content of the WARC files so many times."""
    path = folder / f"{times}.{kind}"
    if kind == "warc":
        path.write_bytes(b"".join(source.read_bytes() for source in paths) * times)
        return path
    texts = [page.body.decode(errors="replace") for source in paths for page in pages_of(source)]
    if kind == "parquet":
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for _ in range(times):
                writer.write_table(pa.table({"text": texts}, schema=schema), row_group_size=500)
        return path
    lines = (
        [json.dumps({"text": text}) + "\n" for text in texts]
        if kind == "jsonl"
        else [f"{t}<|endoftext|>" for t in texts]
    )
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(times):
            file.writelines(lines)
    return path


def pages_of(path: Path) -> list:  # type: ignore[type-arg]
    """The pages of a WARC file."""
    with open(path, "rb") as file:
        return list(read_warc(file))


def memory(paths: list[Path], rows: tuple[int, int] = (1, 10)) -> None:
    """Prints the highest resident set of a process that ingests the input once and ten times, for each kind."""
    for kind in ("warc", "jsonl", "text", "parquet"):
        peaks = []
        for times in rows:
            with tempfile.TemporaryDirectory() as folder:
                path = make_input(Path(folder), kind, paths, times)
                command = [sys.executable, __file__, "--measure", kind, str(path)]
                environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
                found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                peaks.append((path.stat().st_size, int(found.stdout)))
        shown = ", ".join(f"{size / MIB:.0f} MiB of input: {peak / MIB:.0f} MiB" for size, peak in peaks)
        print(f"{kind:8} {shown}  (+{(peaks[1][1] - peaks[0][1]) / MIB:.0f} MiB)")


def measure(kind: str, path: str) -> None:
    """Ingests a file and prints the highest resident set of this process, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        ingest_to(Path(folder), kind, path)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024)  # ru_maxrss begins at the parent's


def main() -> None:
    """Runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with WARC files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--datatrove", metavar="PYTHON")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    paths = sorted(options.data.glob("*.warc.gz")) if options.data else []
    if not paths:
        parser.error(f"--data is {options.data}; it must be a folder with *.warc.gz files")
    speed(paths, options.rounds, options.datatrove)
    memory(paths)


if __name__ == "__main__":
    main()
