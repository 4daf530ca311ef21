"""Published models in Hugging Face's layout: what can be said of a directory before its weights are read.

It needs no torch, so that a recipe can be checked in an instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..tokenizer.imported_tokenizer import import_tokenizer
from .bounds import read_object, require_weights
from .shape import GPTConfig

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"


def published_files(directory: Path) -> list[Path]:
    """Returns the files that make a published model: config, then weights.

    Raises ValueError that names what is missing.
    """
    config, weights, index = (directory / name for name in (CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE))
    if not config.is_file():
        raise ValueError(f"{directory} is no model in Hugging Face's layout: it has no {CONFIG_FILE}")
    files = [config, weights]
    if index.is_file():
        files = [config, index, *sorted(directory / name for name in _indexed(index))]
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path} is missing; pickled weights (pytorch_model.bin) are not read: save safetensors")
    return files


def _indexed(index: Path) -> set[str]:
    """Returns the names of the files with weights, in the index's own folder."""
    places = read_object(index).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).suffix == ".safetensors" for name in names):
        raise ValueError(f"{index} must have a weight_map: by each tensor, the name of a safetensors file beside it")
    return {Path(name).name for name in names}


def published_shape(directory: Path) -> GPTConfig:
    """Returns the shape of a published model with the vocabulary that `import_tokenizer` gives it, without dropout.

    Raises ValueError for a file that is missing, for an architecture or a setting that our model does not have, and for
    a tokenizer that does not fit.
    """
    config = read_config(directory)
    imported = import_tokenizer(directory)
    if imported.n_published > config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer has {imported.n_published} tokens, but the model only {config.vocab_size}"
        )
    return dataclasses.replace(config, vocab_size=imported.tokenizer.vocab_size, dropout=0.0)


def read_config(directory: Path) -> GPTConfig:
    """Returns our config for the `config.json` of a directory; raises ValueError for a missing or an unfit one."""
    files, content = published_files(directory), read_object(directory / CONFIG_FILE)
    try:
        config = gpt_config(content)
        require_weights(config, [path for path in files if path.suffix == ".safetensors"])
        return config
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG_FILE}: {error}") from error


def gpt_config(content: Mapping[str, Any]) -> GPTConfig:
    """Returns our config for the content of a `config.json` of transformers.

    What it leaves out has the defaults of transformers. Raises ValueError for what our model does not have.
    """
    readers: dict[str, Callable[[Mapping[str, Any]], GPTConfig]] = {"gpt2": _gpt2_config, "qwen3": _qwen3_config}
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in readers:
        raise ValueError(
            f"model_type is {kind!r}; supported are 'gpt2' (GPT2LMHeadModel) and 'qwen3' (Qwen3ForCausalLM)"
        )
    try:
        return readers[kind](content)
    except KeyError as error:
        raise ValueError(f"config.json of a {kind} model must have {error}, but does not") from error


def _gpt2_config(content: Mapping[str, Any]) -> GPTConfig:
    _require(content, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _require(content, "scale_attn_weights", True)
    _require(content, "scale_attn_by_inverse_layer_idx", False)
    _require(content, "add_cross_attention", False)
    d_mlp: Any = content.get("n_inner") or None
    return GPTConfig(
        architecture="gpt2",
        vocab_size=content["vocab_size"],
        context_length=content["n_positions"],
        n_layers=content["n_layer"],
        n_heads=content["n_head"],
        d_model=content["n_embd"],
        d_mlp=d_mlp,
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
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters is {rope!r:.80}; it must be an object with rope_type and rope_theta")
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
