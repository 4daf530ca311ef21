"""A chat model out of the base model."""

from __future__ import annotations

from llm.counts import Counts
from llm.train.methods.config import FinetuneConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


@training(version=1, makes="chat", label="Supervised fine-tuning")
def finetune(
    build: Build, base: Artifact, examples: Artifact, shards: Artifact | None, config: FinetuneConfig
) -> Counts:
    """A model that answers, trained on the answers of the examples, perhaps with some sequences of the shards among
    them; a retry goes on at the last checkpoint."""
    return build.train(
        "llm.train.methods.finetune",
        config,
        base_dir=base.path,
        examples_dir=examples.path,
        tokenizer_dir=base.path,
        shards_dir=shards.path if shards else None,
    )
