"""A chat model out of the base model."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.train.method_configs import FinetuneConfig

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1, process="llm.train", undigested=("metrics.jsonl",), verify_inputs=True, on_code_change="reuse")
def finetune(
    build: Build, base: Artifact, examples: Artifact, shards: Artifact | None, config: FinetuneConfig
) -> Counts:
    """A model that answers, trained on the answers of the examples, perhaps with some sequences of the shards among
    them; a retry goes on at the last checkpoint."""
    return build.process(
        "llm.train",
        kind="finetune",
        config=dataclasses.asdict(config),
        base_dir=str(base.path),
        examples_dir=str(examples.path),
        tokenizer_dir=str(base.path),
        **({"shards_dir": str(shards.path)} if shards else {}),
    )
