"""A vocabulary made from the documents."""

from __future__ import annotations

from llm.counts import Counts
from llm.tokenizer import TokenizerConfig, train_tokenizer

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1)
def tokenizer(build: Build, documents: Artifact, config: TokenizerConfig) -> Counts:
    """Byte-level BPE, the chat template, and its bytes per token on held-out text."""
    return train_tokenizer(documents.path, build.out_dir, config)
