"""How large a model is, and what a training step costs, by arithmetic from its config.

Letters as in gpt.py: C d_model, H heads, G heads of keys and values, D head_dim, M d_mlp, V vocabulary, L layers, T
context length.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shape import GPTConfig

HEAD_ROWS = 1024
"""Tokens whose logits exist at one time in training on a CPU (see head.py)."""


def n_params(config: GPTConfig) -> int:
    """Returns number of weights; an embedding that is also the head counts once."""
    return n_matmul_params(config) + n_lookup_params(config) + n_vector_params(config)


def n_matmul_params(config: GPTConfig) -> int:
    """Counts weights that every token is multiplied with: 2 C D (H + G) in attention, 2 or 3 C M in the MLP, V C."""
    attention = 2 * config.d_model * config.head_dim * (config.n_heads + config.n_kv_heads)
    mlp = (3 if config.architecture == "modern" else 2) * config.d_model * config.d_mlp
    return config.n_layers * (attention + mlp) + config.vocab_size * config.d_model


def n_lookup_params(config: GPTConfig) -> int:
    """Counts weights of which every token takes one row.

    Positions (T C, in gpt2), an embedding that is not the head (V C), values of tokens (V G D for each layer that has
    them, in speedrun).
    """
    n_rows = (0 if config.is_modern else config.context_length) + (0 if config.tied_head else config.vocab_size)
    n_tables = (config.n_layers + 1) // 2 if config.is_speedrun else 0
    return n_rows * config.d_model + n_tables * config.vocab_size * config.n_kv_heads * config.head_dim


def n_vector_params(config: GPTConfig) -> int:
    """Counts norms (2 C in a block and C at the end in modern, twice that in gpt2, 2 D for QK norms) and biases.

    In speedrun also the two shares with which the stream and the embedding enter each layer.
    """
    if config.is_modern:
        shares = 2 if config.is_speedrun else 0
        return config.n_layers * (2 * config.d_model + 2 * config.head_dim + shares) + config.d_model
    biases = 5 * config.d_model + config.d_mlp  # query, key, value, two projections; expand
    return config.n_layers * (4 * config.d_model + biases) + 2 * config.d_model


def flops_per_token(config: GPTConfig) -> int:
    """Returns floating-point operations to train on one token, forward and backward: 6 N + 12 L H D T.

    The convention of Chowdhery et al. 2022 (PaLM, appendix B): N counts the weights used in matrix products (so the
    head, but not the embeddings looked up), T is the context length, and the causal half of attention is not deducted.
    """
    attention_width = config.n_heads * config.head_dim
    return 6 * n_matmul_params(config) + 12 * config.n_layers * attention_width * config.context_length


KEPT_BYTES: dict[str, dict[str, dict[str, int]]] = {
    "gpt2": {
        "float32": {"C": 32, "M": 8, "HT": 4},
        "bfloat16": {"C": 24, "M": 4, "HT": 2},
    },
    "modern": {
        "float32": {"C": 24, "HD": 24, "GD": 16, "M": 16, "HT": 4},
        "bfloat16": {"C": 26, "HD": 16, "GD": 12, "M": 8, "HT": 6},
    },
    "speedrun": {
        "float32": {"C": 28, "HD": 24, "GD": 16, "M": 8, "HT": 4},
        "bfloat16": {"C": 28, "HD": 16, "GD": 12, "M": 4, "HT": 6},
    },
}
"""Bytes that one block keeps of one token for the backward pass, for each number of a width: what torch's hooks for
saved tensors count, of either form of attention the larger number. HT: the weights of attention in plain operations."""

BYTES_AROUND = 60_000_000
"""What libraries take when they first compute, and memory that the allocator does not give back; measured."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How a model is trained, as far as memory depends on it."""

    micro_batch_size: int
    """Sequences in one forward and backward pass."""
    bfloat16: bool = True
    """Whether matrix products are in bfloat16; else in float32."""
    plain_attention: bool = True
    """Whether the (T, T) weights of attention exist: on a CPU, for short sequences."""
    head_rows: int = HEAD_ROWS
    """Tokens whose logits exist at one time."""
    recompute: bool = False
    """Whether blocks keep only what enters them."""
    muon: bool = False
    """Whether the optimizer is Muon, which has one moment for each matrix instead of two."""


def block_bytes(config: GPTConfig, passes: Passes) -> int:
    """Returns bytes that one block keeps of one token for the backward pass."""
    widths = {
        "C": config.d_model,
        "HD": config.n_heads * config.head_dim,
        "GD": config.n_kv_heads * config.head_dim,
        "M": config.d_mlp,
        "HT": config.n_heads * config.context_length if passes.plain_attention else 0,
    }
    kept = KEPT_BYTES[config.architecture]["bfloat16" if passes.bfloat16 else "float32"]
    return sum(n_bytes * widths[name] for name, n_bytes in kept.items())


def state_bytes(config: GPTConfig, *, muon: bool = False) -> int:
    """Counts bytes of weights, gradients and moments in float32: 16 a weight, 12 a weight of a matrix under Muon."""
    inside_blocks = n_matmul_params(config) - config.vocab_size * config.d_model
    return 16 * n_params(config) - (4 * inside_blocks if muon else 0)


def pass_bytes(config: GPTConfig, passes: Passes) -> int:
    """Returns what the forward and backward pass of a micro-batch takes beside the state.

    Activations that blocks keep, with two blocks' worth for what the backward pass makes on its way (with `recompute`
    what enters each block, and three blocks' worth); what lies around the blocks, 24 C a token; the head's logits, in
    several forms, and its gradient, three times in transit; copies of the weights in bfloat16.
    """
    n_tokens, of_block = passes.micro_batch_size * config.context_length, block_bytes(config, passes)
    kept = config.n_layers * 4 * config.d_model + of_block if passes.recompute else config.n_layers * of_block
    of_token = kept + 2 * of_block + 24 * config.d_model
    of_logit = 12 if config.logit_softcap is None else 20
    head = config.vocab_size * (min(n_tokens, passes.head_rows) * of_logit + 12 * config.d_model)
    copies = 2 * n_matmul_params(config) if passes.bfloat16 else 0
    return n_tokens * of_token + head + copies


def training_memory_bytes(config: GPTConfig, passes: Passes) -> int:
    """Estimates the memory that training takes: up to a fifth more than was seen (benchmarks/RESULTS.md)."""
    return state_bytes(config, muon=passes.muon) + round(1.15 * pass_bytes(config, passes)) + BYTES_AROUND
