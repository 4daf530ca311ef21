"""Scores of classifiers against counting by hand."""

import numpy as np
import pytest

from llm.train.methods.classification_scores import (
    calibration_table,
    confusion,
    confusion_table,
    expected_calibration_error,
    macro_f1,
    scores_table,
)


@pytest.fixture
def guesses():
    """300 items of three classes, and probabilities that are often right."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 300)
    logits = random.normal(size=(300, 3)) + 1.5 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities


def slow_macro_f1(truth, predicted):
    """From precision and recall of each class."""
    scores = []
    for label in sorted({*truth, *predicted}):
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        precision = hits / max(1, sum(p == label for p in predicted))
        recall = hits / max(1, sum(t == label for t in truth))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


def test_macro_f1_is_the_mean_over_classes(guesses):
    truth, probabilities = guesses
    predicted = probabilities.argmax(1)
    assert macro_f1(confusion(truth, predicted, 3)) == pytest.approx(slow_macro_f1(truth.tolist(), predicted.tolist()))
    # a class that is nowhere does not count, one that is never hit counts as 0
    assert macro_f1(confusion(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)) == pytest.approx((0.8 + 0) / 2)


def test_calibration_error_is_the_weighted_gap_of_bins(guesses):
    truth, probabilities = guesses
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    expected = 0.0
    for i in range(10):
        inside = [k for k in range(300) if i / 10 <= confidence[k] < (i + 1) / 10 or (i == 9 and confidence[k] == 1)]
        if inside:
            gap = np.mean([float(right[k]) for k in inside]) - np.mean([confidence[k] for k in inside])
            expected += len(inside) / 300 * abs(gap)
    assert expected_calibration_error(confidence, right.astype(float), 10) == pytest.approx(expected)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0]), 10) == 0.0


def test_every_score_lies_in_its_interval(guesses):
    truth, probabilities = guesses
    rows = {row["score"]: row for row in scores_table("trained", truth, probabilities, 10).to_pylist()}
    assert set(rows) == {"accuracy", "macro_f1", "calibration_error"}
    assert rows["accuracy"]["value"] == pytest.approx(np.mean(probabilities.argmax(1) == truth))
    for name in ("accuracy", "macro_f1", "calibration_error"):
        assert rows[name]["low"] < rows[name]["value"] < rows[name]["high"]
        assert 0.02 < rows[name]["high"] - rows[name]["low"] < 0.2
    assert scores_table("trained", truth, probabilities, 10).equals(scores_table("trained", truth, probabilities, 10))


def test_the_interval_of_macro_f1_is_that_of_resampled_items(guesses):
    truth, probabilities = guesses
    predicted, random = probabilities.argmax(1), np.random.default_rng(1)
    drawn = [random.integers(0, 300, 300) for _ in range(500)]
    slow = [slow_macro_f1(truth[rows].tolist(), predicted[rows].tolist()) for rows in drawn]
    row = scores_table("trained", truth, probabilities, 10).to_pylist()[1]
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist(), abs=0.015)


@pytest.mark.parametrize("n_off", [0, 2])
def test_the_interval_of_the_calibration_error_holds_its_value_and_zero_for_a_calibrated_model(n_off):
    """40 items at each of five confidences, of which as many are right as it promises, or two more or fewer."""
    confidence = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], 40)
    right = [22 + n_off, 26 - n_off, 30 + n_off, 34 - n_off, 38 + n_off]
    truth = np.concatenate([np.repeat([0, 1], [n, 40 - n]) for n in right])
    row = scores_table("trained", truth, np.stack([confidence, 1 - confidence], 1), 10).to_pylist()[2]
    assert row["value"] == pytest.approx(n_off / 40)
    assert row["low"] == 0
    assert row["value"] < row["high"] < 0.15


def test_a_model_that_is_far_too_sure_is_not_taken_for_calibrated():
    probabilities = np.tile([0.8, 0.2], (300, 1))
    row = scores_table("trained", np.repeat([0, 1], 150), probabilities, 10).to_pylist()[2]
    assert 0.2 < row["low"] < row["value"] < row["high"] < 0.4


def test_tables_count_every_item_once(guesses):
    truth, probabilities = guesses
    curve = calibration_table(truth, probabilities, 10).to_pylist()
    assert sum(row["n"] for row in curve) == 300
    assert all(row["from"] <= row["confidence"] <= row["to"] for row in curve)
    table = confusion_table(confusion(truth, probabilities.argmax(1), 3), ("a", "b", "c")).to_pylist()
    assert sum(row["n"] for row in table) == 300
    cell = next(row["n"] for row in table if (row["label"], row["predicted"]) == ("b", "c"))
    assert cell == int(((truth == 1) & (probabilities.argmax(1) == 2)).sum())
