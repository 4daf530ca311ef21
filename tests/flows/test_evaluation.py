"""The gate and the watch as a flow, over the tiny recipe's models and a real MLflow database."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from flows.evaluation import ScoreFell, artifact_of, evaluation
from flows.registration import announce, gated
from llm.evaluate.history import read
from llm.files import read_table, write_table
from llm.model.files import load_model, save_model
from llm.tokenizer.tokenizer import Tokenizer
from tasks.core.fingerprint import Code, Key
from tasks.core.registry import CHAMPION, Version, aliased, record_decision, register
from tasks.core.session import Session
from tasks.core.store import Artifact, Store
from tasks.core.tracking import Tracker, guarded
from tests.flows.runs import TINY, Run

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow
NAME = "sourdough-tiny-chat"


@pytest.fixture(scope="module")
def workspace(tiny: Run, mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run's store, after a first evaluation: the chat model is champion."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(tiny.workspace / "store", folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURDOUGH_WORKSPACE", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
        assert evaluation(recipe(folder, "tiny"), again=False) == dict(tiny.artifacts["evaluate"].counts.figures)
    return folder


def recipe(workspace: Path, name: str) -> str:
    """The tiny recipe under a name, so with a registered model, of its own; its gate is content with few items."""
    path = workspace / f"{name}.yaml"
    path.write_text(f"extends: {TINY}\nname: {name}\ngate: {{min_items: 2}}\n")
    return str(path)


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)


def champion(name: str = NAME) -> Version:
    found = aliased(Tracker(), name, CHAMPION)
    assert found is not None
    return found


def history(workspace: Path, name: str = NAME) -> list[dict[str, Any]]:
    return read(workspace / "evaluations" / name / "history.jsonl")


def test_the_first_candidate_becomes_champion_and_is_measured(workspace: Path, tiny: Run) -> None:
    assert (champion().number, champion().fingerprint) == ("1", tiny.artifacts["finetune"].fingerprint)
    assert "no champion yet" in Tracker().client.get_model_version(NAME, "1").tags["gate.reason"]
    line = history(workspace)[0]
    assert (line["model"], line["fell"]) == (f"{NAME} version 1", [])
    assert {row["metric"] for row in line["scores"]} >= {"answer loss", "bits per byte", "accuracy"}
    flow = Tracker().client.search_runs([Tracker().experiment], "tags.kind = 'flow'")[0]
    shown = {item.path for item in Tracker().client.list_artifacts(flow.info.run_id)}
    assert shown == {"history.png", "history.jsonl"}


def chat_model(workspace: Path, tiny: Run, name: str, *, random: bool = False, **changes: Any) -> Artifact:
    """The chat model as one of another setting, with weights drawn at random if `random`.

    `changes` are other `inputs`, or another time when it was `started`; by default it is the newest model.
    """
    chat, store = tiny.artifacts["finetune"], Store(workspace / "store")
    key = Key("finetune", 1, {**chat.manifest["config"], "name": name}, chat.manifest["inputs"], Code("", {}))
    key = dataclasses.replace(key, inputs=changes.get("inputs", key.inputs))
    out_dir = store.new_out_dir("finetune", key.fingerprint)
    model, generator = load_model(chat.path), torch.Generator().manual_seed(0)
    for weights in model.parameters() if random else ():
        weights.data = torch.randn(weights.shape, generator=generator) / 2
    save_model(model, out_dir, {"kind": "finetune", "name": name})
    Tokenizer.load(chat.path).save(out_dir)
    started = changes.get("started", "2999-01-01T00:00:00+00:00")
    facts = {"makes": "chat", "label": "finetune"}
    made = store.commit(out_dir, key, chat.counts, provenance={"started": started}, facts=facts)
    if "started" in changes:
        made.note(number=0)  # as one from before artifacts had numbers
    return made


def test_a_worse_candidate_is_refused_with_reasons(workspace: Path, tiny: Run) -> None:
    model = chat_model(workspace, tiny, "worse", random=True)
    register(Tracker(), NAME, model, Store(workspace / "store"), None)
    evaluation(recipe(workspace, "tiny"), again=False)
    assert champion().number == "1"
    tags = Tracker().client.get_model_version(NAME, "2").tags
    assert (tags["gate"], tags["gate.against"]) == ("refused", f"{NAME} version 1")
    assert "not better beyond its 95 % interval: held-out examples: answer loss is worse" in tags["gate.reason"]
    assert {line["model"] for line in history(workspace)} == {f"{NAME} version 1"}
    assert "version 2 is refused (against" in history(workspace)[-1]["gate"]
    version = Tracker().client.get_model_version(NAME, "2")
    card = Path(Tracker().client.download_artifacts(version.run_id, "model/MODEL_CARD.md")).read_text()
    assert "held-out examples: answer loss" in card


def test_a_fall_fails_the_run_until_it_is_accepted(workspace: Path, tiny: Run) -> None:
    path = workspace / "evaluations" / NAME / f"{tiny.artifacts['finetune'].fingerprint}.parquet"
    first = read_table(path)
    make_better(path)
    state = evaluation(recipe(workspace, "tiny"), again=False, return_state=True)
    assert state.name == "Failed"
    assert "sourdough-tiny-chat version 1 has fallen: held-out examples: answer loss is worse: before" in state.message
    with pytest.raises(ScoreFell, match=r"before [\d.]+, now [\d.]+ \(gain -"):
        state.result()
    assert history(workspace)[-1]["fell"] == ["held-out examples: answer loss"]
    assert read_table(path) != first
    evaluation(recipe(workspace, "tiny"), again=False, accept=True)
    assert history(workspace)[-1]["fell"] == []
    assert read_table(path) == first


def asked_examples(tiny: Run) -> list[str]:
    """The ids of the held-out examples that the evaluation asks."""
    items = read_table(tiny.artifacts["evaluate"].path / "items.parquet").to_pylist()
    return sorted({row["id"] for row in items if row["benchmark"] == "held-out examples"})


def other_split(workspace: Path, tiny: Run, learned: list[str]) -> list[dict[str, str]]:
    """Inputs of a chat model whose split has the examples `learned` in training; its base model is gone."""
    made, store = tiny.artifacts["instruct"], Store(workspace / "store")
    key = Key("instruct", 2, {**made.manifest["config"], "learned": learned}, made.manifest["inputs"], Code("", {}))
    out_dir = store.new_out_dir("instruct", key.fingerprint)
    held_out = read_table(made.path / "val.parquet")
    write_table(out_dir / "val.parquet", held_out.filter(~pc.field("id").isin(learned)))
    split = store.commit(out_dir, key, made.counts, provenance={})
    gone = {"stage": "pretrain", "fingerprint": "0" * 32, "digest": "0" * 32}
    return [gone, {"stage": "instruct", "fingerprint": split.fingerprint, "digest": split.digest}]


@pytest.mark.parametrize("part", ["two", "all"])
def test_a_candidate_is_not_judged_by_what_it_was_trained_on(workspace: Path, tiny: Run, part: str) -> None:
    name, store, tracker = f"sourdough-judged-{part}-chat", Store(workspace / "store"), Tracker()
    asked = asked_examples(tiny)
    learned = asked[:2] if part == "two" else asked
    bad = chat_model(workspace, tiny, "champion", random=True, started="2000")
    first = register(tracker, name, bad, store, None)
    assert first is not None
    assert record_decision(tracker, first, promote=True, reasons=["the only one"], against="nobody")
    leaky = chat_model(workspace, tiny, f"leaky {part}", inputs=other_split(workspace, tiny, learned))
    second = register(tracker, name, leaky, store, None)
    assert second is not None
    evaluation(recipe(workspace, f"judged-{part}"), again=False)
    version = tracker.client.get_model_version(name, second.number)
    written = json.loads(Path(tracker.client.download_artifacts(version.run_id, "gate.json")).read_text())
    said = (
        f"{len(learned)} of {len(asked)} held-out examples are left out: finetune {leaky.fingerprint[:12]} was trained"
    )
    assert any(reason.startswith(said) for reason in written["reasons"])
    if part == "all":
        assert version.tags["gate"] == "refused"
        assert version.tags["gate.reason"].endswith("build both models with the same recipe to compare them")
        assert champion(name).number == first.number


def test_a_candidate_takes_the_place_of_a_champion_that_is_gone(workspace: Path, tiny: Run) -> None:
    name, store, tracker = "sourdough-gone-chat", Store(workspace / "store"), Tracker()
    gone = chat_model(workspace, tiny, "gone", random=True, started="2000")
    first = register(tracker, name, gone, store, None)
    assert first is not None
    assert record_decision(tracker, first, promote=True, reasons=["the only one"], against="nobody")
    shutil.rmtree(gone.path)
    evaluation(recipe(workspace, "gone"), again=False)
    assert champion(name).fingerprint == tiny.artifacts["finetune"].fingerprint
    reason = tracker.client.get_model_version(name, champion(name).number).tags["gate.reason"]
    assert reason == f"{first} is no longer in the store: the candidate takes its place without a comparison"
    assert reason in history(workspace, name)[-1]["gate"]


def fail(*arguments: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


def test_an_alias_that_did_not_move_is_no_new_champion(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.registry.make_champion", guarded(fail))
    evaluation(recipe(workspace, "stuck"), again=False)
    said = history(workspace, "sourdough-stuck-chat")[-1]["gate"]
    assert "is refused (against nobody): MLflow failed before it could become champion" in said


def test_a_fall_is_named_though_neither_plot_nor_history_can_be_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sourdough-full-chat"
    evaluation(recipe(workspace, "full"), again=False)
    monkeypatch.setattr("llm.evaluate.history.draw", fail)
    evaluation(recipe(workspace, "full"), again=False)
    assert len(history(workspace, name)) == 2
    make_better(workspace / "evaluations" / name / f"{champion(name).fingerprint}.parquet")
    with pytest.raises(ScoreFell, match="answer loss is worse"):
        evaluation(recipe(workspace, "full"), again=False)
    monkeypatch.setattr("llm.evaluate.history.append", fail)
    with pytest.raises(ScoreFell, match="answer loss is worse"):
        evaluation(recipe(workspace, "full"), again=False)


def make_better(path: Path) -> None:
    """Makes a reference better than the model has ever been, so that its next evaluation is a fall."""
    first = read_table(path)
    loss = np.array(first["metric"]) == "answer loss"
    better = np.where(loss, first["value"].to_numpy() * 0.9, first["value"].to_numpy())
    write_table(path, first.set_column(first.schema.get_field_index("value"), "value", pa.array(better)))


def test_a_champion_that_is_gone_is_named(tmp_path: Path) -> None:
    session = Session(Store(tmp_path))
    with pytest.raises(ValueError, match=r"sourdough-tiny-chat version 1 is .* no longer in the store: make it again"):
        artifact_of(session, Version(NAME, "1", "finetune", "chat", "f" * 32, "d", "2026"))


def test_the_chat_model_goes_through_the_gate_the_base_model_only_alone(tiny: Run) -> None:
    made = tiny.artifacts
    assert gated(made) == made["finetune"]
    assert gated({"pretrain": made["pretrain"]}) == made["pretrain"]
    classifier: Any = SimpleNamespace(makes="classifier")
    assert gated({**made, "prefer": made["finetune"], "classify": classifier}) == made["finetune"]


def test_only_a_candidate_without_a_decision_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import registration

    emitted: list[str] = []
    monkeypatch.setattr(registration, "emit_event", lambda event, resource, payload: emitted.append(event))
    version = Version(NAME, "1", "finetune", "chat", "f", "d", "2026")
    waiting = dataclasses.replace(version, aliases=("candidate",))
    for each in (None, version, dataclasses.replace(waiting, decision="refused")):
        announce(each)
    assert emitted == []
    announce(waiting)
    assert emitted == ["sourdough.model.candidate"]
