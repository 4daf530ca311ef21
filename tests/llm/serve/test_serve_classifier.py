"""A classifier in use: texts of files, and the server's `/v1/classify`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pyarrow as pa
import pytest
import torch

from llm.files import write_table
from llm.serve.answer import LoadedModel
from llm.serve.answer import load as load_language_model
from llm.serve.classify import BATCH_SIZE, LoadedClassifier, load, read_texts
from llm.serve.requests import MAX_TEXTS
from tests.llm.serve.serving import (
    CONTEXT_LENGTH,
    KEY,
    LABELS,
    QUESTION,
    call,
    chat_body,
    save_classifier,
    served,
    tiny_classifier,
)

CLASSIFY = "/v1/classify"
TEXTS = ["The bread is baked", "naïve café", "What does the baker do?" * 40, "<|end|>"]


@pytest.fixture(scope="module")
def classifier() -> LoadedClassifier:
    return tiny_classifier()


@pytest.fixture(scope="module")
def classifier_port(classifier: LoadedClassifier) -> Iterator[int]:
    with served(classifier) as (_, port):
        yield port


def expected(loaded: LoadedClassifier, text: str) -> list[float]:
    """The probabilities of a text by itself, from the formula."""
    ids = [loaded.tokenizer.document_token, *loaded.tokenizer.encode(text)][:CONTEXT_LENGTH]
    with torch.no_grad():
        logits = loaded.model.class_head.weight @ loaded.model.features(torch.tensor([ids]))[0, -1]
    return torch.softmax(logits, -1).tolist()


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": TEXTS, **fields}


def test_predictions_are_in_the_order_of_the_texts(classifier: LoadedClassifier) -> None:
    texts = [text[: 9 + i] for i in range(BATCH_SIZE) for text in TEXTS]
    batches = list(classifier.predictions(iter(texts)))
    assert [len(batch) for batch in batches] == [BATCH_SIZE] * 4
    found = [prediction for batch in batches for prediction in batch]
    assert [item.text for item in found] == texts
    assert len({item.label for item in found}) > 1
    for item in found:
        assert item.probabilities == pytest.approx(expected(classifier, item.text), abs=1e-5)
        assert item.label == LABELS[item.probabilities.index(max(item.probabilities))]


def test_a_directory_is_loaded_with_the_field_that_it_was_trained_on(
    classifier: LoadedClassifier, chat: LoadedModel, tmp_path: Path
) -> None:
    save_classifier(classifier, tmp_path, text_field="body")
    loaded = load(tmp_path, "it")
    assert (loaded.name, loaded.labels, loaded.text_field) == ("it", LABELS, "body")
    assert list(loaded.predictions(TEXTS)) == list(classifier.predictions(TEXTS))
    with pytest.raises(ValueError, match="is a classifier, which writes no text: ask it by `python -m flows classify`"):
        load_language_model(tmp_path, "it")


RECORDS = [{"text": "a", "note": "Erste"}, {"text": "b\n b", "note": 'é, "zwei"'}]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "JSONL"])
def test_records_have_their_text_in_a_field(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"texts.{suffix}"
    match suffix.lower():
        case "parquet":
            write_table(path, pa.Table.from_pylist(RECORDS))
        case "json":
            path.write_text(json.dumps(RECORDS))
        case "jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
        case _:
            between = {"csv": ",", "tsv": "\t"}[suffix]
            path.write_text(f'text{between}note\na{between}Erste\n"b\n b"{between}"é, ""zwei"""\n')
    assert list(read_texts(str(path), "text")) == ["a", "b\n b"]
    assert list(read_texts(str(path), "note")) == ["Erste", 'é, "zwei"']
    with pytest.raises(
        ValueError, match=r"texts\..*(line|row|record) .*: field 'body' is missing; there are 'text', 'note'"
    ):
        list(read_texts(str(path), "body"))


def test_other_files_and_standard_input_have_a_text_in_each_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("first é\r\n\n  \nlast".encode())
    assert list(read_texts(str(path), "text")) == ["first é", "last"]
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert list(read_texts("-", "text")) == ["first é", "last"]
    path.write_bytes(b"good\n\xff\n")
    with pytest.raises(ValueError, match=r"texts.txt, line 2 is not UTF-8 text"):
        list(read_texts(str(path), "text"))
    path.write_bytes(b" \n")
    with pytest.raises(ValueError, match=r"texts.txt holds no text; give one in each line"):
        list(read_texts(str(path), "text"))
    with pytest.raises(FileNotFoundError):
        list(read_texts(str(tmp_path / "absent.txt"), "text"))


