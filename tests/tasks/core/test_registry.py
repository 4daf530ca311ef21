"""The registry in a real MLflow database: versions, aliases, cards, decisions, and what is made up for later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.registration import register_models
from flows.registration import registered as registered_models
from llm.model.export import directory_to_hf
from llm.serve.answer import LoadedModel
from tasks.core.model_card import model_card, summary
from tasks.core.registry import (
    CANDIDATE,
    CHAMPION,
    aliased,
    all_versions,
    record_decision,
    register,
    registered_name,
    replay_registrations,
)
from tasks.core.session import Session
from tasks.core.store import Artifact, Store
from tasks.core.tracking import Tracker, replay
from tests.flows.chat_models import add_evaluation, add_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of alembic and sqlalchemy, inside MLflow


@pytest.fixture
def models(store: Store, tiny: LoadedModel) -> list[Artifact]:
    """A base model, and two chat models made of it on different days."""
    base = add_model(store, "pretrain", tiny, {})
    return [base, *(add_model(store, "finetune", tiny, {"day": day}, base) for day in (1, 2))]


def files(mlflow_uri: str, name: str, number: str) -> dict[str, Path]:
    client = Tracker(mlflow_uri).client
    run_id = client.get_model_version(name, number).run_id
    folder = Path(client.download_artifacts(run_id, "model"))
    return {path.name: path for path in folder.iterdir()}


def test_a_version_holds_the_model_and_its_card_and_is_the_candidate(
    store: Store, models: list[Artifact], mlflow_uri: str, tmp_path: Path
) -> None:
    tracker, name = Tracker(mlflow_uri), registered_name("one", models[1])
    assert name == "sourdough-one-chat"
    made = register(tracker, name, models[1], store, None)
    assert tracker.on
    assert made is not None
    assert (made.number, made.aliases, made.digest, made.decision) == ("1", (CANDIDATE,), models[1].digest, None)
    held = files(mlflow_uri, name, "1")
    exported = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(held) == exported | {"MODEL_CARD.md", "MLmodel", "components"}
    directory_to_hf(models[1].path, tmp_path / "hf")
    assert all(held[file].read_bytes() == (tmp_path / "hf" / file).read_bytes() for file in exported)
    card = held["MODEL_CARD.md"].read_text()
    assert card == model_card(name, models[1], store, None)
    assert tracker.client.get_model_version(name, "1").description == summary(card)
    run = tracker.client.get_run(tracker.client.get_model_version(name, "1").run_id)
    assert run.data.tags["digest"] == models[1].digest
    assert models[1].provenance["registered"] == {"name": name, "version": "1"}
    assert models[1].damage(full=True) == []


def test_the_same_model_is_one_version_and_its_card_learns_its_scores(
    store: Store, models: list[Artifact], mlflow_uri: str
) -> None:
    tracker, name = Tracker(mlflow_uri), "sourdough-two-chat"
    register(tracker, name, models[1], store, None)
    assert "Not evaluated yet" in files(mlflow_uri, name, "1")["MODEL_CARD.md"].read_text()
    scores = add_evaluation(store, models[0], models[1], {"base": [False] * 8, "chat": [True] * 8})
    again = register(tracker, name, models[1], store, scores)
    assert again is not None
    assert again.number == "1"
    card = files(mlflow_uri, name, "1")["MODEL_CARD.md"].read_text()
    assert "| four-choice definitions: accuracy (version 1) | 1 | 0.1 to 0.9 | 8 | 0.25 |" in card
    assert tracker.client.get_model_version(name, "1").description == summary(card)
    register(tracker, name, models[1], store, None)
    assert files(mlflow_uri, name, "1")["MODEL_CARD.md"].read_text() == card


def test_the_newest_model_is_the_candidate_whatever_the_order(
    store: Store, models: list[Artifact], mlflow_uri: str
) -> None:
    tracker, name = Tracker(mlflow_uri), "sourdough-three-chat"
    register(tracker, name, models[2], store, None)
    register(tracker, name, models[1], store, None)
    candidate = aliased(tracker, name, CANDIDATE)
    assert candidate is not None
    assert candidate.fingerprint == models[2].fingerprint
    versions = [version for version in all_versions(tracker) or [] if version.name == name]
    assert [version.fingerprint for version in versions] == [models[1].fingerprint, models[2].fingerprint]


def test_after_a_model_of_2036_a_later_one_is_candidate_and_the_one_to_chat_with(
    store: Store, tiny: LoadedModel, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.models import find_model

    tracker, name = Tracker(mlflow_uri), "sourdough-clock-chat"
    base = add_model(store, "pretrain", tiny, {"clock": 1})
    ahead = add_model(store, "finetune", tiny, {"clock": 2}, base)
    ahead.note(started="2036-01-01T00:00:00+00:00")
    register(tracker, name, ahead, store, None)
    later = add_model(store, "finetune", tiny, {"clock": 3}, base)
    register(tracker, name, later, store, None)
    candidate = aliased(tracker, name, CANDIDATE)
    assert candidate is not None
    assert candidate.fingerprint == later.fingerprint
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(store.root.parent))
    assert find_model().artifact == later
    assert find_model("finetune").artifact == later


def test_a_decision_is_recorded_and_moves_the_alias_only_if_it_promotes(
    store: Store, models: list[Artifact], mlflow_uri: str
) -> None:
    tracker, name = Tracker(mlflow_uri), "sourdough-four-chat"
    first = register(tracker, name, models[1], store, None)
    second = register(tracker, name, models[2], store, None)
    assert first is not None
    assert second is not None
    assert aliased(tracker, name, CHAMPION) is None
    record_decision(tracker, first, promote=True, reasons=["there is none"], against="nobody")
    record_decision(tracker, second, promote=False, reasons=["worse", "more"], against=str(first))
    champion, candidate = aliased(tracker, name, CHAMPION), aliased(tracker, name, CANDIDATE)
    assert champion is not None
    assert candidate is not None
    assert (champion.number, champion.decision, candidate.decision) == ("1", "promoted", "refused")
    version = tracker.client.get_model_version(name, "2")
    assert version.tags["gate.reason"] == "worse"
    written = json.loads(Path(tracker.client.download_artifacts(version.run_id, "gate.json")).read_text())
    assert written["reasons"] == ["worse", "more"]
    assert written["gate.against"] == "sourdough-four-chat version 1"


def fail(*arguments: object, **options: object) -> None:
    raise ConnectionError("the server is gone")


def test_an_alias_that_did_not_move_is_no_promotion(
    store: Store, models: list[Artifact], mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, name = Tracker(mlflow_uri), "sourdough-nine-chat"
    version = register(tracker, name, models[1], store, None)
    assert version is not None
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "set_registered_model_alias", fail)
        assert not record_decision(tracker, version, promote=True, reasons=["better"], against="nobody")
    (left,) = [item for item in all_versions(Tracker(mlflow_uri)) or [] if item.name == name]
    assert (left.aliases, left.decision) == ((CANDIDATE,), None)
    again = Tracker(mlflow_uri)
    with monkeypatch.context() as patch:
        patch.setattr(again.client, "set_model_version_tag", fail)
        assert record_decision(again, version, promote=True, reasons=["better"], against="nobody")
    champion = aliased(Tracker(mlflow_uri), name, CHAMPION)
    assert champion is not None
    assert champion.number == version.number


def test_a_dead_mlflow_stops_nothing_and_track_registers_later(
    store: Store, models: list[Artifact], mlflow_uri: str
) -> None:
    dead = Tracker("http://127.0.0.1:9")
    session = Session(store, tracker=dead, built={"pretrain": models[0], "finetune": models[1]})
    assert register_models(session, "five") == {}
    assert not dead.on
    tracker = Tracker(mlflow_uri)
    assert replay(store, tracker) == 3
    assert replay_registrations(store, tracker) == 2  # models[2] was in no flow
    assert replay_registrations(store, tracker) == 0
    names = {version.name: version.fingerprint for version in all_versions(tracker) or [] if "five" in version.name}
    assert names == {"sourdough-five-base": models[0].fingerprint, "sourdough-five-chat": models[1].fingerprint}


def test_a_model_is_registered_though_a_later_stage_ran_out_of_memory(
    store: Store, models: list[Artifact], mlflow_uri: str
) -> None:
    session = Session(store, tracker=Tracker(mlflow_uri), built={"pretrain": models[0], "finetune": models[2]})
    with pytest.raises(MemoryError), registered_models(session, "eight"):
        raise MemoryError
    candidate = aliased(Tracker(mlflow_uri), "sourdough-eight-chat", CANDIDATE)
    assert candidate is not None
    assert candidate.digest == models[2].digest
    assert "Not evaluated yet" in files(mlflow_uri, "sourdough-eight-chat", "1")["MODEL_CARD.md"].read_text()


def test_asking_an_mlflow_that_never_was_makes_none(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'none.db'}")
    assert all_versions(tracker) == []
    assert aliased(tracker, "sourdough-six-chat", CHAMPION) is None
    assert not (tmp_path / "none.db").exists()


@pytest.fixture
def registered(
    store: Store, tiny: LoadedModel, mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Artifact]:
    """Models of a workspace, of which no other test knows: the first chat model is champion, the second candidate."""
    base = add_model(store, "pretrain", tiny, {"day": 7})
    models = [base, *(add_model(store, "finetune", tiny, {"day": day}, base) for day in (8, 9))]
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    tracker, name = Tracker(mlflow_uri), "sourdough-seven-chat"
    for model in models[1:]:
        version = register(tracker, name, model, store, None)
        if version and version.number == "1":
            record_decision(tracker, version, promote=True, reasons=["first"], against="nobody")
    register(tracker, "sourdough-seven-base", models[0], store, None)
    return models


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("champion", 1),
        ("candidate", 2),
        ("sourdough-seven-chat", 1),
        ("sourdough-seven-chat@candidate", 2),
        ("sourdough-seven-base@candidate", 0),
    ],
)
def test_models_are_found_by_their_registered_names(registered: list[Artifact], name: str, place: int) -> None:
    from flows.models import find_model

    assert find_model(name).artifact == registered[place]


def test_a_name_without_a_champion_is_named(registered: list[Artifact]) -> None:
    from flows.models import find_model

    with pytest.raises(ValueError, match=r"there is no model 'sourdough-seven-base'"):
        find_model("sourdough-seven-base")


def test_the_newest_chat_model_is_of_any_chat_stage_and_no_classifier(
    store: Store, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.models import find_model

    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    made: dict[str, Any] = {
        stage: add_model(store, stage, tiny, {"day": day})
        for day, stage in enumerate(("finetune", "prefer", "pretrain", "classify"), 1)
    }
    assert find_model().artifact == made["prefer"]
    assert find_model("classify").artifact == made["classify"]
