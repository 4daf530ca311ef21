"""Web pages, fetched over HTTP and kept as WARC."""

from __future__ import annotations

import contextlib
import dataclasses

from llm.counts import Counts
from llm.data.web.config import CrawlConfig
from llm.data.web.site import resolve_site, serve

from .core import session
from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=1, process="llm.data.web.crawl", undigested=("fetched.parquet",), on_code_change="reuse")
def crawl(build: Build, config: CrawlConfig) -> Counts:
    """Pages of the seeds' sites; every address that was not kept has a reason.

    Pages are dear to fetch, and a site's owner bears a part of it: when only code has changed they are taken as they
    are, unless the recipe says `on_code_change: {crawl: rebuild}`.
    """
    earlier = newest_crawl(config) if config.reuse_unchanged else None
    with contextlib.ExitStack() as stack:
        if config.site:
            folder = resolve_site(config.site, session.current().downloads)
            stack.enter_context(serve(folder, config.site.port))
        place = str(earlier.path) if earlier else None
        return build.process("llm.data.web.crawl", config=dataclasses.asdict(config), earlier=place)


def newest_crawl(config: CrawlConfig) -> Artifact | None:
    """The newest sound artifact of a crawl of the same seeds, under whatever snapshot and settings; None if none is."""
    for artifact in session.current().store.artifacts("crawl"):
        seeds = artifact.manifest["config"].get("seeds", [])
        if sorted(seeds) == sorted(config.seeds) and not artifact.damage(full=False):
            return artifact
    return None
