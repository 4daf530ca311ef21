"""What the chat model thinks of preference pairs before it learns from them."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.data.benchmark_items import file_states
from llm.data.json_records import record_files
from llm.train.method_configs import ReferenceConfig

from .build import Build
from .stage import stage
from .store import Artifact


def outside(config: ReferenceConfig) -> dict[str, str]:
    """The files of pairs, each with its size in bytes and the time of its last change."""
    return file_states(record_files("reference", config.files))


@stage(version=1, process="llm.train", outside=outside, verify_inputs=True, on_code_change="reuse")
def reference(build: Build, chat: Artifact, examples: Artifact, config: ReferenceConfig) -> Counts:
    """Preference pairs with the chat model's log-probabilities of their answers: DPO's reference, computed once."""
    return build.process(
        "llm.train",
        kind="reference",
        config=dataclasses.asdict(config),
        model_dir=str(chat.path),
        examples_dir=str(examples.path),
    )
