"""What the chat model thinks of preference pairs before it learns from them."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.json_records import record_files
from llm.data.pairs import read_pairs
from llm.train.method_configs import ReferenceConfig

from .build import Build
from .stage import training
from .store import Artifact


@training(
    version=1,
    label="Reference log-probabilities",
    external_files=lambda config: record_files("reference", config.files),
    check=lambda config: read_pairs(record_files("reference", config.files)),
)
def reference(build: Build, chat: Artifact, examples: Artifact, config: ReferenceConfig) -> Counts:
    """Preference pairs with the chat model's log-probabilities of their answers: DPO's reference, computed once."""
    return build.train("llm.train.reference", config, model_dir=chat.path, examples_dir=examples.path)
