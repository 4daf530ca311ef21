"""The ingest stage."""

from llm.counts import Counts
from llm.data.sources.ingest import IngestConfig, ingest_partition, plan, put_together
from llm.data.sources.locate import external_files

from .core import session
from .core.build import Build, place
from .core.stage import stage


@stage(version=1, external_files=lambda config: external_files(config.sources))
def ingest(build: Build, *, config: IngestConfig) -> Counts:
    """Pages and texts out of archives, data sets and files; what cannot be used is counted and named."""
    downloads = session.current().downloads
    folders, counts = build.each(ingest_partition, plan(config, downloads), downloads, config=config)
    put_together(folders, build.out_dir, config, place)
    return counts
