"""Documents out of web pages and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llm.counts import Counts
from llm.data.clean import CleanConfig, clean_partition
from llm.data.clean_check import self_check
from llm.data.drops import sample_dropped
from llm.data.records import record_slices
from llm.data.tripwire import require_found, require_shares
from llm.data.url_filter import load_block_list

from .build import Build
from .stage import stage
from .store import Artifact


@stage(
    version=2,
    external_files=lambda config: filter(None, [config.blocked_urls_file and Path(config.blocked_urls_file)]),
    check=lambda config: load_block_list(config.blocked_urls, config.blocked_urls_file),
)
def clean(build: Build, pages: Artifact, config: CleanConfig) -> Counts:
    """The main text of every page; every dropped page has a reason."""
    parts = record_slices(pages.path, config.pages_per_partition)
    checks = self_check(parts, config)
    require_found(checks, config.trip_wire)
    counts = build.map(clean_partition, parts, config=config)
    if counts.n_out:  # else the stage itself says that nothing is left, and why
        require_shares(counts, sample_dropped(build.out_dir, 5), config.trip_wire)
    planted = {name: value for check in checks for name, value in check.figures.items()}
    return replace(counts, figures={**counts.figures, **planted})
