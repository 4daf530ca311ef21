"""A vocabulary made from the documents."""

from __future__ import annotations

from pathlib import Path

from llm.counts import Counts
from llm.data.benchmark_items import file_states
from llm.imported_tokenizer import import_tokenizer
from llm.tokenizer import TOKENIZER_FILE, TokenizerConfig, train_tokenizer

from .build import Build
from .stage import stage
from .store import Artifact


def outside(config: TokenizerConfig) -> dict[str, str]:
    """Returns the file of a published tokenizer, with its size in bytes and the time of its last change."""
    return file_states([Path(config.start_from) / TOKENIZER_FILE] if config.start_from else [])


@stage(version=1, outside=outside)
def tokenizer(build: Build, documents: Artifact, config: TokenizerConfig) -> Counts:
    """Byte-level BPE, the chat template, and its bytes per token on held-out text."""
    published = import_tokenizer(Path(config.start_from)).tokenizer if config.start_from else None
    return train_tokenizer(documents.path, build.out_dir, config, published)
