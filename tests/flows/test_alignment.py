"""The stages after fine-tuning: preference, reinforcement, classification, in the pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.pipeline import build_model, new_session, pipeline, stages_of
from flows.recipe import load_recipe
from flows.stages import stage_flows
from llm.model.classifier import load_classifier
from llm.model.files import load_model
from tasks.core.session import running
from tasks.core.stage import StageError
from tests.flows.runs import TINY, Run, run_recipe

LOOP = "{micro_batch_size: 8, eval_every: 2, checkpoint_every: 2, n_sample_tokens: 4, n_threads: 1}"
ALIGNED = ("reference", "prefer", "reinforce", "classify")


def write_lines(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def overrides(folder: Path) -> list[str]:
    """What the tiny recipe needs for all methods, with small files in `folder`."""
    pairs = [{"prompt": f"Is {n} good?", "chosen": "Yes.", "rejected": "No."} for n in range(20)]
    questions = [{"prompt": f"Say {n}", "answer": "e"} for n in range(20)]
    labelled = [{"text": f"{'good bread' if n % 2 else 'bad flour'} {n}", "label": str(n % 2)} for n in range(20)]
    return [
        f"reference.files=['{write_lines(folder / 'pairs.jsonl', pairs)}']",
        "reference.n_threads=1",
        "prefer.n_steps=2",
        "prefer.batch_size=4",
        f"prefer.loop={LOOP}",
        f"reinforce.files=['{write_lines(folder / 'questions.jsonl', questions)}']",
        "reinforce.match=contains",
        "reinforce.max_answer_tokens=4",
        "reinforce.n_steps=2",
        "reinforce.batch_size=2",
        "reinforce.group_size=4",
        f"reinforce.loop={LOOP}",
        f"classify.files=['{write_lines(folder / 'labelled.jsonl', labelled)}']",
        "classify.n_steps=2",
        "classify.batch_size=4",
        "classify.trainable_blocks=1",
        f"classify.loop={LOOP}",
    ]


def explain(workspace: Path, changes: list[str]) -> dict[str, str]:
    """What would happen to each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
        recipe = load_recipe(TINY, changes)
        session = new_session(recipe, execute=False)
        with running(session):
            build_model(recipe)
    return {outcome.stage: outcome.action for outcome in session.outcomes}


@pytest.mark.slow
def test_each_method_goes_on_from_the_model_before_it(tiny: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(tiny.workspace, workspace)
    changes = overrides(tmp_path)
    run = run_recipe(workspace, *changes, until_stage="evaluate")
    made = run.artifacts
    inputs = {name: [item["stage"] for item in made[name].manifest["inputs"]] for name in (*ALIGNED, "evaluate")}
    assert inputs["reference"] == ["finetune", "instruct"]
    assert inputs["prefer"] == ["finetune", "reference"]
    assert inputs["reinforce"] == ["prefer", "instruct"]
    assert inputs["classify"] == ["reinforce"]
    assert "reinforce" in inputs["evaluate"]
    assert "finetune" not in inputs["evaluate"]
    weights = [load_model(made[name].path).token_embedding.weight for name in ("finetune", "prefer", "reinforce")]
    assert not weights[0].equal(weights[1])
    assert not weights[1].equal(weights[2])
    assert load_classifier(made["classify"].path)[1] == ["0", "1"]
    for name in ALIGNED:
        assert made[name].damage(full=True) == []

    assert {explain(workspace, changes)[name] for name in (*ALIGNED, "evaluate")} == {"hit"}
    with open(tmp_path / "pairs.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "Another?", "chosen": "Yes.", "rejected": "No."}) + "\n")
    actions = explain(workspace, changes)
    assert actions["finetune"] == "hit"
    assert actions["reference"] == "run", "a file outside of the store has changed"


def test_each_stage_has_a_flow_of_its_own(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, overrides(tmp_path))
    assert [name for name in stages_of(recipe) if name in ALIGNED] == list(ALIGNED)
    assert set(ALIGNED) < set(stage_flows(recipe))
    assert not set(ALIGNED) & set(stages_of(load_recipe(TINY)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["reference.files=[a]"], "reference and prefer"),
        (["prefer={}"], "reference and prefer"),
        (["instruct=null", "finetune=null", "reinforce.files=[a]"], "reinforce trains the chat model further"),
    ],
)
def test_sections_that_need_each_other(changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(TINY, changes)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("reference", {"prompt": "a", "chosen": "b"}, "line 1: field 'rejected' is missing"),
        ("reinforce", {"prompt": "a"}, "line 1: field 'answer' is missing"),
        ("classify", {"text": "a"}, "line 1: field 'label' is missing"),
    ],
)
def test_a_bad_file_is_named_before_anything_runs(
    section: str, line: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path / "workspace"))
    path = write_lines(tmp_path / "bad.jsonl", [line])
    recipe = load_recipe(TINY, [*overrides(tmp_path), f"{section}.files=['{path}']"])
    with pytest.raises((ValueError, StageError), match=message):
        pipeline.fn(recipe)
    assert not (tmp_path / "workspace" / "store").exists()
