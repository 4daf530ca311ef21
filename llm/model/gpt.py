"""A decoder-only transformer: GPT-2 (Radford et al. 2019), read from top to bottom as part, block, whole.

Letters in shapes: B batch, T time (tokens given), S time including what a cache holds, C d_model, H heads,
D head_dim = C / H, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config, setting


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Config):
    """The shape of a GPT; with the weights, all that is needed to rebuild it."""

    vocab_size: int = setting(at_least=1)
    """Number of different tokens."""
    context_length: int = setting(at_least=1)
    """Most tokens the model can look back on, the newest included."""
    n_layers: int = setting(at_least=1)
    """Number of transformer blocks."""
    n_heads: int = setting(at_least=1)
    """Attention heads in a block."""
    d_model: int = setting(at_least=1)
    """Width: numbers that stand for one token between blocks."""
    dropout: float = setting(0.0, at_least=0.0, at_most=0.99)
    """Share of activations set to zero in training."""
    init_std: float = setting(0.02, at_least=1e-6)
    """Standard deviation of fresh weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of n_heads, which is {self.n_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads


class KeyValueCache:
    """Keys and values of tokens already read, so that the next token costs one token's work (see `GPT.forward`)."""

    def __init__(self, model: GPT, batch_size: int = 1) -> None:
        """An empty cache with room for `context_length` tokens in each of `batch_size` rows."""
        config = model.config
        shape = (config.n_layers, batch_size, config.n_heads, config.context_length, config.head_dim)
        self.keys = model.token_embedding.weight.new_zeros(shape)  # (L, B, H, S, D)
        self.values = torch.zeros_like(self.keys)  # (L, B, H, S, D)
        self.n_tokens = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, H, T, D) keys and values of new tokens; returns those of all tokens so far, (B, H, S, D)."""
        end = self.n_tokens + keys.shape[2]
        self.keys[layer, :, :, self.n_tokens : end] = keys
        self.values[layer, :, :, self.n_tokens : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(n_queries, n_keys) booleans, True where a token may look: at itself and at what came before.

    The queries are the last of the keys: with a cache there are more keys than queries.
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """How much each token takes from each it may see: softmax(Q K' / sqrt(D)), Vaswani et al. 2017, equation 1.

    (B, H, T, D) and (B, H, S, D) to (B, H, T, S); rows sum to 1. The form to read, and to draw.
    """
    allowed = causal_mask(query.shape[-2], key.shape[-2], query.device)  # (T, S)
    bias = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -math.inf)  # e^-inf = 0: no weight
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1) + bias  # (B, H, T, S)
    return torch.softmax(scores, dim=-1)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """`attention_weights(query, key) @ value`, (B, H, T, D), by a kernel that never stores the (T, S) weights."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    is_square = n_queries == n_keys
    mask = None if is_square or n_queries == 1 else causal_mask(n_queries, n_keys, query.device)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_square and n_queries > 1, dropout_p=dropout
    )


MAX_LENGTH_OF_PLAIN_ATTENTION = 512
"""On a CPU the fused kernel's backward pass is slow for short sequences: with B = 8, T = 256, H = 4, D = 32 in bfloat16
both passes take 25 ms, in plain operations 16 (one core); at T = 1024 the fused one is twice as fast."""


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2): each token looks at those before it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.projection = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """What each token gathers from the tokens it may see; (B, T, C) to (B, T, C)."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)  # (B, H, S, D)
        dropout = self.dropout if self.training else 0.0
        if x.requires_grad and x.device.type == "cpu" and key.shape[2] <= MAX_LENGTH_OF_PLAIN_ATTENTION:
            gathered = F.dropout(attention_weights(query, key), dropout) @ value  # (B, H, T, D)
        else:
            gathered = fused_attention(query, key, value, dropout)  # (B, H, T, D)
        return self.projection(gathered.transpose(1, 2).flatten(2))  # (B, T, C)

    def weights(self, x: Tensor) -> Tensor:
        """The attention weights of this layer, (B, T, C) to (B, H, T, T)."""
        return attention_weights(self.split(self.query(x)), self.split(self.key(x)))

    def split(self, x: Tensor) -> Tensor:
        """Cuts the width into heads: (B, T, C) to (B, H, T, D)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to each token alone: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.d_model, 4 * config.d_model)
        self.projection = nn.Linear(4 * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """What each token makes of what it has gathered."""
        return self.projection(F.gelu(self.expand(x), approximate="tanh"))


class Block(nn.Module):
    """One layer: gather (attention), then think (MLP), each added to the residual stream: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.d_model)
        self.attention = Attention(config, layer)
        self.norm_2 = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after this layer."""
        x = x + self.dropout(self.attention(self.norm_1(x), cache))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Tokens in, for each of them the logits of the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        """A fresh model; its weights come from torch's global random generator."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.initialise()

    def initialise(self) -> None:
        """Weights from N(0, std), biases 0; the 2L projections onto the residual stream from N(0, std / sqrt(2L)).

        Each block adds to the residual stream twice; the smaller scale keeps its variance the same for any depth
        (Radford et al. 2019, section 2.3).
        """
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("projection.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layers))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of each next token; (B, T) int64 to (B, T, V).

        The embedding is also the head: a token is likely where its embedding points the same way as the features.
        With a cache, `tokens` continue the tokens that it holds, and are added to it. Raises ValueError when there are
        more tokens than the context can hold.
        """
        return F.linear(self.features(tokens, cache), self.token_embedding.weight)

    def features(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """What the model knows of each token before the head, (B, T) int64 to (B, T, C); see `forward`."""
        x = self.embed(tokens, 0 if cache is None else cache.n_tokens)  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.n_tokens += tokens.shape[1]
        return self.norm(x)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """What stands for each token before the first layer, (B, T) to (B, T, C): its kind plus its position."""
        end = start + tokens.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens are more than context_length, which is {self.config.context_length}")
        positions = torch.arange(start, end, device=tokens.device)  # (T,)
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))

    def attention_weights(self, tokens: Tensor) -> Iterator[Tensor]:
        """For each layer in turn, where each token looks: (B, T) int64 to L times (B, H, T, T)."""
        x = self.embed(tokens)
        for block in cast(Iterable[Block], self.blocks):
            yield block.attention.weights(block.norm_1(x))
            x = block(x)
