"""Two models side by side, against figures worked out by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flows.__main__ import compare as command
from flows.compare import compare, show
from llm.model.generate import Sampling
from llm.model.size import n_params
from llm.serve.answer import Answer, LoadedModel
from llm.statistics import paired_difference
from tasks.core.store import Artifact, Store
from tests.flows.chat_models import add_evaluation, add_model, new_store
from tests.llm.serve.serving import QUESTION, tiny_model

SAMPLING = Sampling(temperature=0.7, seed=1)
OLD = [True, False, True, False, False, True, False, False]
NEW = [True, True, True, False, True, True, False, False]


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(tmp_path))
    return new_store(tmp_path)


@pytest.fixture
def models(store: Store, tiny: LoadedModel) -> dict[str, Artifact]:
    """A base model and two chat models made from it; each chat model has an evaluation of its own."""
    base = add_model(store, "pretrain", tiny, {})
    chats = {name: add_model(store, "finetune", tiny, {"day": day}, base) for day, name in enumerate(("old", "new"), 1)}
    for day, (name, right) in enumerate({"old": OLD, "new": NEW}.items(), 1):
        add_evaluation(store, base, chats[name], {"base": OLD[::-1], "chat": right}, day=day)
    return {"base": base, **chats}


def names(models: dict[str, Artifact], *wanted: str) -> list[str]:
    return [models[name].fingerprint for name in wanted]


def test_scores_are_paired_item_by_item(models: dict[str, Artifact]) -> None:
    (pair,) = compare(*names(models, "old", "new"), ["hi"], SAMPLING).scores
    assert (pair.benchmark, pair.metric, pair.chance) == ("four-choice definitions", "accuracy", 0.25)
    assert pair.first is not None
    assert pair.second is not None
    assert (pair.first.score, pair.first.low, pair.first.high, pair.second.score) == (3 / 8, 0.1, 0.9, 5 / 8)
    assert pair.difference == paired_difference(NEW, OLD)
    assert pair.difference.score == 2 / 8


def test_a_base_model_is_found_in_the_evaluation_of_the_chat_model(models: dict[str, Artifact]) -> None:
    (pair,) = compare(*names(models, "base", "new"), ["hi"], SAMPLING).scores
    assert pair.difference == paired_difference(NEW, OLD[::-1])


def test_versions_of_a_metric_are_not_compared(store: Store, models: dict[str, Artifact], tiny: LoadedModel) -> None:
    other = add_model(store, "finetune", tiny, {"day": 3}, models["base"])
    add_evaluation(store, models["base"], other, {"chat": NEW}, version=2, day=3)
    (pair,) = compare(models["old"].fingerprint, other.fingerprint, ["hi"], SAMPLING).scores
    assert pair.first is not None
    assert pair.second is not None
    assert pair.difference is None


def test_cost_adds_up_along_the_lineage(models: dict[str, Artifact], tiny: LoadedModel) -> None:
    n = n_params(tiny.model.config)
    base, chat = compare(*names(models, "base", "new"), ["hi"], SAMPLING).costs
    assert base == {"parameters": n, "training tokens": 1000, "training seconds": 10.5}
    assert chat == {"parameters": n, "training tokens": 1070, "training seconds": 21.0}


def test_both_answer_the_questions_of_the_evaluation(models: dict[str, Artifact], tiny: LoadedModel) -> None:
    (sample,) = compare(*names(models, "base", "new"), [], SAMPLING).samples
    asked = QUESTION[0]["content"]
    assert sample.prompt == asked
    assert sample.first == Answer(tiny, tiny.text_prompt(asked), sampling=SAMPLING, max_tokens=100).text()
    assert sample.second == Answer(tiny, tiny.chat_prompt(QUESTION), sampling=SAMPLING, max_tokens=100).text()


def test_models_without_an_evaluation_are_compared_too(store: Store, tiny: LoadedModel) -> None:
    made = [add_model(store, "finetune", tiny, {"day": day}) for day in (1, 2)]
    comparison = compare(made[0].fingerprint, str(made[1].path), [], SAMPLING)
    out = Console(file=io.StringIO(), width=160)
    show(out, comparison)
    assert (comparison.scores, [sample.prompt for sample in comparison.samples]) == ([], ["The"])
    assert isinstance(out.file, io.StringIO)
    assert "no evaluation in the store has scored either" in out.file.getvalue()


def test_it_is_shown_as_tables_and_as_json(models: dict[str, Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare(*names(models, "old", "new"), ["[bold]:smile:"], SAMPLING)
    out = Console(file=io.StringIO(), width=200)
    show(out, comparison)
    assert isinstance(out.file, io.StringIO)
    for text in (*comparison.names, "0.3750  (n 8)", "0.1000 to 0.9000", "0.2500  (n 8)", "1,070", "[bold]:smile:"):
        assert text in out.file.getvalue()
    command(*names(models, "old", "new"), prompt=["[bold]:smile:"], as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain["scores"][0]["difference"]["score"] == 0.25
    assert plain["samples"][0]["prompt"] == "[bold]:smile:"


def test_an_unknown_model_lists_what_there_is(models: dict[str, Artifact]) -> None:
    with pytest.raises(ValueError, match=f"no model 'champion'(.|\n)*finetune-{models['new'].fingerprint[:12]}"):
        compare("champion", models["new"].fingerprint, [], SAMPLING)
