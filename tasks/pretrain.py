"""A base model out of token shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llm.counts import Counts
from llm.data.benchmark_items import file_states
from llm.model.published import published_files
from llm.tokenizer import TOKENIZER_FILE
from llm.train.config import PretrainConfig

from .build import Build
from .stage import stage
from .store import Artifact


def outside(config: PretrainConfig) -> dict[str, str]:
    """Returns the files of published weights, each with its size in bytes and the time of its last change."""
    directory = Path(config.start_from) if config.start_from else None
    return file_states([*published_files(directory), directory / TOKENIZER_FILE] if directory else [])


@stage(
    version=1,
    process="llm.train",
    undigested=("metrics.jsonl",),
    outside=outside,
    verify_inputs=True,
    on_code_change="reuse",
)
def pretrain(build: Build, shards: Artifact, vocabulary: Artifact, config: PretrainConfig) -> Counts:
    """A model that predicts the next token, trained in a process of its own; a retry goes on at the last checkpoint."""
    return build.process(
        "llm.train",
        kind="pretrain",
        config=dataclasses.asdict(config),
        shards_dir=str(shards.path),
        tokenizer_dir=str(vocabulary.path),
    )
