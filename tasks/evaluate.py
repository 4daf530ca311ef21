"""Scores of the base model and the chat model."""

from __future__ import annotations

from llm.counts import Counts
from llm.evaluate.benchmarks import check_benchmarks, external_files
from llm.evaluate.config import EvaluateConfig
from llm.evaluate.metrics import BASE, CHAT

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=1, external_files=external_files, check=check_benchmarks)
def evaluate(
    build: Build,
    documents: Artifact,
    base: Artifact,
    chat: Artifact | None,
    examples: Artifact | None,
    config: EvaluateConfig,
) -> Counts:
    """Bits per byte, answer loss, benchmark accuracy, each with its interval; answers and texts of the models' own."""
    from llm.evaluate.evaluate import evaluate_models  # PyTorch: two seconds

    models = {BASE: base.path} | ({CHAT: chat.path} if chat else {})
    examples_dir = examples.path if examples else None
    return evaluate_models(models, documents.path, examples_dir, build.out_dir, config, progress=build.progress)
