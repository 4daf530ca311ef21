"""Weights of Hugging Face's transformers as our models: GPT-2 and Qwen3, read without transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tokenizer.imported_tokenizer import import_tokenizer
from ..tokenizer.tokenizer import DOCUMENT, END, SPECIAL_TOKENS, Tokenizer
from .bounds import read_object
from .files import load_tensors
from .gpt import GPT
from .names import HUGGING_FACE, to_ours
from .published import CONFIG_FILE, published_files, published_shape, read_config
from .shape import GPTConfig

NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Endings of tensors in old files that hold no weights, but causal masks and the frequencies of RoPE."""


def published_model(directory: Path, tokenizer: Tokenizer, *, dropout: float = 0.0) -> GPT:
    """Loads the model of a directory with the vocabulary of `tokenizer`, which `import_tokenizer` has made of its own.

    Each token keeps its rows in the embedding and the head. `<|document|>` and `<|end|>`, where they are new, begin as
    the tokens that begin and end a text there, other new tokens as the mean of all, which a model seldom predicts.
    Raises ValueError for another tokenizer, and as `from_hf` does.
    """
    imported = import_tokenizer(directory)
    if imported.tokenizer.to_json() != tokenizer.to_json():
        raise ValueError(
            f"the tokenizer is not that of start_from, {directory}: give tokenizer.start_from the same one"
        )
    shape, weights = published_shape(directory), dict(from_hf(directory).state_dict())
    likened = _likened(read_object(directory / CONFIG_FILE), imported.n_published)
    rows = [likened.get(i) if row is None else row for i, row in enumerate(imported.published_ids)]
    for name in ("token_embedding.weight", "head.weight"):
        if name in weights:
            weights[name] = _with_rows(weights[name][: imported.n_published], rows)
    return _model(dataclasses.replace(shape, dropout=dropout), weights)


def from_hf(directory: Path) -> GPT:
    """Loads the model of a directory with `config.json` and safetensors files, as float32, in evaluation mode.

    Raises ValueError when a file is missing, for an architecture or setting that our model does not have, and for
    weights that do not fit the config; OSError when a file is damaged.
    """
    config = read_config(directory)
    try:
        weights = to_ours(_weights(directory, config), HUGGING_FACE[config.architecture], config.n_layers)
        return _model(config, weights)
    except RuntimeError as error:
        raise ValueError(f"{directory}: the weights do not fit config.json: {error}") from error
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error


def _model(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    with torch.device("meta"):  # no random numbers for weights that are about to be replaced
        model = GPT(config)
    model = model.to_empty(device="cpu")
    model.load_state_dict(weights)  # copies, so that no weight shares memory with another one of a fused matrix
    return model.eval()


def _likened(content: Mapping[str, Any], n_tokens: int) -> dict[int, int]:
    """Returns, by our ids of `<|document|>` and `<|end|>`, the published ones of the tokens they begin as."""
    end, start = content.get("eos_token_id"), content.get("bos_token_id")
    end = next(iter(end), None) if isinstance(end, list) else end
    found = {DOCUMENT: end if start is None else start, END: end}
    # other values stand for no token of this tokenizer, and the new ones begin as the mean
    return {SPECIAL_TOKENS.index(name): i for name, i in found.items() if isinstance(i, int) and 0 <= i < n_tokens}


def _with_rows(weight: Tensor, rows: Sequence[int | None]) -> Tensor:
    """Returns a matrix of the given rows of `weight` (V, C); None: the mean of all."""
    means = weight.mean(0, keepdim=True)
    return torch.cat((weight, means))[[len(weight) if row is None else row for row in rows]]


def _weights(directory: Path, config: GPTConfig) -> dict[str, Tensor]:
    """Returns the weights under full names: a file of a model without its head has them without the first part."""
    prefix = "transformer." if config.architecture == "gpt2" else "model."
    weights = {}
    files = [path for path in published_files(directory) if path.suffix == ".safetensors"]
    for name, tensor in ((name, tensor) for path in files for name, tensor in load_tensors(path).items()):
        full = name if name.startswith((prefix, "lm_head.")) else prefix + name
        if not full.endswith(NOT_WEIGHTS) and not (config.tied_head and full == "lm_head.weight"):
            weights[full] = tensor
    return weights
