"""Documents that occur once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm.counts import Counts
from llm.data.common.canary_check import require_found, require_shares
from llm.data.common.drops import sample_dropped
from llm.data.common.parts import document_parts, finished_folders, spread_numbers
from llm.data.dedup.canaries import N_CANARIES
from llm.data.dedup.dedup import DedupConfig
from llm.data.dedup.select import (
    check_canaries,
    check_similarities,
    find_clusters,
    gather_paragraphs,
    recount_range,
    select_part,
    write_clusters,
)
from llm.data.dedup.signatures import StoredTexts, join_signatures
from llm.data.dedup.steps import (
    band_ranges,
    count_range,
    key_ranges,
    pair_band,
    scan_part,
    sign_part,
    verify_part,
)
from llm.documents import document_files
from llm.files import write_json

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=2, reads_all=True)
def dedup(build: Build, documents: Artifact, config: DedupConfig) -> Counts:
    """Keeps one document of each cluster of exact and near duplicates; removes paragraphs that many documents have."""
    parts = document_parts(document_files(documents.path))
    scans, scanned = _step(build, scan_part, parts, config=config)
    ranges = key_ranges(scanned.figures["n_entries"])
    counted, _ = _step(build, count_range, ranges, scans, config=config)
    samples = spread_numbers(parts, N_CANARIES)
    signatures, signing = _step(build, sign_part, parts, counted, samples, config=config)
    bands = band_ranges(signing.figures["n_entries"], config)
    joined = build.work_dir / "joined"
    join_signatures(finished_folders(signatures), ("texts", "canaries"), joined)
    paired, _ = _step(build, pair_band, bands, signatures, joined, config=config)
    verified, _ = _step(build, verify_part, parts, joined, paired, config=config)
    with StoredTexts.open(joined, config.n_permutations) as texts:
        clusters = find_clusters(parts, scans, counted, verified, texts)
        check_similarities(signatures, texts)
        check = check_canaries(clusters, parts, verified, texts)
    require_found([check], config.canary_check)
    decided = build.work_dir / "decided.npy"
    write_clusters(clusters, parts, build.out_dir / "clusters.parquet", decided)
    recounted, _ = _step(build, recount_range, ranges, scans, decided, config=config)
    counts = build.map(select_part, parts, decided, recounted, config=config)
    gather_paragraphs(build.out_dir)
    require_shares(counts, sample_dropped(build.out_dir, 5), config.canary_check)
    return replace(counts, figures={**counts.figures, **check.figures})


def _step(
    build: Build, function: Callable[..., Counts], items: Sequence[Any], *inputs: Any, config: Any
) -> tuple[Path, Counts]:
    """Runs one step for all items; returns the file that lists their folders, and the summed counts."""
    folders, counts = build.each(function, items, *inputs, config=config)
    listing = folders[0].parent.with_suffix(".json")
    write_json(listing, [f"{folder.parent.name}/{folder.name}" for folder in folders])
    return listing, counts
