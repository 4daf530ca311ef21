"""The model card: what it says, that it says the same each time, and that it fits MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llm.counts import Counts
from tasks.core.fingerprint import Code, Key
from tasks.core.model_card import LICENCE, LIMITATIONS, MAX_SUMMARY_CHARS, model_card, summary
from tasks.core.store import Artifact, Store
from tests.flows.chat_models import add_evaluation, add_model, input_of, new_store
from tests.llm.serve.serving import tiny_model


def add_data(store: Store, stage: str, config: dict[str, object], counts: Counts, *inputs: Artifact) -> Artifact:
    key = Key(stage, 1, config, [input_of(made) for made in inputs], Code("", {}))
    out_dir = store.new_out_dir(stage, key.fingerprint)
    (out_dir / "data.txt").write_text(stage)
    return store.commit(out_dir, key, counts, provenance={"started": "2026-01-01"})


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Artifact]]:
    """A crawl, its documents, a base model of these, a chat model, and an evaluation of both."""
    store, tiny = new_store(tmp_path_factory.mktemp("card")), tiny_model()
    seeds = {"seeds": ["http://site/a|b"]}
    crawl = add_data(store, "crawl", seeds, Counts("urls", 1_280, 1_276, {"http 404": 4}))
    clean = add_data(store, "clean", {"min_chars": 200}, Counts("pages", 1_276, 1_200, {"too short": 76}), crawl)
    base = add_model(store, "pretrain", tiny, {"n_steps": 10}, clean)
    chat = add_model(store, "finetune", tiny, {"n_steps": 5}, base)
    return store, [crawl, clean, base, chat, add_evaluation(store, base, chat, {"base": [False], "chat": [True]})]


def test_it_holds_data_recipe_training_scores_and_warnings(lineage: tuple[Store, list[Artifact]]) -> None:
    store, (crawl, clean, base, chat, scores) = lineage
    assert store.ancestors(chat) == [crawl, clean, base, chat]
    card = model_card("sourdough-x-chat", chat, store, scores)
    assert "| crawl | urls | 1,280 | 1,276 | http 404: 4 |" in card
    assert "| clean | pages | 1,276 | 1,200 | too short: 76 |" in card
    assert "Crawled from `http://site/a|b`" in card
    assert "**Pretraining**" in card
    assert "| n tokens | 70 |" in card
    assert "| four-choice definitions: accuracy (version 1) | 1 | 0.1 to 0.9 | 1 | 0.25 |" in card
    assert LIMITATIONS in card
    assert LICENCE in card
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].removesuffix("```\n"))
    assert list(recipe) == ["crawl", "clean", "pretrain", "finetune"]
    assert recipe["clean"] == {"min_chars": 200}


def test_a_base_model_has_its_own_scores(lineage: tuple[Store, list[Artifact]]) -> None:
    store, (_, _, base, _, scores) = lineage
    card = model_card("sourdough-x-base", base, store, scores)
    assert "accuracy (version 1) | 0 | 0.1 to 0.9" in card
    assert "finetune" not in card


def test_a_classifier_points_to_the_figures_of_its_training(lineage: tuple[Store, list[Artifact]]) -> None:
    store, (_, _, base, *_) = lineage
    classifier = add_model(store, "classify", tiny_model(), {"seed": 1}, base)
    card = model_card("sourdough-x-classifier", classifier, store, None)
    assert "see the figures below" in card
    assert "**Classification**" in card


def test_times_and_places_do_not_enter(lineage: tuple[Store, list[Artifact]], tmp_path: Path) -> None:
    store, (*_, chat, scores) = lineage
    card = model_card("sourdough-x-chat", chat, store, scores)
    assert "2026" not in card
    assert str(store.root) not in card
    (tmp_path / "store").symlink_to(store.root)
    moved = Store(tmp_path / "store")
    again = moved.find(chat.stage, chat.fingerprint)
    assert again is not None
    assert model_card("sourdough-x-chat", again, moved, scores) == card


def test_the_summary_leaves_out_the_recipe_and_fits(lineage: tuple[Store, list[Artifact]]) -> None:
    store, (*_, chat, scores) = lineage
    card = model_card("sourdough-x-chat", chat, store, scores)
    assert card.startswith(summary(card))
    assert summary(card).endswith(LICENCE)
    assert len(summary("x" * 9_000)) == MAX_SUMMARY_CHARS
