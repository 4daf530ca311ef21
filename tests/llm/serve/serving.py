"""Small models to serve, and a real server for them in a thread."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

from llm.files import write_json
from llm.model.classifier import LABELS_FILE, Classifier
from llm.model.files import save_model
from llm.model.gpt import GPT, GPTConfig
from llm.serve.answer import LoadedModel
from llm.serve.classify import LoadedClassifier
from llm.serve.server import Server, listen
from llm.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

CORPUS = ["The bread is baked — naïve café, 麺麭, 🍞🥖.", "What does the baker do? The baker bakes the bread."] * 5
CONTEXT_LENGTH = 96
KEY = "a key for tests"
LOGIN = {"Authorization": f"Bearer {KEY}"}
QUESTION = [{"role": "user", "content": "What does the baker do?"}]


def tiny_model(*, is_chat: bool = True, context_length: int = CONTEXT_LENGTH, ends: bool = True) -> LoadedModel:
    """A random model of two layers; it comes to a special token about once in 50 tokens, or never (`ends`)."""
    tokenizer = Tokenizer.train(CORPUS, 300)
    torch.manual_seed(0)
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 16}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=context_length, **shape)).eval()
    with torch.no_grad():
        model.token_embedding.weight.mul_(8)
        if not ends:  # the head is the embedding: a row of zeros is a logit of 0, below the largest of the others
            model.token_embedding.weight[: len(SPECIAL_TOKENS)] = 0
    return LoadedModel("tiny", model, tokenizer, is_chat=is_chat, created=0)


LABELS = ("bread", "cake", "naïve café")


def tiny_classifier(name: str = "tiny") -> LoadedClassifier:
    """A random classifier of two layers, whose probabilities differ clearly from text to text."""
    language_model = tiny_model()
    torch.manual_seed(1)
    model = Classifier(language_model.model.config, len(LABELS)).eval()
    model.load_state_dict(language_model.model.state_dict(), strict=False)
    with torch.no_grad():
        model.class_head.weight.mul_(50)
    return LoadedClassifier(name, model, LABELS, language_model.tokenizer, "text", created=0)


def save_classifier(loaded: LoadedClassifier, folder: Path, **training: Any) -> None:
    """Writes the files of a classifier, as training leaves them."""
    save_model(loaded.model, folder, {"kind": "classify", **training})
    loaded.tokenizer.save(folder)
    write_json(folder / LABELS_FILE, list(loaded.labels))


@contextmanager
def served(loaded: LoadedModel | LoadedClassifier) -> Iterator[tuple[Server, int]]:
    """A server on a free port, and the port; it is stopped as by Ctrl-C."""
    server = Server(loaded, KEY)
    with listen(0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield server, port
        finally:
            if not server.should_exit:
                server.handle_exit(signal.SIGINT, None)
            thread.join(20)
            assert not thread.is_alive(), "the server does not stop"


def call(
    port: int, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, Any]:
    """Status and JSON content of a request; `body` is sent as JSON unless it is bytes."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    kind = LOGIN | ({"Content-Type": "application/json"} if body is not None else {})
    connection.request(method or ("GET" if body is None else "POST"), path, body, {**kind, **(headers or {})})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content)


def chat_body(**fields: Any) -> dict[str, Any]:
    """A chat request that is right, with some fields changed."""
    return {"model": "tiny", "messages": QUESTION, "seed": 1, **fields}


def saying(text: str, messages: list[dict[str, str]] = QUESTION) -> LoadedModel:
    """A model that answers `messages` with `text`: what it says depends only on how many tokens there are.

    Each position has an embedding of its own, which the head turns into the token that is due there.
    """
    tokenizer = Tokenizer.train(CORPUS, 300)
    prompt, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    tokens = [*tokenizer.encode(text), tokenizer.end_token]
    width = 2 ** (len(prompt) + len(tokens)).bit_length()
    shape = {"n_layers": 1, "n_heads": 1, "d_model": width, "tied_head": False}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=width, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1)
        model.position_embedding.weight.copy_(torch.eye(width))
        for i, token in enumerate(tokens):
            model.head.weight[token, len(prompt) - 1 + i] = 100
    return LoadedModel("tiny", model, tokenizer, is_chat=True, created=0)
