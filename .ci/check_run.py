"""Fails when the demo's run left no sound artifact for a stage, or no score."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.core import workspace

workspace.configure()

from flows.pipeline import stages_of
from flows.recipe import load_recipe
from llm.files import read_table
from tasks.core.store import Store

REQUIRED = {
    ("base", "held-out documents", "bits per byte"),
    ("chat", "held-out documents", "bits per byte"),
    ("xz -9", "held-out documents", "bits per byte"),
    ("base", "held-out examples", "answer loss"),
    ("chat", "held-out examples", "answer loss"),
    ("base", "four-choice definitions", "accuracy"),
    ("chat", "four-choice definitions", "accuracy"),
}


def main() -> None:
    """Looks at the newest artifact of every stage."""
    store = Store(workspace.workspace() / "store")
    problems = []
    for stage in stages_of(load_recipe("conf/demo.yaml")):
        artifacts = store.artifacts(stage)
        problems += [f"{stage}: no artifact"] if not artifacts else artifacts[0].damage(full=True)
    if not problems:
        rows = read_table(store.artifacts("evaluate")[0].path / "scores.parquet").to_pylist()
        there = {(row["model"], row["benchmark"], row["metric"]) for row in rows}
        problems += [f"no score {score}" for score in sorted(REQUIRED - there)]
        if not (store.artifacts("report")[0].path / "report.html").is_file():
            problems.append("no report.html")
    sys.exit("\n".join(problems) or 0)


main()
