"""Documents as packed sequences of tokens."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.pack.pack import ShardConfig, finish_shards, pack_partition
from llm.documents import document_files

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=1, reads_all=True)
def shard(build: Build, documents: Artifact, vocabulary: Artifact, config: ShardConfig) -> Counts:
    """Packs tokens into sequences of one length that begin with a document or a piece, each token in exactly one.

    Training and held-out documents are apart.
    """
    counts = build.map(pack_partition, document_files(documents.path), vocabulary.path, config=config)
    finish_shards(build.out_dir, vocabulary.path, config, counts)
    return counts
