"""How large a model is, and what a training step costs, by arithmetic from its config."""

from __future__ import annotations

from .gpt import GPTConfig

HEAD_ROWS = 1024
"""Tokens whose logits exist at one time in training (see llm/train/loss.py)."""


def n_params(config: GPTConfig) -> int:
    """Number of weights; the token embedding is also the head and counts once."""
    return n_matmul_params(config) + config.context_length * config.d_model + n_vector_params(config)


def n_matmul_params(config: GPTConfig) -> int:
    """Weights that every token is multiplied with: 12 C^2 in a block (4 attention, 8 MLP) and the head's V C."""
    return 12 * config.n_layers * config.d_model**2 + config.vocab_size * config.d_model


def n_vector_params(config: GPTConfig) -> int:
    """Biases (9 C in a block) and layer norms (4 C in a block, 2 C at the end)."""
    return (13 * config.n_layers + 2) * config.d_model


def flops_per_token(config: GPTConfig) -> int:
    """Floating-point operations to train on one token, forward and backward: 6 N + 12 L C T.

    The convention of Chowdhery et al. 2022 (PaLM, appendix B): N counts the weights used in matrix products (so the
    head, but not the embeddings looked up), T is the context length, and the causal half of attention is not deducted.
    """
    return 6 * n_matmul_params(config) + 12 * config.n_layers * config.d_model * config.context_length


def training_memory_bytes(config: GPTConfig, micro_batch_size: int) -> int:
    """An estimate of the memory that training in float32 with AdamW takes.

    Sixteen bytes a weight (weight, gradient, two moments), and for each token of a micro-batch the activations kept
    for the backward pass: about 18 C in a block. The head works on `HEAD_ROWS` tokens at a time and takes 3 V for each
    (logits, their log-softmax, its gradient).
    """
    n_tokens = micro_batch_size * config.context_length
    n_activations = n_tokens * 18 * config.n_layers * config.d_model
    n_head_activations = min(n_tokens, HEAD_ROWS) * 3 * config.vocab_size
    return 16 * n_params(config) + 4 * (n_activations + n_head_activations)
