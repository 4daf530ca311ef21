"""The sweep as a flow over the tiny recipe, and proposals for so many hours on a device."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from flows.budget import budget_lines
from flows.deploy import deployments
from flows.pipeline import build_model, new_session
from flows.recipe import Recipe, load_recipe
from flows.scaling import scaling, sweep_of
from flows.scaling_tables import result_tables
from llm.counts import Counts
from llm.files import read_json, read_table, write_json
from llm.scaling.config import ScalingConfig
from llm.scaling.fit import FIGURE_FILE, FIT_FILE, POINTS_FILE
from tasks.core.fingerprint import Code, Key
from tasks.core.session import Session, running
from tasks.core.store import Artifact, Store
from tests.flows.runs import TINY, Run

SWEEP = """
scaling:
  budgets: [3e9, 1e10]
  shapes: [{d_model: 16, n_layers: 1}, {d_model: 32, n_layers: 1}, {d_model: 64, n_layers: 1}]
  min_steps: 4
  min_tokens_per_param: 0
  max_tokens_per_param: 1000
  max_epochs: null
  n_bootstrap: 10
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The tiny recipe with a sweep of six runs."""
    (tmp_path / "sweep.yaml").write_text(f"extends: {TINY}\n{SWEEP}")
    return load_recipe(tmp_path / "sweep.yaml")


def run_sweep(workspace: Path, recipe: Recipe) -> tuple[Artifact, list[Artifact]]:
    """The scaling artifact of the sweep, run as the flow that users run, and all pretraining runs in the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        path = Path(scaling(recipe)["scaling"])
    store = Store(workspace / "store")
    made = store.find("scaling", path.name)
    assert made is not None
    return made, store.artifacts("pretrain")


