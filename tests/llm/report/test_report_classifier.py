"""A classifier's results, as the classify stage leaves them."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from selectolax.lexbor import LexborHTMLParser

from llm.counts import Counts
from llm.files import write_json, write_table
from llm.report.classifier import MAX_LABELS, classifier
from llm.report.report import ReportConfig, StageSummary, write_report
from llm.train.methods.classification_scores import (
    calibration_table,
    confusion,
    confusion_table,
    scores_table,
)


def write_results(path, labels):
    """60 texts; what is predicted is right for two thirds of them. Returns truth and prediction."""
    path.mkdir()
    n = len(labels)
    truth = np.arange(60) % n
    predicted = np.where(np.arange(60) % 3 == 0, (truth + 1) % n, truth)
    probabilities = np.full((60, n), 0.2 / (n - 1))
    probabilities[np.arange(60), predicted] = 0.8
    even = np.full((60, n), 1 / n)
    tables = {
        "scores": pa.concat_tables(
            [scores_table("trained", truth, probabilities, 10), scores_table("majority", truth, even, 10)]
        ),
        "confusion": confusion_table(confusion(truth, predicted, n), labels),
        "calibration": calibration_table(truth, probabilities, 10),
    }
    for name, table in tables.items():
        write_table(path / f"{name}.parquet", table)
    write_json(path / "labels.json", list(labels))
    return truth, predicted


def test_scores_confusion_and_calibration(tmp_path):
    labels = ("ham", "spam", "eggs")
    truth, predicted = write_results(tmp_path / "made", labels)
    found = classifier(tmp_path / "made")
    assert found is not None
    assert (found.n, found.labels) == (60, list(labels))
    assert found.names == ["accuracy", "macro F1", "calibration error"]
    assert [row.model for row in found.scores] == ["trained", "majority"]
    assert found.scores[0].values[0] == "0.667 (0.541 to 0.773)"
    assert found.confusion is not None
    for i in range(3):
        for j in range(3):
            assert found.confusion[i][j] == ((truth == i) & (predicted == j)).sum()
    svg = ElementTree.fromstring(found.calibration)
    assert svg.get("aria-label") == "Share of right predictions by their confidence"
    assert [node.text for node in svg.iter("text")][-1] == "share that is right"


def test_a_matrix_of_many_labels_is_left_out(tmp_path):
    write_results(tmp_path / "most", tuple(f"label {i:02}" for i in range(MAX_LABELS)))
    write_results(tmp_path / "many", tuple(f"label {i:02}" for i in range(MAX_LABELS + 1)))
    most, many = classifier(tmp_path / "most"), classifier(tmp_path / "many")
    assert most is not None
    assert most.confusion is not None
    assert many is not None
    assert many.confusion is None


@pytest.mark.parametrize("label", ["spam", "<script>alert(1)</script>"])
def test_it_has_a_section_of_its_own(label, tmp_path):
    write_results(tmp_path / "classify", ("ham", label))
    stage = StageSummary("classify", "f", "d" * 64, (), Counts("texts", 60, 60), tmp_path / "classify", "classifier")
    pages = []
    for name, path in (("with", stage.path), ("without", tmp_path)):
        (tmp_path / name).mkdir()
        write_report([replace(stage, path=path)], tmp_path / name, ReportConfig())
        pages.append(LexborHTMLParser((tmp_path / name / "report.html").read_text()))
    assert [len(page.css("#classifier, nav a[href='#classifier']")) for page in pages] == [2, 0]
    assert not pages[0].css("script")
    cells = [[cell.text() for cell in row.css("th, td")] for row in pages[0].css("#classifier table")[1].css("tr")]
    assert cells == [["", "ham", label], ["ham", "20", "10"], [label, "10", "20"]]
