"""Training that begins with published weights, out to transformers again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.model.export import to_hf
from llm.model.files import load_model
from llm.model.hf_import import published_model
from llm.model.published import published_shape
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train
from llm.train.config import ModelShape, PretrainConfig
from llm.train.resolve import resolve
from tests.llm.train.train_materials import (
    CONTEXT_LENGTH,
    LOOP,
    Materials,
    chat,
    tiny_job,
    write_chats,
    write_shards,
)
from tests.published_models import TEXTS, publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Materials]:
    """A published model, and materials with its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    made = Materials(*(folder / name for name in ("tokenizer", "shards", "examples", "base")))
    for path in (made.tokenizer_dir, made.shards_dir, made.examples_dir):
        path.mkdir()
    publish(folder / "published", request.param, n_padded=7)
    import_tokenizer(folder / "published").tokenizer.save(made.tokenizer_dir)
    write_shards(made, TEXTS * 6)
    chats = [chat(f"{i} loaves?", f"The dough rises {i} times.") for i in range(40)]
    write_chats(made.examples_dir / "train.parquet", chats[:30])
    write_chats(made.examples_dir / "val.parquet", chats[30:])
    return folder / "published", made


def job(start: tuple[Path, Materials], folder: Path, **changes: Any) -> dict[str, Any]:
    published, made = start
    config: dict[str, Any] = {"start_from": str(published), "model": {}, "loop": LOOP | {"precision": "float32"}}
    return tiny_job(made, folder, **config | changes)


def test_no_steps_leave_the_weights_as_they_are(start: tuple[Path, Materials], tmp_path: Path) -> None:
    counts = train(job(start, tmp_path, n_steps=0))
    published = published_model(start[0], Tokenizer.load(start[1].tokenizer_dir))
    made = load_model(tmp_path / "out")
    assert made.config == published.config
    assert made.config.context_length > CONTEXT_LENGTH
    weights = published.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in made.state_dict().items())
    assert (counts.unit, counts.n_out) == ("parameters", counts.figures["n_params"])
    assert counts.figures["val_loss"] > 0
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert len(training["start_from"]) == 64, "a digest, no path"
    assert (training["n_steps"], training["model.tied_head"]) == (0, made.config.tied_head)


def test_tuned_further_it_goes_back_to_transformers(start: tuple[Path, Materials], tmp_path: Path) -> None:
    counts = train(job(start, tmp_path / "base", n_steps=12, optimizer={"learning_rate": 3e-3, "warmup_steps": 2}))
    first = json.loads((tmp_path / "base" / "work" / "metrics.jsonl").read_text().splitlines()[0])
    assert counts.figures["best_val_loss"] < first["val_loss"]
    made = dataclasses.replace(start[1], base_dir=tmp_path / "base" / "out")
    train(tiny_job(made, tmp_path / "chat", "finetune", loop=LOOP | {"precision": "float32"}))
    model, tokenizer = load_model(tmp_path / "chat" / "out"), Tokenizer.load(tmp_path / "chat" / "out")
    to_hf(model, tmp_path / "hf", tokenizer)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True).eval()
    messages = [{"role": "user", "content": "What does the baker's dough do?"}]
    rendered = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True).apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    assert rendered[0].tolist() == tokenizer.render_chat(messages, add_generation_prompt=True)[0]
    before = published_model(start[0], tokenizer)
    with torch.no_grad():
        ours = model(rendered)
        assert (theirs(rendered).logits - ours).abs().max() < 1e-5  # of float32 logits of size about 1
        assert (before(rendered) - ours).abs().max() > 0.1, "it has learned"


def test_another_tokenizer_is_refused(start: tuple[Path, Materials], materials: Materials, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the tokenizer is not that of start_from"):
        train(job((start[0], materials), tmp_path))


def test_shards_longer_than_the_context_are_refused(start: tuple[Path, Materials], tmp_path: Path) -> None:
    kind = json.loads((start[0] / "config.json").read_text())["model_type"]
    short = {"gpt2": "n_positions", "qwen3": "max_position_embeddings"}[kind]
    publish(tmp_path / "short", kind, **{short: CONTEXT_LENGTH - 1})
    with pytest.raises(ValueError, match=r"context_length is 16, but the model of start_from, .*, reads 15 tokens"):
        train(job((tmp_path / "short", start[1]), tmp_path))


def test_the_shape_is_that_of_the_start(tmp_path: Path) -> None:
    publish(tmp_path, "qwen3", tie_word_embeddings=False)
    shape = published_shape(tmp_path)
    config = PretrainConfig(start_from=str(tmp_path), model=ModelShape(d_model=32, dropout=0.1))
    made = resolve(config, shape.vocab_size, 64, 10_000, shape)
    assert made.model.dropout == 0.1
    assert (made.model.d_model, made.model.context_length, made.model.n_kv_heads) == (32, 72, 2)
    assert (made.config.model.n_layers, made.config.model.tied_head) == (2, False)
    assert made.config.batch_tokens is not None
    assert made.config.batch_tokens % 64 == 0
    fresh = resolve(PretrainConfig(model=ModelShape(d_model=32, n_layers=2, n_heads=4)), 300, 64, 10_000)
    assert made.config.optimizer.learning_rate == pytest.approx(fresh.config.optimizer.learning_rate / 10, rel=0.05)
    assert any("a tenth of that from the width, 32: training goes on from start_from" in line for line in made.lines())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_layers": 3}, r"model.n_layers is 3, but the model of start_from has n_layers 2: omit model.n_layers"),
        ({"architecture": "gpt2"}, r"model.architecture is gpt2, but the model of start_from has architecture modern"),
        ({"size": "30m"}, r"model.size is 30m, but the model of start_from has a size of its own: omit model.size"),
        ({"tied_head": False}, r"model.tied_head is False, but the model of start_from has tied_head True"),
    ],
)
def test_another_shape_is_refused(shape: dict[str, Any], message: str, tmp_path: Path) -> None:
    publish(tmp_path, "qwen3", tie_word_embeddings=True)
    config = PretrainConfig(start_from=str(tmp_path), model=ModelShape(**shape))
    with pytest.raises(ValueError, match=message):
        resolve(config, 300, 64, 10_000, published_shape(tmp_path))


def test_no_steps_from_scratch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_steps is 0; allowed: 1 or more, or 0 together with start_from"):
        PretrainConfig(n_steps=0)
