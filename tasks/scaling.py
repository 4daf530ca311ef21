"""Scaling laws out of a sweep of pretraining runs."""

from __future__ import annotations

from llm.counts import Counts
from llm.scaling.config import ScalingConfig

from .core.build import Build
from .core.stage import stage
from .core.store import Artifact


@stage(version=1, reads_counts=True)
def scaling(build: Build, *runs: Artifact, config: ScalingConfig) -> Counts:
    """How the held-out loss falls with parameters, tokens and compute: a fit over the runs, with a plot."""
    from llm.scaling.fit import fit_runs

    return fit_runs([(run.path, run.counts) for run in runs], build.out_dir, config)
