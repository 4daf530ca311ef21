"""A vocabulary made from the documents."""

from __future__ import annotations

from pathlib import Path

from llm.counts import Counts
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import TOKENIZER_FILE
from llm.tokenizer.training import TokenizerConfig, train_tokenizer

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


def external_files(config: TokenizerConfig) -> list[Path]:
    """Returns the file of a published tokenizer, if one is taken over."""
    return [Path(config.start_from) / TOKENIZER_FILE] if config.start_from else []


@stage(version=1, reads_all=True, external_files=external_files)
def tokenizer(build: Build, documents: Artifact, config: TokenizerConfig) -> Counts:
    """Trains byte-level BPE; adds the chat template and the bytes per token on held-out text."""
    published = import_tokenizer(Path(config.start_from)).tokenizer if config.start_from else None
    return train_tokenizer(documents.path, build.out_dir, config, published)
