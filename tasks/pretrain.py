"""A base model out of token shards."""

from __future__ import annotations

from llm.counts import Counts
from llm.train.config import PretrainConfig

from .build import Build
from .stage import training
from .store import Artifact


@training(version=1, makes="base", label="Pretraining")
def pretrain(build: Build, shards: Artifact, vocabulary: Artifact, config: PretrainConfig) -> Counts:
    """A model that predicts the next token, trained in a process of its own; a retry goes on at the last checkpoint."""
    return build.train("llm.train.pretrain", config, shards_dir=shards.path, tokenizer_dir=vocabulary.path)
