"""How large a model is, and what a training step costs, by arithmetic from its config.

Letters as in gpt.py: C d_model, H heads, G heads of keys and values, D head_dim, M d_mlp, V vocabulary, L layers, T
context length.
"""

from __future__ import annotations

from .gpt import GPTConfig

HEAD_ROWS = 1024
"""Tokens whose logits exist at one time in training (see llm/train/loss.py)."""


def n_params(config: GPTConfig) -> int:
    """Number of weights; an embedding that is also the head counts once."""
    return n_matmul_params(config) + n_lookup_params(config) + n_vector_params(config)


def n_matmul_params(config: GPTConfig) -> int:
    """Weights that every token is multiplied with: 2 C D (H + G) in attention, 2 C M or 3 C M in the MLP, V C after."""
    attention = 2 * config.d_model * config.head_dim * (config.n_heads + config.n_kv_heads)
    mlp = (3 if config.is_modern else 2) * config.d_model * config.d_mlp
    return config.n_layers * (attention + mlp) + config.vocab_size * config.d_model


def n_lookup_params(config: GPTConfig) -> int:
    """Weights of which every token takes one row: positions (T C, in gpt2), an embedding that is not the head (V C)."""
    n_rows = (0 if config.is_modern else config.context_length) + (0 if config.tied_head else config.vocab_size)
    return n_rows * config.d_model


def n_vector_params(config: GPTConfig) -> int:
    """Norms (2 C in a block and C at the end in modern, twice that in gpt2, and 2 D for QK norms) and biases."""
    if config.is_modern:
        return config.n_layers * (2 * config.d_model + 2 * config.head_dim) + config.d_model
    biases = 5 * config.d_model + config.d_mlp  # query, key, value, two projections; expand
    return config.n_layers * (4 * config.d_model + biases) + 2 * config.d_model


def flops_per_token(config: GPTConfig) -> int:
    """Floating-point operations to train on one token, forward and backward: 6 N + 12 L H D T.

    The convention of Chowdhery et al. 2022 (PaLM, appendix B): N counts the weights used in matrix products (so the
    head, but not the embeddings looked up), T is the context length, and the causal half of attention is not deducted.
    """
    attention_width = config.n_heads * config.head_dim
    return 6 * n_matmul_params(config) + 12 * config.n_layers * attention_width * config.context_length


def n_block_activations(config: GPTConfig) -> int:
    """Numbers that one block keeps of one token for the backward pass, a little more than torch was seen to keep.

    6 C + 2 D (H + G) + 2 M in gpt2. RMSNorm and RoPE, made of plain operations, and the gates of the MLP keep more of
    their inputs: 9 C + 4 D (H + G) + 4 M in modern.
    """
    residual, inside = (9, 4) if config.is_modern else (6, 2)
    attention_width = config.head_dim * (config.n_heads + config.n_kv_heads)
    return residual * config.d_model + inside * (attention_width + config.d_mlp)


def training_memory_bytes(config: GPTConfig, micro_batch_size: int) -> int:
    """An estimate of the memory that training in float32 with AdamW takes.

    Sixteen bytes a weight (weight, gradient, two moments), and for each token of a micro-batch the activations kept
    for the backward pass. The head works on `HEAD_ROWS` tokens at a time and takes 3 V for each (logits, their
    log-softmax, its gradient).
    """
    n_tokens = micro_batch_size * config.context_length
    n_activations = n_tokens * config.n_layers * n_block_activations(config)
    n_head_activations = min(n_tokens, HEAD_ROWS) * 3 * config.vocab_size
    return 16 * n_params(config) + 4 * (n_activations + n_head_activations)
