"""A chat model that gives the answers that people like better."""

from __future__ import annotations

from llm.counts import Counts
from llm.train.method_configs import PreferConfig

from .build import Build
from .stage import training
from .store import Artifact


@training(version=1, makes="chat", label="Preference optimisation (DPO)")
def prefer(build: Build, chat: Artifact, reference: Artifact, config: PreferConfig) -> Counts:
    """The chat model, trained on preference pairs (DPO); a retry goes on at the last checkpoint."""
    return build.train("llm.train.prefer", config, model_dir=chat.path, reference_dir=reference.path)
