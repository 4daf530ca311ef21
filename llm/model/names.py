"""Our weights under the names that other programs have for them, there and back.

A table maps a module of theirs to one of ours, `{}` standing for the number of the block. Where several of ours face
one of theirs, theirs holds ours one after the other along the outputs. What a model lacks (biases, a head of its own)
is skipped. `speedrun` is in no table: nobody else has its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Names = Mapping[str, tuple[str, ...]]

_QUERY_KEY_VALUE = ("blocks.{}.attention.query", "blocks.{}.attention.key", "blocks.{}.attention.value")

HUGGING_FACE: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        "transformer.wte": ("token_embedding",),
        "transformer.wpe": ("position_embedding",),
        "transformer.h.{}.ln_1": ("blocks.{}.norm_1",),
        "transformer.h.{}.attn.c_attn": _QUERY_KEY_VALUE,
        "transformer.h.{}.attn.c_proj": ("blocks.{}.attention.projection",),
        "transformer.h.{}.ln_2": ("blocks.{}.norm_2",),
        "transformer.h.{}.mlp.c_fc": ("blocks.{}.mlp.expand",),
        "transformer.h.{}.mlp.c_proj": ("blocks.{}.mlp.projection",),
        "transformer.ln_f": ("norm",),
        "lm_head": ("head",),
    },
    "modern": {
        "model.embed_tokens": ("token_embedding",),
        "model.layers.{}.input_layernorm": ("blocks.{}.norm_1",),
        "model.layers.{}.self_attn.q_proj": ("blocks.{}.attention.query",),
        "model.layers.{}.self_attn.k_proj": ("blocks.{}.attention.key",),
        "model.layers.{}.self_attn.v_proj": ("blocks.{}.attention.value",),
        "model.layers.{}.self_attn.q_norm": ("blocks.{}.attention.query_norm",),
        "model.layers.{}.self_attn.k_norm": ("blocks.{}.attention.key_norm",),
        "model.layers.{}.self_attn.o_proj": ("blocks.{}.attention.projection",),
        "model.layers.{}.post_attention_layernorm": ("blocks.{}.norm_2",),
        "model.layers.{}.mlp.gate_proj": ("blocks.{}.mlp.gate",),
        "model.layers.{}.mlp.up_proj": ("blocks.{}.mlp.expand",),
        "model.layers.{}.mlp.down_proj": ("blocks.{}.mlp.projection",),
        "model.norm": ("norm",),
        "lm_head": ("head",),
    },
}
"""By architecture: modules of `GPT2LMHeadModel` and `Qwen3ForCausalLM` of transformers."""

GGUF: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        "token_embd": ("token_embedding",),
        "position_embd": ("position_embedding",),
        "blk.{}.attn_norm": ("blocks.{}.norm_1",),
        "blk.{}.attn_qkv": _QUERY_KEY_VALUE,
        "blk.{}.attn_output": ("blocks.{}.attention.projection",),
        "blk.{}.ffn_norm": ("blocks.{}.norm_2",),
        "blk.{}.ffn_up": ("blocks.{}.mlp.expand",),
        "blk.{}.ffn_down": ("blocks.{}.mlp.projection",),
        "output_norm": ("norm",),
        "output": ("head",),
    },
    "modern": {
        "token_embd": ("token_embedding",),
        "blk.{}.attn_norm": ("blocks.{}.norm_1",),
        "blk.{}.attn_q": ("blocks.{}.attention.query",),
        "blk.{}.attn_k": ("blocks.{}.attention.key",),
        "blk.{}.attn_v": ("blocks.{}.attention.value",),
        "blk.{}.attn_q_norm": ("blocks.{}.attention.query_norm",),
        "blk.{}.attn_k_norm": ("blocks.{}.attention.key_norm",),
        "blk.{}.attn_output": ("blocks.{}.attention.projection",),
        "blk.{}.ffn_norm": ("blocks.{}.norm_2",),
        "blk.{}.ffn_gate": ("blocks.{}.mlp.gate",),
        "blk.{}.ffn_up": ("blocks.{}.mlp.expand",),
        "blk.{}.ffn_down": ("blocks.{}.mlp.projection",),
        "output_norm": ("norm",),
        "output": ("head",),
    },
}
"""By architecture: tensors of the `gpt2` and `qwen3` models of llama.cpp."""

CONV1D = ("c_attn", "c_proj", "c_fc")
"""Modules of GPT-2 in transformers that hold their matrix as (inputs, outputs), the transpose of a linear layer's."""


def to_theirs(ours: Mapping[str, Tensor], names: Names, n_layers: int) -> dict[str, Tensor]:
    """Returns the weights of a `GPT.state_dict()` as another program keeps them."""
    theirs = {}
    for their_name, our_names in _weights(names, n_layers):
        parts = [ours[name] for name in our_names if name in ours]
        if parts:
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            theirs[their_name] = whole.t() if _is_transposed(their_name) else whole
    return theirs


def to_ours(theirs: Mapping[str, Tensor], names: Names, n_layers: int) -> dict[str, Tensor]:
    """Returns the weights of another program as `GPT.load_state_dict` takes them.

    Raises ValueError when there are weights that our model has no place for.
    """
    ours: dict[str, Tensor] = {}
    placed = set()
    for their_name, our_names in _weights(names, n_layers):
        if their_name in theirs:
            whole = theirs[their_name].t() if _is_transposed(their_name) else theirs[their_name]
            ours.update(zip(our_names, whole.chunk(len(our_names)), strict=True))
            placed.add(their_name)
    if unknown := sorted(theirs.keys() - placed):
        raise ValueError(f"the weights {', '.join(unknown[:5])} ({len(unknown)} in all) have no place in our model")
    return ours


def _weights(names: Names, n_layers: int) -> Iterator[tuple[str, list[str]]]:
    """Yields each weight and bias of theirs that the table speaks of, with ours that make it up."""
    for module, our_modules in names.items():
        for block in range(n_layers) if "{}" in module else [0]:
            for kind in ("weight", "bias"):
                yield f"{module.format(block)}.{kind}", [f"{name.format(block)}.{kind}" for name in our_modules]


def _is_transposed(their_name: str) -> bool:
    module, kind = their_name.rsplit(".", 1)
    return kind == "weight" and module.endswith(CONV1D)