def test_labels_over_the_api(classifier: LoadedClassifier, classifier_port: int) -> None:
    status, content = call(classifier_port, CLASSIFY, body(user="me", truncate_prompt_tokens=-1))
    assert (status, content["object"], content["model"]) == (200, "list", "tiny")
    assert content["id"].startswith("classify-")
    assert [item["index"] for item in content["data"]] == [0, 1, 2, 3]
    for text, item in zip(TEXTS, content["data"], strict=True):
        assert item["probs"] == pytest.approx(expected(classifier, text), abs=1e-5)
        assert item["label"] == LABELS[item["probs"].index(max(item["probs"]))]
        assert item["num_classes"] == len(LABELS)
    n_read = [min(1 + len(classifier.tokenizer.encode(text)), CONTEXT_LENGTH) for text in TEXTS]
    assert content["usage"] == {"prompt_tokens": sum(n_read), "completion_tokens": 0, "total_tokens": sum(n_read)}
    _, one = call(classifier_port, CLASSIFY, body(input=TEXTS[0]))
    assert one["data"][0]["probs"] == pytest.approx(content["data"][0]["probs"], abs=1e-6)


def test_the_client_of_openai_reaches_it(classifier: LoadedClassifier, classifier_port: int) -> None:
    url = f"http://127.0.0.1:{classifier_port}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=30) as client:
        done = client.post("/classify", body=body(), cast_to=dict[str, Any])
        assert [item["label"] for item in done["data"]] == [
            item.label for batch in classifier.predictions(TEXTS) for item in batch
        ]
        [listed] = client.models.list()
        assert (listed.id, listed.model_dump()["labels"]) == ("tiny", list(LABELS))
        with pytest.raises(
            openai.NotFoundError, match=r"is a classifier, not a chat model\. Did you mean .*v1/classify"
        ):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])
        with pytest.raises(openai.NotFoundError, match=r"is a classifier, not a language model"):
            client.completions.create(model="tiny", prompt="The bread")


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": ""}, 400, "input[0]", "invalid_value"),
        ({"input": ["a", 7]}, 400, "input[1]", "invalid_type"),
        ({"input": {"text": "a"}}, 400, "input", "invalid_type"),
        ({"input": ["\ud800"]}, 400, "input[0]", "invalid_value"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, 400, "input", "invalid_value"),
        ({"truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens", "unsupported_parameter"),
        ({"input": "x" * (1 << 20)}, 413, None, "request_too_large"),
    ],
)
def test_errors_have_the_form_of_the_api(
    classifier_port: int, changes: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    found, content = call(classifier_port, CLASSIFY, body(**changes))
    assert (found, content["error"]["param"], content["error"]["code"]) == (status, param, code)


def test_the_most_texts_at_once(classifier_port: int) -> None:
    status, content = call(classifier_port, CLASSIFY, body(input=["a"] * MAX_TEXTS))
    assert (status, len(content["data"])) == (200, MAX_TEXTS)


def test_a_language_model_says_that_it_cannot_classify(port: int, base: LoadedModel) -> None:
    status, content = call(port, CLASSIFY, body())
    assert (status, content["error"]["param"]) == (404, "model")
    assert content["error"]["message"].endswith(
        "is a chat model, not a classifier. Did you mean to use v1/chat/completions?"
    )
    with served(base) as (_, base_port):
        _, content = call(base_port, CLASSIFY, body())
        assert "is a base model, not a classifier. Did you mean to use v1/completions?" in content["error"]["message"]


def test_a_classifier_that_fails_is_an_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    broken = tiny_classifier()
    broken.model.class_head.weight = torch.nn.Parameter(torch.zeros(3, 5))
    with served(broken) as (_, port):
        status, content = call(port, CLASSIFY, body())
        assert (status, content["error"]["type"]) == (500, "server_error")
        assert call(port, "/v1/chat/completions", chat_body(messages=QUESTION))[0] == 404
    assert "a request failed" in caplog.text
