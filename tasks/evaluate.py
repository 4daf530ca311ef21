"""Scores of the base model and the chat model."""

from __future__ import annotations

from llm.counts import Counts
from llm.evaluate.evaluate import EvaluateConfig, evaluate_models

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1)
def evaluate(
    build: Build, base: Artifact, chat: Artifact, documents: Artifact, examples: Artifact, config: EvaluateConfig
) -> Counts:
    """Bits per byte, answer loss and four-choice accuracy, each with its interval; sampled answers."""
    return evaluate_models(
        base.path, chat.path, documents.path, examples.path, build.out_dir, config, progress=build.progress
    )
