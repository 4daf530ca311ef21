"""A classifier out of the newest model."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.json_records import record_files
from llm.data.labelled import read_labelled
from llm.train.method_configs import ClassifyConfig

from .build import Build
from .stage import training
from .store import Artifact


def check(config: ClassifyConfig) -> None:
    """Reads the labelled texts; raises ValueError with file, line and field."""
    files, held_out = record_files("classify", config.files), config.held_out_files
    held_out_files = record_files("classify", held_out) if held_out else []
    read_labelled(files, held_out_files, config.held_out_fraction, config.text_field, config.label_field)


@training(
    version=1,
    makes="classifier",
    label="Classification",
    external_files=lambda config: record_files("classify", [*config.files, *config.held_out_files]),
    check=check,
)
def classify(build: Build, model: Artifact, config: ClassifyConfig) -> Counts:
    """A classifier, trained on labelled texts and held against baselines; a retry goes on at the last checkpoint."""
    return build.train("llm.train.classify", config, model_dir=model.path)
