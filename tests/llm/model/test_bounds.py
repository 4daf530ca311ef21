"""Model folders that somebody hostile, or a damaged disk, has written: refused in no time and no memory, by name."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.files import write_json
from llm.model.bounds import MAX_JSON_BYTES
from llm.model.classifier import LABELS_FILE, load_classifier
from llm.model.files import load_model, save_model
from llm.model.gpt import GPT, GPTConfig
from llm.model.hf_import import from_hf
from llm.model.published import published_shape
from tests.published_models import publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

SECONDS, KILOBYTES = 2.0, 300_000
WEIGHTS, CONFIG, INDEX, TOKENIZER = "model.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("gpt2", "qwen3")}
    for kind, folder in folders.items():
        publish(folder, kind)
        from_hf(folder)  # torch makes ready what the first load needs
    return folders


def refused(load: Callable[[Path], Any], folder: Path, words: str) -> None:
    """Within the time and memory that are given for it."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises((ValueError, OSError), match=words):
        load(folder)
    assert time.monotonic() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES


CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    (
        "gpt2",
        {"n_layer": 10**9},
        r"config\.json: the weights do not fit .* 1,000,000,000 layers and .* but there are 28 t",
    ),
    ("gpt2", {"vocab_size": 10**12}, "the weights do not fit"),
    ("gpt2", {"n_inner": 10**15}, "the weights do not fit"),
    ("gpt2", {"n_embd": 4 * 10**9}, "the weights do not fit"),
    ("gpt2", {"n_positions": 2**24}, "the weights do not fit"),
    ("gpt2", {"n_positions": 10**12}, "context_length is 1000000000000; allowed: from 1 to 16777216"),
    ("gpt2", {"n_head": 0}, "n_heads is 0; allowed: 1 or more"),
    ("gpt2", {"n_layer": -1}, "n_layers is -1; allowed: 1 or more"),
    ("gpt2", {"n_layer": "2"}, "n_layers is '2'; allowed: a whole number, 1 or more"),
    ("gpt2", {"n_layer": 2.5}, "n_layers is 2.5; allowed: a whole number"),
    ("gpt2", {"n_layer": True}, "n_layers is True; allowed: a whole number"),
    ("gpt2", {"n_embd": [32]}, r"d_model is \[32\]; allowed: a whole number"),
    ("gpt2", {"n_embd": None}, "d_model is empty"),
    ("gpt2", {"layer_norm_epsilon": float("nan")}, "norm_eps is nan; allowed: a number, 0 or more"),
    ("gpt2", {"layer_norm_epsilon": float("inf")}, "norm_eps is inf; allowed: a number"),
    ("gpt2", {"resid_pdrop": "a"}, "dropout is 'a'; allowed: a number, from 0 to 0.99"),
    ("gpt2", {"tie_word_embeddings": "yes"}, "tied_head is 'yes'; allowed: true or false"),
    ("gpt2", {"model_type": ["gpt2"]}, r"model_type is \['gpt2'\]; supported"),
    ("qwen3", {"num_hidden_layers": 10**9}, "the weights do not fit"),
    ("qwen3", {"max_position_embeddings": 10**12}, "context_length is 1000000000000"),
    ("qwen3", {"head_dim": 10**12}, "the weights do not fit"),
    ("qwen3", {"head_dim": 0}, "head_dim is 0; allowed: 1 or more"),
    ("qwen3", {"num_key_value_heads": 0}, "n_kv_heads is 0"),
    ("qwen3", {"rope_parameters": [1]}, r"rope_parameters is \[1\]; it must be an object"),
    ("qwen3", {"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta is nan"),
]


@pytest.mark.parametrize(("kind", "settings", "words"), CONFIGS)
def test_a_config_that_claims_what_cannot_be(
    kind: str, settings: dict[str, Any], words: str, published: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(published[kind], tmp_path / "model")
    content = json.loads((tmp_path / "model" / CONFIG).read_text())
    (tmp_path / "model" / CONFIG).write_text(json.dumps(content | settings))
    for load in (from_hf, published_shape):
        refused(load, tmp_path / "model", words)


def with_header(header: bytes, n_bytes: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if n_bytes is None else n_bytes) + header


def tensors(n: int, **claims: Any) -> bytes:
    return json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} | claims for i in range(n)}
    ).encode()


