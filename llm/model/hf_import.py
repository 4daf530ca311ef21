"""Checkpoints of Hugging Face's transformers as our models: GPT-2 and Qwen3, read without transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import read_json
from .files import load_tensors
from .gpt import GPT, GPTConfig
from .names import HUGGING_FACE, to_ours

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"

NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Endings of tensors in old files that hold no weights, but causal masks and the speeds of RoPE."""


def from_hf(folder: Path, vocab_size: int | None = None) -> GPT:
    """Returns the model of a folder with `config.json` and safetensors files, as float32, in evaluation mode.

    `vocab_size` cuts the rows of the embedding and the head to so many tokens: some models have more rows than their
    tokenizer has tokens, to round the number up. Raises ValueError for an architecture or setting that our model does
    not have, and for weights that do not fit the config; OSError when a file is missing or damaged.
    """
    content = read_json(folder / "config.json")
    try:
        config = gpt_config(content)
        weights = to_ours(_weights(folder, config), HUGGING_FACE[config.architecture], config.n_layers)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if vocab_size is not None:
        config = _cut(config, weights, vocab_size)
    with torch.device("meta"):  # no random numbers for weights that are about to be replaced
        model = GPT(config)
    model = model.to_empty(device="cpu")
    try:
        model.load_state_dict(weights)  # copies, so that no weight shares memory with another one of a fused matrix
    except RuntimeError as error:
        raise ValueError(f"{folder}: the weights do not fit config.json: {error}") from error
    return model.eval()


def gpt_config(content: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for the content of a `config.json` of transformers.

    What it leaves out has the defaults of transformers. Raises ValueError for what our model does not have.
    """
    readers: dict[str, Callable[[Mapping[str, Any]], GPTConfig]] = {"gpt2": _gpt2_config, "qwen3": _qwen3_config}
    kind = content.get("model_type")
    if kind not in readers:
        raise ValueError(
            f"model_type is {kind!r}; supported are 'gpt2' (GPT2LMHeadModel) and 'qwen3' (Qwen3ForCausalLM)"
        )
    try:
        return readers[str(kind)](content)
    except KeyError as error:
        raise ValueError(f"config.json of a {kind} model must have {error}, but does not") from error


def _gpt2_config(content: Mapping[str, Any]) -> GPTConfig:
    _require(content, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _require(content, "scale_attn_weights", True)
    _require(content, "scale_attn_by_inverse_layer_idx", False)
    _require(content, "add_cross_attention", False)
    return GPTConfig(
        architecture="gpt2",
        vocab_size=content["vocab_size"],
        context_length=content["n_positions"],
        n_layers=content["n_layer"],
        n_heads=content["n_head"],
        d_model=content["n_embd"],
        d_mlp=content.get("n_inner") or 4 * content["n_embd"],
        tied_head=content.get("tie_word_embeddings", True),
        norm_eps=content.get("layer_norm_epsilon", 1e-5),
        dropout=content.get("resid_pdrop", 0.1),
        init_std=content.get("initializer_range", 0.02),
    )


def _qwen3_config(content: Mapping[str, Any]) -> GPTConfig:
    _require(content, "hidden_act", "silu")
    _require(content, "attention_bias", False)
    _require(content, "use_sliding_window", False)
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    _require(rope, "rope_type", "default")
    return GPTConfig(
        architecture="modern",
        vocab_size=content["vocab_size"],
        context_length=content["max_position_embeddings"],
        n_layers=content["num_hidden_layers"],
        n_heads=content["num_attention_heads"],
        n_kv_heads=content["num_key_value_heads"],
        d_model=content["hidden_size"],
        head_dim=content.get("head_dim", 128),
        d_mlp=content["intermediate_size"],
        tied_head=content.get("tie_word_embeddings", False),
        rope_theta=rope.get("rope_theta", content.get("rope_theta", 10_000.0)),
        norm_eps=content.get("rms_norm_eps", 1e-6),
        dropout=content.get("attention_dropout", 0.0),
        init_std=content.get("initializer_range", 0.02),
    )


def _require(content: Mapping[str, Any], name: str, *supported: Any) -> None:
    """Raises ValueError when a setting has another value than the supported ones, the first of which is its default."""
    value = content.get(name, supported[0])
    if value not in supported:
        raise ValueError(f"{name} is {value!r}; our model has only {' or '.join(map(repr, supported))}")


def _weights(folder: Path, config: GPTConfig) -> dict[str, Tensor]:
    """Returns the weights by their full names: a file of a model without its head has them without the first part."""
    prefix = "transformer." if config.architecture == "gpt2" else "model."
    weights = {}
    for name, tensor in _tensors(folder).items():
        full = name if name.startswith((prefix, "lm_head.")) else prefix + name
        if not full.endswith(NOT_WEIGHTS) and not (config.tied_head and full == "lm_head.weight"):
            weights[full] = tensor
    return weights


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors of a folder: of its one file, or of the files that its index names."""
    if not (folder / INDEX_FILE).exists():
        return load_tensors(_existing(folder / WEIGHTS_FILE))
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(read_json(folder / INDEX_FILE)["weight_map"].values())):
        tensors |= load_tensors(_existing(folder / Path(name).name))
    return tensors


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; pickled weights (pytorch_model.bin) are not read: save safetensors"
        )
    return path


def _cut(config: GPTConfig, weights: dict[str, Tensor], vocab_size: int) -> GPTConfig:
    """Drops the rows of `weights` from `vocab_size` on and returns the config that goes with the rest."""
    if vocab_size > config.vocab_size:
        raise ValueError(f"vocab_size is {vocab_size}; the checkpoint has {config.vocab_size} rows: give that or less")
    for name in ("token_embedding.weight", "head.weight"):
        if name in weights:
            weights[name] = weights[name][:vocab_size]
    return dataclasses.replace(config, vocab_size=vocab_size)
