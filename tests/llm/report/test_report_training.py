"""Runs of training, whatever the method measures."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from llm.counts import Counts
from llm.files import write_json
from llm.report.training import HeldOutMetric, Skipped, training

COUNTS = Counts("pairs", 5, 5, {}, {"n_rollbacks": 2})


def write_metrics(path, lines):
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def preference_lines(speed=1.0):
    """What a preference stage writes: held-out figures at steps 0, 2 and 4, of which 2 is the best."""
    for step, loss in ((0, 0.7), (2, 0.3), (4, 0.5)):
        accuracy = {"val_accuracy": 1 - loss, "val_accuracy_low": 0.9 - loss, "val_accuracy_high": 1.1 - loss}
        yield {"step": step, "val_loss": loss, "val_margin": 2 * loss, **accuracy}
    for step in range(1, 5):
        yield {"step": step, "loss": 1 / step, "margin": step, "accuracy": 0.5, "tokens_per_s": speed, "mfu": speed}


def test_all_that_is_measured_is_shown_by_its_name(tmp_path):
    write_metrics(tmp_path, preference_lines())
    run = training("prefer", tmp_path, COUNTS)
    assert run is not None
    assert (run.n_steps, run.loss, run.first_step, run.best_step, run.kept_step) == (4, 0.25, 0, 2, 4)
    assert run.held_out == [
        HeldOutMetric("loss", "0.700", "0.300", "0.500"),
        HeldOutMetric("margin", "1.400", "0.600", "1.000"),
        HeldOutMetric("accuracy", "0.300 (0.200 to 0.400)", "0.700 (0.600 to 0.800)", "0.500 (0.400 to 0.600)"),
    ]
    labels = [ElementTree.fromstring(svg).get("aria-label") for svg in run.charts]
    assert labels == ["loss, over steps", "margin, over steps", "accuracy, over steps"]
    assert (run.n_rollbacks, run.skipped, run.samples) == (2, [], None)


def test_speeds_make_no_difference(tmp_path):
    runs = []
    for speed in (1.0, 77.5):
        write_metrics(tmp_path, preference_lines(speed))
        runs.append(training("prefer", tmp_path, COUNTS))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 4)])
def test_which_step_is_kept_is_in_the_models_config(keep, kept, tmp_path):
    write_metrics(tmp_path, preference_lines())
    write_json(tmp_path / "config.json", {"training": {"loop.keep": keep}})
    run = training("prefer", tmp_path, COUNTS)
    assert run is not None
    assert run.kept_step == kept
    assert run.held_out[0].kept == {2: "0.300", 4: "0.500"}[kept]


def test_a_run_that_was_never_measured_and_skipped_steps(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "loss": 2.0}])
    write_json(tmp_path / "skipped.json", [{"step": 3, "batch": 9, "why": "loss is nan"}])
    run = training("pretrain", tmp_path, Counts("tokens", 1, 1))
    assert run is not None
    assert (run.held_out, run.first_step, run.best_step, run.kept_step) == ([], None, None, 1)
    assert run.skipped == [Skipped(3, 9, "loss is nan")]
    assert run.n_rollbacks == 0


@pytest.mark.parametrize(("text", "shown"), [("# Samples\n", False), ("# Samples\n\n## Step 0\n", True)])
def test_samples_are_shown_when_there_are_any(text, shown, tmp_path):
    write_metrics(tmp_path, preference_lines())
    (tmp_path / "samples.md").write_text(text)
    run = training("prefer", tmp_path, COUNTS)
    assert run is not None
    assert run.samples == (text if shown else None)


def test_a_stage_that_does_not_train_has_no_run(tmp_path):
    assert training("clean", tmp_path, COUNTS) is None
    write_metrics(tmp_path, [{"step": 1, "n_pages": 3}])
    assert training("crawl", tmp_path, COUNTS) is None
