"""A base model out of token shards."""

from __future__ import annotations

from pathlib import Path

from llm.counts import Counts
from llm.model.published import published_files
from llm.tokenizer.tokenizer import TOKENIZER_FILE
from llm.train.config import PretrainConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


def external_files(config: PretrainConfig) -> list[Path]:
    """Returns the files of published weights and their tokenizer, none for a training from scratch."""
    directory = Path(config.start_from) if config.start_from else None
    return [*published_files(directory), directory / TOKENIZER_FILE] if directory else []


@training(version=1, makes="base", label="Pretraining", external_files=external_files)
def pretrain(build: Build, shards: Artifact, vocabulary: Artifact, config: PretrainConfig) -> Counts:
    """A model that predicts the next token, trained in a process of its own; a retry goes on at the last checkpoint."""
    return build.train("llm.train.methods.pretrain", config, shards_dir=shards.path, tokenizer_dir=vocabulary.path)
