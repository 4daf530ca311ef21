"""Peer: datatrove from WARC files to deduplicated documents, as its own examples chain it.

    python datatrove_run.py WARC_FOLDER WORK_FOLDER

Run it with the Python of an environment of its own, which holds
`datatrove[processing,io]==0.10.1 lxml_html_clean spacy orjson "numpy<2.3"` (datatrove's extras leave the last ones out,
and every page then fails). Prints one line of JSON: documents after each phase, CPU and wall seconds of each phase. The
extracted texts stay in WORK_FOLDER/extracted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def n_documents(folder: Path) -> int:
    """Lines of all JSONL files in a folder."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("*.jsonl"))


def main(warcs: str, work: Path) -> None:
    """Runs the phases one after the other, one worker each."""
    config = MinhashConfig()
    folder = {name: str(work / name) for name in ("extracted", "filtered", "signed", "buckets", "removed", "kept")}
    phases = {
        "extract": [
            WarcReader(warcs, glob_pattern="*.warc.gz"),
            Trafilatura(timeout=10),
            JsonlWriter(folder["extracted"], compression=None),
        ],
        "filter": [
            JsonlReader(folder["extracted"]),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            JsonlWriter(folder["filtered"], compression=None),
        ],
        "sign": [JsonlReader(folder["filtered"]), MinhashDedupSignature(folder["signed"], config)],
        "buckets": [MinhashDedupBuckets(folder["signed"], folder["buckets"], config=config)],
        "cluster": [MinhashDedupCluster(folder["buckets"], folder["removed"], config=config)],
        "select": [
            JsonlReader(folder["filtered"]),
            MinhashDedupFilter(folder["removed"]),
            JsonlWriter(folder["kept"], compression=None),
        ],
    }
    cpu, wall = {}, {}
    for name, pipeline in phases.items():
        n_tasks = config.num_buckets if name == "buckets" else 1
        started, before = time.perf_counter(), cpu_seconds()
        LocalPipelineExecutor(pipeline, tasks=n_tasks, workers=1, logging_dir=str(work / "logs" / name)).run()
        cpu[name], wall[name] = cpu_seconds() - before, time.perf_counter() - started
    counts = {name: n_documents(work / name) for name in ("extracted", "filtered", "kept")}
    print(json.dumps({"documents": counts, "cpu_s": cpu, "wall_s": wall}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