DEEP, PAIRS = b"[" * 10**6, b'{"a":' * 10**5
FILES: list[tuple[str, Callable[[], bytes], str]] = [
    (
        WEIGHTS,
        lambda: with_header(b"{}", 10**15),
        r"model\.safetensors is damaged: its header is said to have 1,000,000",
    ),
    (WEIGHTS, lambda: with_header(b"{}", 2**64 - 1), r"is damaged: its header"),
    (WEIGHTS, lambda: with_header(b" " * 10**8), r"is damaged: its header .* has 4,194,304 bytes at most"),
    (WEIGHTS, lambda: with_header(DEEP), r"is damaged: its header is no JSON"),
    (WEIGHTS, lambda: with_header(b"[1]"), r"is damaged: its header is a list, not a JSON object"),
    (WEIGHTS, lambda: with_header(tensors(28, shape=[10**8, 10**7], data_offsets=[0, 4 * 10**15])), "do not fit"),
    (WEIGHTS, lambda: b"", r"is damaged: its header"),
    (CONFIG, lambda: DEEP, r"config\.json is damaged: it holds no JSON"),
    (CONFIG, lambda: PAIRS, r"config\.json is damaged"),
    (CONFIG, lambda: b"[1]", r"config\.json holds a list; it must be a JSON object"),
    (CONFIG, lambda: b"\xff\xfe{", r"config\.json is damaged"),
    (CONFIG, lambda: b" " * (MAX_JSON_BYTES + 1), r"config\.json has more than 4,194,304 bytes"),
    (INDEX, lambda: DEEP, r"index\.json is damaged"),
    *(
        (INDEX, lambda content=content: json.dumps(content).encode(), r"index\.json (must have a weight_map|holds)")
        for content in (
            [],
            {},
            {"weight_map": None},
            {"weight_map": {}},
            {"weight_map": {"a": 1}},
            {"weight_map": {"a": INDEX}},
        )
    ),
]


@pytest.mark.parametrize(("name", "content", "words"), FILES)
def test_files_that_are_not_what_they_say(
    name: str, content: Callable[[], bytes], words: str, published: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(published["gpt2"], tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content())
    for load in (from_hf, published_shape):
        refused(load, tmp_path / "model", words)


@pytest.mark.parametrize("content", [DEEP, PAIRS, b"[1]", b"", b"\xff\xfe{", b" " * (65 << 20)])
def test_a_tokenizer_that_is_none(content: bytes, published: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(published["gpt2"], tmp_path / "model")
    (tmp_path / "model" / TOKENIZER).write_bytes(content)
    refused(published_shape, tmp_path / "model", r"tokenizer\.json (is not a tokenizer|has more than)")


def test_files_that_lead_in_a_circle(published: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(published["gpt2"], tmp_path / "model")
    (tmp_path / "model" / INDEX).write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    (tmp_path / "model" / "x.safetensors").symlink_to("x.safetensors")
    refused(from_hf, tmp_path / "model", r"x\.safetensors is missing")


@pytest.mark.parametrize("token", [-1, "5", [], [[1]], {"a": 1}, 10**30, True])
def test_a_special_token_that_is_none_is_as_if_there_were_none(
    token: Any, published: dict[str, Path], tmp_path: Path
) -> None:
    from llm.model.hf_import import published_model
    from llm.tokenizer.imported_tokenizer import import_tokenizer

    shutil.copytree(published["gpt2"], tmp_path / "model")
    content = json.loads((tmp_path / "model" / CONFIG).read_text())
    write_json(tmp_path / "model" / CONFIG, content | {"eos_token_id": token, "bos_token_id": None})
    published_model(tmp_path / "model", import_tokenizer(tmp_path / "model").tokenizer)


OWN: list[tuple[str, Any, str]] = [
    (CONFIG, {"n_layers": 10**9}, r"the weights do not fit config\.json: .* 1,000,000,000 layers"),
    (CONFIG, {"vocab_size": 10**12}, "the weights do not fit"),
    (CONFIG, {"n_layers": "2"}, "n_layers is '2'; allowed: a whole number"),
    (CONFIG, {"unknown": 1}, r"config\.json is no config of a model of ours: .*unknown"),
    (CONFIG, DEEP, r"config\.json is damaged"),
    (CONFIG, b"[1]", r"config\.json holds a list"),
    (CONFIG, b"{}", r"config\.json is no config of a model of ours: .*model"),
    (CONFIG, b'{"model": 5}', r"config\.json is no config of a model of ours"),
    (WEIGHTS, with_header(b"{}", 10**15), "is damaged: its header"),
    (LABELS_FILE, DEEP, r"labels\.json is damaged"),
    (LABELS_FILE, b"{}", r"labels\.json holds no list of labels"),
    (LABELS_FILE, b"[]", r"labels\.json holds no list of labels"),
    (LABELS_FILE, b"[1, 2]", r"labels\.json holds no list of labels"),
]


@pytest.mark.parametrize(("name", "change", "words"), OWN)
def test_folders_in_our_own_layout(name: str, change: Any, words: str, tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=31, context_length=12, n_layers=2, n_heads=2, d_model=24))
    save_model(model, tmp_path, {})
    write_json(tmp_path / LABELS_FILE, ["a", "b"])
    if isinstance(change, dict):
        content = json.loads((tmp_path / CONFIG).read_text())
        write_json(tmp_path / CONFIG, {"model": content["model"] | change, "training": {}})
    else:
        (tmp_path / name).write_bytes(change)
    refused(load_classifier, tmp_path, words)
    if name != LABELS_FILE:
        refused(load_model, tmp_path, words)


def test_a_large_header_of_a_real_model_is_read(tmp_path: Path) -> None:
    """A hundred layers, many more than a model of ours has."""
    model = GPT(GPTConfig(vocab_size=8, context_length=4, n_layers=100, n_heads=1, d_model=2))
    save_model(model, tmp_path, {})
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
