"""The chat model's log-probabilities of preference pairs, before it is trained on them."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.user_files.json_records import record_files
from llm.data.user_files.pairs import read_pairs
from llm.train.methods.config import ReferenceConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


@training(
    version=1,
    makes=None,
    label="Reference log-probabilities",
    external_files=lambda config: record_files("reference", config.files),
    check=lambda config: read_pairs(record_files("reference", config.files), config.bad_examples),
)
def reference(build: Build, chat: Artifact, examples: Artifact, config: ReferenceConfig) -> Counts:
    """Computes the chat model's log-probabilities of preference pairs' answers: DPO's reference, computed once."""
    return build.train("llm.train.methods.reference", config, model_dir=chat.path, examples_dir=examples.path)
