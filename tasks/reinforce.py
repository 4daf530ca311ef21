"""A chat model that answers checkable questions better."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.user_files.json_records import record_files
from llm.data.user_files.questions import read_questions
from llm.train.methods.config import ReinforceConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


@training(
    version=1,
    makes="chat",
    label="Reinforcement learning (GRPO)",
    external_files=lambda config: record_files("reinforce", config.files),
    check=lambda config: read_questions(record_files("reinforce", config.files), config.bad_examples),
)
def reinforce(build: Build, chat: Artifact, examples: Artifact, config: ReinforceConfig) -> Counts:
    """Trains the chat model on the rewards of its own answers (GRPO); a retry goes on at the last checkpoint."""
    return build.train("llm.train.methods.reinforce", config, model_dir=chat.path, examples_dir=examples.path)
