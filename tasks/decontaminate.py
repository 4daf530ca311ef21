"""Documents without the items of benchmarks."""

from __future__ import annotations

from dataclasses import replace

from llm.counts import Counts
from llm.data.common.canary_check import require_found, require_shares
from llm.data.common.drops import sample_dropped
from llm.data.common.parts import document_parts
from llm.data.decontaminate.decontaminate import (
    DecontaminateConfig,
    build_index,
    check_canaries,
    decide,
    dropped_by,
    find_part,
    hit_figures,
    read_benchmarks,
    select_part,
)
from llm.data.user_files.benchmark_items import benchmark_files
from llm.documents import document_files
from llm.files import write_table

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(
    version=1,
    reads_all=True,
    external_files=lambda config: benchmark_files(config.benchmarks),
    check=read_benchmarks,
)
def decontaminate(build: Build, documents: Artifact, config: DecontaminateConfig) -> Counts:
    """Removes documents that contain benchmark items; every hit is written down."""
    parts = document_parts(document_files(documents.path))
    items = read_benchmarks(config)
    index = build_index(items, config)
    check = check_canaries(parts, items, index, config)
    require_found([check], config.canary_check)
    index.save(build.work_dir / "index")
    # Without benchmarks there is nothing to look for in the documents.
    folders = build.each(find_part, parts, build.work_dir / "index", config=config)[0] if items else []
    hits = decide([folder / "found.parquet" for folder in folders], index, items, config)
    write_table(build.out_dir / "hits.parquet", hits.drop_columns(["number"]))
    write_table(build.work_dir / "dropped.parquet", dropped_by(hits, config))
    counts = build.map(select_part, parts, build.work_dir / "dropped.parquet", config=config)
    require_shares(counts, sample_dropped(build.out_dir, 5), config.canary_check)
    return replace(counts, figures={**counts.figures, **hit_figures(hits, items, index), **check.figures})
