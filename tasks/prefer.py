"""A chat model that gives the answers that people like better."""

from __future__ import annotations

from llm.counts import Counts
from llm.train.methods.config import PreferConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


@training(version=1, makes="chat", label="Preference optimisation (DPO)")
def prefer(build: Build, chat: Artifact, reference: Artifact, config: PreferConfig) -> Counts:
    """The chat model, trained on preference pairs (DPO); a retry goes on at the last checkpoint."""
    return build.train("llm.train.methods.prefer", config, model_dir=chat.path, reference_dir=reference.path)