def planned(workspace: Path, recipe: Recipe) -> Session:
    """A session that has looked at every stage of the recipe and built none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        session = new_session(recipe, execute=False)
        with running(session):
            build_model(recipe)
    return session


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_trains_each_run_once_and_fits_them(tiny: Run, recipe: Recipe, tmp_path: Path) -> None:
    workspace = tmp_path / "copy"
    shutil.copytree(tiny.workspace, workspace)
    made, runs = run_sweep(workspace, recipe)
    rows = read_table(made.path / POINTS_FILE).to_pylist()
    assert len(runs) == 1 + 6, "the pipeline's own and those of the sweep"
    assert [(row["budget"], row["d_model"]) for row in rows] == [(b, d) for b in (3e9, 1e10) for d in (16, 32, 64)]
    assert made.counts.n_out == len(made.manifest["inputs"]) == 6
    assert {path.name for path in made.files("*.*")} >= {POINTS_FILE, FIT_FILE, FIGURE_FILE}
    losses = {run.fingerprint: run.counts.figures["val_loss"] for run in runs}
    assert [row["loss"] for row in rows] == [losses[item["fingerprint"]] for item in made.manifest["inputs"]]

    again, same = run_sweep(workspace, recipe)
    assert (again.fingerprint, len(same)) == (made.fingerprint, len(runs))
    (tmp_path / "more.yaml").write_text(f"extends: {tmp_path / 'sweep.yaml'}\nscaling: {{seeds: [0, 1]}}")
    more, runs = run_sweep(workspace, load_recipe(tmp_path / "more.yaml"))
    assert (more.counts.n_out, len(runs)) == (12, 1 + 12), "only the runs of the new seed were trained"

    shown = io.StringIO()
    Console(width=140, file=shown).print(*result_tables(more))
    assert "1 layers of 64" in shown.getvalue()
    assert read_json(more.path / FIT_FILE)["prediction"]["why_not"] in shown.getvalue()


def test_a_recipe_without_a_sweep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tiny has no scaling section; conf/scaling-cpu.yaml has one"):
        sweep_of(load_recipe(TINY))


def test_the_sweep_of_the_repository_loads_and_is_deployed() -> None:
    assert isinstance(sweep_of(load_recipe("conf/scaling-cpu.yaml")), ScalingConfig)
    names = {item.name: item.entrypoint for item in deployments("conf/scaling-cpu.yaml", "0 3 * * *", "UTC")}
    assert names["sweep"] == "flows.scaling.scaling"


def test_mistakes_in_a_sweep_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(f"extends: {TINY}\n{SWEEP.replace('n_layers: 1}]', 'n_layer: 1}]')}")
    with pytest.raises(ValueError, match=r"scaling\.shapes\.2\.n_layer: unknown key; did you mean"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_proposal_says_budget_law_size_corpus_and_what_to_set(tiny: Run) -> None:
    recipe = load_recipe(TINY)
    n_tokens = int(tiny.artifacts["shard"].counts.figures["n_train_tokens"])
    lines = budget_lines(recipe, planned(tiny.workspace, recipe), 2.0, "h200")
    text = "\n".join(lines)
    assert lines[0] == "2 h on h200: 2.8e+18 FLOPs at 40% of its peak of 989 TFLOP/s, assumed"
    assert "Besiroglu et al. 2024 (there is no scaling artifact in the store" in lines[1]
    assert f"corpus: {n_tokens:,} training tokens, so" in text
    assert re.search(r"it lacks [\d,]+ tokens for that: beyond 4 epochs", text)
    assert "expected held-out loss" not in text, "the published law is of another corpus"
    overrides = lines[-1].removeprefix("set: ").split()
    asked = load_recipe(TINY, overrides).pretrain
    assert asked.n_steps is not None
    assert asked.batch_tokens is not None
    assert asked.n_steps * asked.batch_tokens < 6 * n_tokens, "not the 4 passes that it says"


def test_a_proposal_uses_the_stores_own_fit_near_its_budgets_only(tiny: Run, tmp_path: Path) -> None:
    workspace, recipe = tmp_path / "copy", load_recipe(TINY)
    shutil.copytree(tiny.workspace, workspace)
    leave_fit(workspace, largest_budget=1e12)
    session = planned(workspace, recipe)
    here = budget_lines(recipe, session, 0.001, "cpu")
    assert "GFLOP/s, measured here on a model of this shape" in here[0]
    assert here[1].startswith("law: scaling artifact ")
    assert any(re.search(r"expected held-out loss: .*, with the sweep's 1,024 token types", line) for line in here)
    there = budget_lines(recipe, session, 10, "h100")
    assert re.search(r"Besiroglu et al. 2024; scaling artifact \S+ does not serve: its largest budget was", there[1])


def leave_fit(workspace: Path, largest_budget: float) -> None:
    """Puts an artifact of the scaling stage in a store, with the law of Hoffmann et al. 2022 for its fit."""
    store = Store(workspace / "store")
    key = Key("scaling", 1, {}, [], Code("", {}))
    out_dir = store.new_out_dir("scaling", key.fingerprint)
    law = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28, "doubts": [], "why_not": None}
    write_json(out_dir / FIT_FILE, {"budgets": [largest_budget], "vocab_size": 1024, "parametric": law})
    store.commit(out_dir, key, Counts("runs", 1, 1), provenance={})


@pytest.mark.parametrize(
    ("hours", "device", "message"), [(1, "H20O", "allowed: cpu, .*; did you mean h200"), (0, "cpu", "hours is 0")]
)
def test_what_cannot_be_proposed_is_refused(tmp_path: Path, hours: float, device: str, message: str) -> None:
    recipe = load_recipe(TINY)
    with pytest.raises(ValueError, match=message):
        budget_lines(recipe, planned(tmp_path, recipe), hours, device)


def test_without_shards_the_corpus_is_unknown(tmp_path: Path) -> None:
    recipe = load_recipe(TINY)
    assert any(
        "no shards in the store yet" in line for line in budget_lines(recipe, planned(tmp_path, recipe), 1, "a100")
    )
