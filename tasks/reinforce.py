"""A chat model that answers checkable questions better."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.data.benchmark_items import file_states
from llm.data.json_records import record_files
from llm.train.method_configs import ReinforceConfig

from .build import Build
from .stage import stage
from .store import Artifact


def outside(config: ReinforceConfig) -> dict[str, str]:
    """The files of questions, each with its size in bytes and the time of its last change."""
    return file_states(record_files("reinforce", config.files))


@stage(
    version=1,
    process="llm.train",
    undigested=("metrics.jsonl",),
    outside=outside,
    verify_inputs=True,
    on_code_change="reuse",
)
def reinforce(build: Build, chat: Artifact, examples: Artifact, config: ReinforceConfig) -> Counts:
    """The chat model, trained on the rewards of its own answers (GRPO); a retry goes on at the last checkpoint."""
    return build.process(
        "llm.train",
        kind="reinforce",
        config=dataclasses.asdict(config),
        model_dir=str(chat.path),
        examples_dir=str(examples.path),
    )
