"""One page that shows a whole run."""

from __future__ import annotations

from llm.counts import Counts
from llm.report.report import ReportConfig, StageSummary, write_report

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=1, reads_counts=True)
def report(build: Build, *artifacts: Artifact | None, config: ReportConfig) -> Counts:
    """A self-contained `report.html`: the pipeline with its counts, curves, scores and sampled answers."""
    return write_report([summary(artifact) for artifact in artifacts if artifact], build.out_dir, config)


def summary(artifact: Artifact) -> StageSummary:
    """What the report is told of an artifact."""
    return StageSummary(
        stage=artifact.stage,
        fingerprint=artifact.fingerprint,
        digest=artifact.digest,
        inputs=tuple(item["stage"] for item in artifact.manifest["inputs"]),
        counts=artifact.counts,
        path=artifact.path,
        makes=artifact.makes,
    )
