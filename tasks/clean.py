"""Documents out of web pages."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.clean import CleanConfig, clean_partition
from llm.data.warc import page_slices

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1)
def clean(build: Build, pages: Artifact, config: CleanConfig) -> Counts:
    """The main text of every page; every dropped page has a reason."""
    return build.map(clean_partition, page_slices(pages.path, config.pages_per_partition), config=config)
