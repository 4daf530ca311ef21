"""Classifiers: what they compute, what of them learns, and what they leave."""

import json

import numpy as np
import pytest
import torch

from llm.files import read_table
from llm.model.classifier import Classifier, load_classifier
from llm.model.files import load_model
from llm.model.gpt import GPTConfig
from llm.process import Stopped
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train, train_until
from llm.train.methods.classify import ClassifierObjective, Texts
from tests.llm.train.method_jobs import QUIET, SELDOM, after_calls, classify_job, write_labelled
from tests.llm.train.train_materials import artifact


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def trained(materials, labelled, tmp_path_factory):
    """The folder and counts of a longer training than the other tests'."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {"n_steps": 40, "optimizer": {"learning_rate": 1e-2}, "loop": QUIET | SELDOM}
    counts = train(classify_job(folder, materials, labelled, **changes))
    return folder, counts


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_the_loss_is_that_of_each_text_by_itself(architecture):
    torch.manual_seed(0)
    shape = GPTConfig(
        vocab_size=12, context_length=8, n_layers=2, n_heads=2, d_model=16, init_std=0.5, architecture=architecture
    )
    model = Classifier(shape, 3).double().eval()
    texts, labels = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 1, 2]], [0, 2, 1]
    batch = Texts([np.array(text) for text in texts], labels).batch(np.arange(3))
    expected = 0.0
    for text, label in zip(texts, labels, strict=True):
        features = model.features(torch.tensor([text]))[0, -1]
        logits = model.class_head.weight @ features
        expected += (logits.exp().sum().log() - logits[label]).item()
    objective = ClassifierObjective(model, torch.float64)
    assert batch.n_learned == 3
    assert objective(batch).item() == pytest.approx(expected, abs=1e-5)


def test_only_the_last_blocks_norm_and_head_learn(materials, trained):
    folder, _ = trained
    before, (after, _) = load_model(materials.base_dir).state_dict(), load_classifier(folder / "out")
    changed = {name for name, weight in after.state_dict().items() if name in before and not weight.equal(before[name])}
    assert changed
    assert all(name.startswith(("blocks.1.", "norm.")) for name in changed)
    assert any(name.startswith("norm.") for name in changed)


def test_it_beats_both_baselines(trained):
    folder, counts = trained
    rows = read_table(folder / "out" / "scores.parquet").to_pylist()
    accuracy = {row["model"]: row for row in rows if row["score"] == "accuracy"}
    assert set(accuracy) == {"trained", "majority", "random"}
    assert accuracy["trained"]["low"] > accuracy["majority"]["value"] + 0.05
    assert counts.figures["trained_accuracy"] == accuracy["trained"]["value"]
    assert counts.n_in == counts.n_out + counts.dropped.get("duplicate", 0)


def test_predictions_are_those_of_the_saved_classifier(trained):
    folder, _ = trained
    model, labels = load_classifier(folder / "out")
    tokenizer = Tokenizer.load(folder / "out")
    rows = read_table(folder / "out" / "predictions.parquet").to_pylist()
    assert len({len(row["text"]) for row in rows}) > 3, "texts of different lengths, which are batched in another order"
    for row in rows:
        ids = [tokenizer.document_token, *tokenizer.encode(row["text"])][:16]
        logits = model.class_head(model.features(torch.tensor([ids]))[0, -1])
        probabilities = torch.softmax(logits, -1)
        assert row["probabilities"] == pytest.approx(probabilities.tolist(), abs=1e-5)
        assert row["predicted"] == labels[int(probabilities.argmax())]
        assert row["confidence"] == max(row["probabilities"])
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    scores = read_table(folder / "out" / "scores.parquet").to_pylist()
    assert right == next(row["value"] for row in scores if (row["model"], row["score"]) == ("trained", "accuracy"))


def test_the_majority_label_is_that_of_the_texts_trained_on(materials, tmp_path):
    records = [
        {"text": f"{word} {number}", "label": "ab"[number > 6]} for number in range(10) for word in ("rye", "oven")
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    counts = train(classify_job(tmp_path, materials, path, n_steps=2, random_baseline=False))
    rows = read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    expected = np.mean([row["label"] == "a" for row in rows])
    assert counts.figures["majority_accuracy"] == expected
    assert "random_accuracy" not in counts.figures


def test_a_stopped_run_ends_with_the_same_bytes(materials, labelled, tmp_path):
    train(classify_job(tmp_path / "unbroken", materials, labelled, n_steps=6))
    broken, n_stops = classify_job(tmp_path / "broken", materials, labelled, n_steps=6), 0
    while n_stops < 50:
        try:
            train_until(broken, after_calls(9))
            break
        except Stopped:
            n_stops += 1
    assert 2 < n_stops < 50
    assert artifact(tmp_path / "broken") == artifact(tmp_path / "unbroken")


def test_more_blocks_than_there_are_is_refused(materials, labelled, tmp_path):
    with pytest.raises(ValueError, match="trainable_blocks is 3; the model has 2 blocks"):
        train(classify_job(tmp_path, materials, labelled, trainable_blocks=3))
