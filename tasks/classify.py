"""A classifier out of the newest model."""

from __future__ import annotations

import dataclasses

from llm.counts import Counts
from llm.data.benchmark_items import file_states
from llm.data.json_records import record_files
from llm.train.method_configs import ClassifyConfig

from .build import Build
from .stage import stage
from .store import Artifact


def outside(config: ClassifyConfig) -> dict[str, str]:
    """The files of labelled texts, each with its size in bytes and the time of its last change."""
    return file_states(record_files("classify", [*config.files, *config.held_out_files]))


@stage(
    version=2,
    process="llm.train",
    undigested=("metrics.jsonl",),
    outside=outside,
    verify_inputs=True,
    on_code_change="reuse",
)
def classify(build: Build, model: Artifact, config: ClassifyConfig) -> Counts:
    """A classifier, trained on labelled texts and held against baselines; a retry goes on at the last checkpoint."""
    return build.process("llm.train", kind="classify", config=dataclasses.asdict(config), model_dir=str(model.path))
