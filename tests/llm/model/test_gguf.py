"""GGUF files, read back by the package that llama.cpp is published with."""

import json
import sys

import numpy as np
import pytest
import torch

from llm.model.export import to_gguf
from llm.model.gpt import GPT, GPTConfig
from llm.model.hf_import import published_model
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import Tokenizer
from tests.published_models import publish


@pytest.fixture
def gguf():
    import gguf

    return gguf


def value(reader, name):
    """A value of a GGUF file's head."""
    return reader.get_field(name).contents()


def read_tensors(reader):
    """The tensors by name, as (outputs, inputs)."""
    return {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}


def test_every_weight_is_there(gguf, exportable_model, tmp_path):
    to_gguf(exportable_model, tmp_path / "model.gguf")
    tensors = read_tensors(gguf.GGUFReader(tmp_path / "model.gguf"))
    expected = dict(exportable_model.state_dict())
    for name, tensor in tensors.items():
        if "attn_qkv" in name:
            block, kind = name.split(".")[1], name.split(".")[-1]
            parts = [expected.pop(f"blocks.{block}.attention.{part}.{kind}") for part in ("query", "key", "value")]
            assert torch.equal(tensor, torch.cat(parts)), name
        else:
            equal = [ours for ours in expected if torch.equal(expected[ours], tensor)]
            assert len(equal) == 1, name
            del expected[equal[0]]
    assert not expected
    model_names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.QWEN3 if exportable_model.config.is_modern else gguf.MODEL_ARCH.GPT2, 2
    )
    known = {name for _, name in model_names.mapping.values()}
    assert {name.rsplit(".", 1)[0] for name in tensors} <= known


def test_the_shape_is_in_the_head(gguf, tmp_path):
    modern = GPT(GPTConfig.preset("demo", n_layers=1, architecture="modern", n_heads=4, n_kv_heads=2, rope_theta=5e5))
    to_gguf(modern, tmp_path / "modern.gguf")
    reader = gguf.GGUFReader(tmp_path / "modern.gguf")
    assert value(reader, "general.architecture") == "qwen3"
    expected = {
        "context_length": 256,
        "block_count": 1,
        "embedding_length": 128,
        "feed_forward_length": 384,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.freq_base": 5e5,
        "vocab_size": 4096,
    }
    assert {name: value(reader, f"qwen3.{name}") for name in expected} == expected
    assert value(reader, "qwen3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    to_gguf(GPT(GPTConfig.preset("demo", n_layers=1)), tmp_path / "gpt2.gguf")
    reader = gguf.GGUFReader(tmp_path / "gpt2.gguf")
    assert value(reader, "general.architecture") == "gpt2"
    assert value(reader, "gpt2.feed_forward_length") == 512
    assert value(reader, "gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-5)


def test_the_tokenizer_goes_along(gguf, tmp_path):
    tokenizer = Tokenizer.train(["the cat sat on the mat "] * 20, 270)
    to_gguf(GPT(GPTConfig.preset("demo", n_layers=1, vocab_size=272)), tmp_path / "model.gguf", tokenizer)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert tokens[:6] == ["<|document|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert value(reader, "tokenizer.ggml.pre") == "dbrx"
    assert types == [gguf.TokenType.CONTROL] * 6 + [gguf.TokenType.NORMAL] * 264 + [gguf.TokenType.UNUSED] * 2
    merges = [merge.split(" ") for merge in value(reader, "tokenizer.ggml.merges")]
    assert len(merges) == 270 - 262
    assert all("".join(merge) in tokens for merge in merges)
    ids = {name: value(reader, f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "padding")}
    assert ids == {"bos": 0, "eos": 0, "eot": 5, "padding": 1}
    assert "generation" not in value(reader, "tokenizer.chat_template").replace("add_generation_prompt", "")


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "gpt-2"), ("qwen3", "qwen2")])
def test_a_published_tokenizer_keeps_its_split_pattern(gguf, kind, name, tmp_path):
    publish(tmp_path, kind)
    imported = import_tokenizer(tmp_path)
    to_gguf(published_model(tmp_path, imported.tokenizer), tmp_path / "model.gguf", imported.tokenizer)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert value(reader, "tokenizer.ggml.pre") == name
    assert value(reader, "tokenizer.ggml.tokens")[5:7] == ["<|end|>", "!"]


def test_a_split_pattern_that_llama_cpp_does_not_know_is_refused(gguf, tmp_path):
    publish(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    imported = import_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"a pattern that llama.cpp has no name for: export it as hf"):
        to_gguf(published_model(tmp_path, imported.tokenizer), tmp_path / "model.gguf", imported.tokenizer)
    assert not (tmp_path / "model.gguf").exists()


def test_transformers_reads_it(gguf, random_model_of, tmp_path):
    """It takes heads to be 128 wide."""
    from transformers import AutoModelForCausalLM

    shape = {"vocab_size": 50, "context_length": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 256}
    model = random_model_of(GPTConfig(**shape, architecture="modern"))
    to_gguf(model, tmp_path / "model.gguf")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    tokens = torch.arange(50)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-5, rtol=0)


def test_the_same_model_gives_the_same_bytes(gguf, exportable_model, tmp_path):
    for name in ("a", "b"):
        to_gguf(exportable_model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_overwritten_and_nothing_is_left_half(gguf, exportable_model, tmp_path, monkeypatch):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ValueError, match="there exists and is not overwritten"):
        to_gguf(exportable_model, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        to_gguf(exportable_model, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="written by the package gguf, which is absent: pip install gguf"):
        to_gguf(GPT(GPTConfig.preset("demo", n_layers=1)), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []
