"""`python -m flows classify`, `serve` and `export` with a trained classifier."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import export
from flows.classify import classified
from flows.models import find_model, load_found
from flows.pipeline import PIPELINE
from llm.counts import Counts
from llm.serve.classify import LoadedClassifier
from tasks.core.credentials import key
from tasks.core.fingerprint import Code, Key
from tasks.core.store import Artifact
from tests.flows.chat_models import add_model, new_store
from tests.flows.test_chat_serve import start
from tests.llm.serve.serving import LABELS, call, save_classifier, tiny_classifier, tiny_model

TEXTS = ["The bread is baked", "naïve \x1b[31mcafé", "What does\nthe baker do?"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded() -> LoadedClassifier:
    return tiny_classifier()


@pytest.fixture(scope="module")
def folder(loaded: LoadedClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a chat model and a classifier."""
    folder = tmp_path_factory.mktemp("workspace")
    store = new_store(folder)
    add_model(store, "finetune", tiny_model(), {})
    key = Key("classify", 2, {}, [], Code("", {}))
    out_dir = store.new_out_dir("classify", key.fingerprint)
    save_classifier(loaded, out_dir, text_field="body")
    provenance, facts = {"started": "2026-01-02T08:00:00+00:00"}, PIPELINE["classify"].facts()
    store.commit(out_dir, key, Counts("texts", 5, 5), provenance=provenance, facts=facts)
    return folder


@pytest.fixture
def classifier(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("SOURDOUGH_WORKSPACE", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    [artifact] = new_store(folder).artifacts("classify")
    return artifact


def test_a_line_for_each_text(classifier: Artifact, loaded: LoadedClassifier) -> None:
    [predictions] = loaded.predictions(TEXTS)
    lines = list(classified("classify", None, TEXTS, None, as_json=False))
    shown = ["The bread is baked", "naïve \ufffd[31mcafé", "What does the baker do?"]
    for line, text, item in zip(lines, shown, predictions, strict=True):
        assert line == f"{item.label:<10}  {max(item.probabilities):.4f}  {text}"


def test_json_has_all_probabilities(classifier: Artifact, loaded: LoadedClassifier, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text, "title": text[::-1]}) + "\n" for text in TEXTS))
    names = ["classify", classifier.fingerprint[:6], f"classify-{classifier.fingerprint[:8]}", str(classifier.path)]
    found = [list(classified(name, str(path), [], None, as_json=True)) for name in names]
    assert found[1:] == found[:1] * 3
    [predictions] = loaded.predictions(TEXTS)
    for line, text, item in zip(map(json.loads, found[0]), TEXTS, predictions, strict=True):
        probabilities = dict(zip(LABELS, item.probabilities, strict=True))
        assert line == {"text": text, "label": item.label, "probabilities": probabilities}
    reversed_texts = list(classified("classify", str(path), [], "title", as_json=True))
    assert [json.loads(line)["text"] for line in reversed_texts] == [text[::-1] for text in TEXTS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("classify", None, []), r"name a file of texts .*, or give --text; one of the two"),
        (("classify", "-", ["a"]), r"name a file of texts"),
        (("finetune", None, ["a"]), r"is not a classifier: it has no labels.json"),
        (("absent", None, ["a"]), r"there is no model 'absent'; .*\n  classify-"),
    ],
)
def test_mistakes_are_named(classifier: Artifact, arguments: tuple[str, str | None, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        list(classified(*arguments, None, as_json=False))


def test_command_and_server_say_the_same(folder: Path) -> None:
    server = start(folder, "serve", "classify", "--port", "0")
    try:
        environment = {"SOURDOUGH_WORKSPACE": str(folder), "MLFLOW_TRACKING_URI": "", "PATH": ""}
        lines = subprocess.run(
            [sys.executable, "-m", "flows", "classify", "classify", "-", "--json"],
            env=environment,
            input="\n".join(TEXTS[:2]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert server.stdout is not None
        port = None
        while port is None:
            line = server.stdout.readline()
            assert line, server.communicate()
            found = re.search(r"API +http://127\.0\.0\.1:(\d+)/v1", line)
            port = int(found[1]) if found else None
        login = {"Authorization": f"Bearer {key(folder, 'serve')}"}
        name = call(port, "/v1/models", None, login)[1]["data"][0]["id"]
        _, content = call(port, "/v1/classify", {"model": name, "input": TEXTS[:2]}, login)
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    for line, item in zip(map(json.loads, lines), content["data"], strict=True):
        assert line["label"] == item["label"]
        assert list(line["probabilities"].values()) == pytest.approx(item["probs"], abs=1e-6)


def test_it_is_exported_and_refused_where_only_language_models_are_asked(classifier: Artifact, tmp_path: Path) -> None:
    export("classify", tmp_path / "hf", "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["id2label"]["0"] == LABELS[0]
    with pytest.raises(ValueError, match="a classifier cannot be written as GGUF"):
        export("classify", tmp_path / "model.gguf", "gguf")
    for name in ("classify", str(classifier.path)):
        with pytest.raises(
            ValueError, match="is a classifier, which writes no text: ask it by `python -m flows classify`"
        ):
            load_found(find_model(name))
