"""A base model out of token shards."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.train.config import PretrainConfig

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1, process="llm.train", undigested=("metrics.jsonl",), verify_inputs=True, on_code_change="reuse")
def pretrain(build: Build, shards: Artifact, vocabulary: Artifact, config: PretrainConfig) -> Counts:
    """A model that predicts the next token, trained in a process of its own; a retry goes on at the last checkpoint."""
    return build.process(
        "llm.train",
        kind="pretrain",
        config=dataclasses.asdict(config),
        shards_dir=str(shards.path),
        tokenizer_dir=str(vocabulary.path),
    )
