"""Web pages, fetched over HTTP and kept as WARC."""

from __future__ import annotations

import contextlib
import dataclasses

from llm.counts import Counts
from llm.data.crawl import CrawlConfig
from llm.data.site import resolve_site, serve

from . import session
from .build import Build
from .stage import stage


@stage(version=1, process="llm.data.crawl", undigested=("fetched.parquet",))
def crawl(build: Build, config: CrawlConfig) -> Counts:
    """Pages of the seeds' sites; every address that was not kept has a reason."""
    with contextlib.ExitStack() as stack:
        if config.site:
            folder = resolve_site(config.site, session.current().downloads)
            stack.enter_context(serve(folder, config.site.port))
        return build.process("llm.data.crawl", config=dataclasses.asdict(config))
