"""A classifier out of the newest model."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.user_files.json_records import record_files
from llm.data.user_files.labelled import read_labelled
from llm.train.methods.config import ClassifyConfig

from .core.build import Build
from .core.stage import training
from .core.store import Artifact


def check(config: ClassifyConfig) -> None:
    """Reads the labelled texts; raises ValueError with file, line and field."""
    files, held_out = record_files("classify", config.files), config.held_out_files
    held_out_files = record_files("classify", held_out) if held_out else []
    fields = config.text_field, config.label_field
    read_labelled(files, held_out_files, config.held_out_fraction, *fields, config.bad_examples)


@training(
    version=2,
    makes="classifier",
    label="Classification",
    external_files=lambda config: record_files("classify", [*config.files, *config.held_out_files]),
    check=check,
)
def classify(build: Build, model: Artifact, config: ClassifyConfig) -> Counts:
    """Trains a classifier on labelled texts and compares it with baselines; a retry goes on at the last checkpoint."""
    return build.train("llm.train.methods.classify", config, model_dir=model.path)
