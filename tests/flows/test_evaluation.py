"""The gate and the watch as a flow, over the tiny recipe's models and a real MLflow database."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.evaluation import ScoreFell, artifact_of, evaluation
from flows.registration import announce, gated
from llm.evaluate.history import read
from llm.files import read_table, write_table
from llm.model.files import load_model, save_model
from llm.tokenizer import Tokenizer
from tasks.fingerprint import Key
from tasks.registry import CHAMPION, Version, aliased, register
from tasks.session import Session
from tasks.store import Artifact, Store
from tasks.tracking import Tracker
from tests.flows.runs import TINY, Run

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow
NAME = "sourdough-tiny-chat"


@pytest.fixture(scope="module")
def workspace(tiny: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run's store, with a recipe whose gate is content with few items."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(tiny.workspace / "store", folder / "store")
    (folder / "tiny.yaml").write_text(f"extends: {TINY}\nname: tiny\ngate: {{min_items: 2}}\n")
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(workspace))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)


def champion() -> Version:
    found = aliased(Tracker(), NAME, CHAMPION)
    assert found is not None
    return found


def history(workspace: Path) -> list[dict[str, object]]:
    return read(workspace / "evaluations" / NAME / "history.jsonl")


def test_the_first_candidate_becomes_champion_and_is_measured(workspace: Path, tiny: Run) -> None:
    figures = evaluation(str(workspace / "tiny.yaml"), again=False)
    assert figures == dict(tiny.artifacts["evaluate"].counts.figures)
    assert (champion().number, champion().fingerprint) == ("1", tiny.artifacts["finetune"].fingerprint)
    assert "no champion yet" in Tracker().client.get_model_version(NAME, "1").tags["gate.reason"]
    (line,) = history(workspace)
    assert (line["model"], line["fell"]) == (f"{NAME} version 1", [])
    assert {row["metric"] for row in line["scores"]} >= {"answer loss", "bits per byte", "accuracy"}  # type: ignore[attr-defined]
    flow = Tracker().client.search_runs([Tracker().experiment], "tags.kind = 'flow'")[0]
    shown = {item.path for item in Tracker().client.list_artifacts(flow.info.run_id)}
    assert shown == {"history.png", "history.jsonl"}


def worse_model(workspace: Path, tiny: Run) -> Artifact:
    """The chat model with other weights, drawn at random, as if trained later with another setting."""
    chat, store = tiny.artifacts["finetune"], Store(workspace / "store")
    key = Key("finetune", 1, {**chat.manifest["config"], "n_steps": 99}, chat.manifest["inputs"], {})
    out_dir = store.new_out_dir("finetune", key.fingerprint)
    model, random = load_model(chat.path), torch.Generator().manual_seed(0)
    for weights in model.parameters():
        weights.data = torch.randn(weights.shape, generator=random) / 2
    save_model(model, out_dir, {"kind": "finetune"})
    Tokenizer.load(chat.path).save(out_dir)
    return store.commit(out_dir, key, chat.counts, provenance={"started": "2999-01-01T00:00:00+00:00"})


def test_a_worse_candidate_is_refused_with_reasons(workspace: Path, tiny: Run) -> None:
    model = worse_model(workspace, tiny)
    register(Tracker(), NAME, model, Store(workspace / "store"), None)
    evaluation(str(workspace / "tiny.yaml"), again=False)
    assert champion().number == "1"
    tags = Tracker().client.get_model_version(NAME, "2").tags
    assert (tags["gate"], tags["gate.against"]) == ("refused", f"{NAME} version 1")
    assert "not better beyond its 95 % interval: held-out examples: answer loss is worse" in tags["gate.reason"]
    assert [line["model"] for line in history(workspace)] == [f"{NAME} version 1"] * 2
    version = Tracker().client.get_model_version(NAME, "2")
    card = Path(Tracker().client.download_artifacts(version.run_id, "model/MODEL_CARD.md")).read_text()
    assert "held-out examples: answer loss" in card


def test_a_fall_fails_the_run_until_it_is_accepted(workspace: Path, tiny: Run) -> None:
    path = workspace / "evaluations" / NAME / f"{tiny.artifacts['finetune'].fingerprint}.parquet"
    first = read_table(path)
    loss = np.array(first["metric"]) == "answer loss"
    better = np.where(loss, first["value"].to_numpy() * 0.9, first["value"].to_numpy())
    write_table(path, first.set_column(first.schema.get_field_index("value"), "value", pa.array(better)))
    state = evaluation(str(workspace / "tiny.yaml"), again=False, return_state=True)
    assert state.name == "Failed"
    assert "sourdough-tiny-chat version 1 has fallen: held-out examples: answer loss is worse: before" in state.message
    with pytest.raises(ScoreFell, match=r"before [\d.]+, now [\d.]+ \(gain -"):
        state.result()
    assert history(workspace)[-1]["fell"] == ["held-out examples: answer loss"]
    assert read_table(path) != first
    evaluation(str(workspace / "tiny.yaml"), again=False, accept=True)
    assert history(workspace)[-1]["fell"] == []
    assert read_table(path) == first


def test_a_champion_that_is_gone_is_named(tmp_path: Path) -> None:
    session = Session(Store(tmp_path))
    with pytest.raises(ValueError, match=r"sourdough-tiny-chat version 1 is .* no longer in the store: make it again"):
        artifact_of(session, Version(NAME, "1", "finetune", "f" * 32, "d", "2026"))


def test_the_chat_model_goes_through_the_gate_the_base_model_only_alone(tiny: Run) -> None:
    made = tiny.artifacts
    assert gated(made) == made["finetune"]
    assert gated({"pretrain": made["pretrain"]}) == made["pretrain"]
    assert gated({**made, "prefer": made["finetune"], "classify": made["pretrain"]}) == made["finetune"]


def test_only_a_candidate_without_a_decision_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import registration

    emitted: list[str] = []
    monkeypatch.setattr(registration, "emit_event", lambda event, resource, payload: emitted.append(event))
    version = Version(NAME, "1", "finetune", "f", "d", "2026")
    for each in (None, version, Version(NAME, "1", "finetune", "f", "d", "2026", ("candidate",), "refused")):
        announce(each)
    assert emitted == []
    announce(Version(NAME, "1", "finetune", "f", "d", "2026", ("candidate",)))
    assert emitted == ["sourdough.model.candidate"]
