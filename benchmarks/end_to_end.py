"""From WARC to deduplicated documents: our stages against datatrove's pipeline on the same pages, one worker each.

    python -m benchmarks.end_to_end --data WCXB_FOLDER --peer PEER_PYTHON [--pages 700] [--work FOLDER]

WCXB_FOLDER holds `html/*.html.gz` and `ground-truth.jsonl.gz` (Murrough-Foley/web-content-extraction-benchmark).
PEER_PYTHON is the Python of datatrove's environment (see peers/datatrove_run.py). Both read the same WARC files, filter
with Gopher's rules and remove near duplicates; ours also identifies languages, masks personal data and removes
repeated paragraphs. Each runs in a process of its own; CPU seconds include its children, imports too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm.data.common.warc_write import PAGE_SCHEMA, encode_record
from llm.files import read_table, write_table


def write_pages(data: Path, n_pages: int, out_dir: Path) -> int:
    """The first pages of the data set as a crawl artifact; returns the bytes of HTML."""
    with gzip.open(data / "ground-truth.jsonl.gz", "rt") as file:
        truths = [json.loads(line) for line in file][:n_pages]
    for truth in truths:
        truth["url"] = truth["url"] or f"https://{truth['domain'] or 'unknown.example'}/{truth['id']}"
    rows, offset = [], 0
    with open(out_dir / "pages-00000.warc.gz", "wb") as warc:
        for truth in sorted(truths, key=lambda truth: truth["url"]):
            body = gzip.decompress((data / "html" / f"{truth['id']}.html.gz").read_bytes())
            member = encode_record(truth["url"], 200, [("Content-Type", "text/html")], body)
            warc.write(member)
            rows.append(page_row(truth, body, offset))
            offset += len(member)
    write_table(out_dir / "pages.parquet", pa.Table.from_pylist(rows, schema=PAGE_SCHEMA))
    return sum(row["n_bytes"] for row in rows)


def page_row(truth: dict[str, Any], body: bytes, offset: int) -> dict[str, Any]:
    """The row of a page in `pages.parquet`."""
    import hashlib

    return {
        "url": truth["url"],
        "status": 200,
        "content_type": "text/html",
        "segment": "pages-00000.warc.gz",
        "offset": offset,
        "n_bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "depth": 0,
        "source": truth["domain"],
    }


def run_ours(pages: Path, work: Path) -> None:
    """Runs our stages as the pipeline does, without Prefect; prints one line of JSON as the peer does."""
    from flows.recipe import load_recipe
    from tasks.clean import clean
    from tasks.core.build import Build
    from tasks.core.engine import EngineConfig
    from tasks.core.store import Artifact
    from tasks.dedup import dedup

    recipe = load_recipe("conf/commoncrawl.yaml")
    cpu, wall, counts = {}, {}, {}
    source = Artifact("ingest", "", "", pages)
    for stage in (clean, dedup):
        name = stage.name
        started, before = time.perf_counter(), cpu_seconds()
        out_dir = work / name
        out_dir.mkdir()
        build = Build(out_dir, work / f".{name}", EngineConfig(n_workers=1), lambda *_: None)
        made = stage.__wrapped__(build, source, config=getattr(recipe, name))
        cpu[name], wall[name] = cpu_seconds() - before, time.perf_counter() - started
        counts[name] = made.to_dict()
        source = Artifact(name, "", "", out_dir)
    print(json.dumps({"documents": counts, "cpu_s": cpu, "wall_s": wall}))


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measured(command: list[str]) -> tuple[dict[str, Any], float]:
    """What a command prints as its last line, and its CPU seconds in all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), cpu


def n_rows(folder: Path) -> int:
    """Documents of an artifact."""
    return sum(read_table(path, columns=["id"]).num_rows for path in folder.glob("documents-*.parquet"))


def main() -> None:
    """Writes the WARC, runs both, prints CPU seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=700)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    pages = work / "pages"
    pages.mkdir(parents=True)
    n_bytes = write_pages(arguments.data, arguments.pages, pages)
    print(f"{arguments.pages} pages, {n_bytes / 1e6:.1f} MB of HTML, in {work}")
    ours, our_cpu = measured([sys.executable, "-m", "benchmarks.end_to_end", "--ours", str(pages), str(work)])
    script = str(Path(__file__).parent / "peers" / "datatrove_run.py")
    theirs, their_cpu = measured([str(arguments.peer), script, str(pages), str(work / "datatrove")])
    print("ours     ", json.dumps(ours))
    print("datatrove", json.dumps(theirs))
    print(f"CPU seconds: ours {our_cpu:.1f}, datatrove {their_cpu:.1f}, ratio {their_cpu / our_cpu:.1f}")
    in_stages = sum(theirs["cpu_s"].values()) / sum(ours["cpu_s"].values())
    print(f"without imports: ratio {in_stages:.1f}; documents: ours {n_rows(work / 'dedup')}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        run_ours(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
