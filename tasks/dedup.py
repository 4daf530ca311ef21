"""Documents that occur once."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.dedup import DedupConfig, cluster_documents, select_partition, sign_partition
from llm.data.documents import document_files

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1)
def dedup(build: Build, documents: Artifact, config: DedupConfig) -> Counts:
    """One document of each cluster of exact and near duplicates; the clusters are written down."""
    partitions = document_files(documents.path)
    signatures, _ = build.each(sign_partition, partitions, config=config)
    clusters = build.out_dir / "clusters.parquet"
    cluster_documents(partitions, [folder / "signatures.parquet" for folder in signatures], clusters, config)
    return build.map(select_partition, partitions, clusters, config=config)
