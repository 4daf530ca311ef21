"""A chat model that gives the answers that people like better."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.train.method_configs import PreferConfig

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1, process="llm.train", undigested=("metrics.jsonl",), verify_inputs=True, on_code_change="reuse")
def prefer(build: Build, chat: Artifact, reference: Artifact, config: PreferConfig) -> Counts:
    """The chat model, trained on preference pairs (DPO); a retry goes on at the last checkpoint."""
    return build.process(
        "llm.train",
        kind="prefer",
        config=dataclasses.asdict(config),
        model_dir=str(chat.path),
        reference_dir=str(reference.path),
    )
