"""Documents out of web pages and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llm.counts import Counts
from llm.data.clean.clean import CleanConfig, clean_partition, record_slices
from llm.data.clean.clean_check import self_check
from llm.data.clean.url_filter import load_block_list
from llm.data.common.canary_check import require_found, require_shares
from llm.data.common.drops import sample_dropped

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(
    version=2,
    reads_all=True,
    external_files=lambda config: filter(None, [config.blocked_urls_file and Path(config.blocked_urls_file)]),
    check=lambda config: load_block_list(config.blocked_urls, config.blocked_urls_file),
)
def clean(build: Build, pages: Artifact, config: CleanConfig) -> Counts:
    """Extracts and filters the main text of every page; every dropped page has a reason."""
    parts = record_slices(pages.path, config.pages_per_partition)
    checks = self_check(parts, config)
    require_found(checks, config.canary_check)
    counts = build.map(clean_partition, parts, config=config)
    if counts.n_out:  # else the stage itself says that nothing is left, and why
        require_shares(counts, sample_dropped(build.out_dir, 5), config.canary_check)
    canaries = {name: value for check in checks for name, value in check.figures.items()}
    return replace(counts, figures={**counts.figures, **canaries})
