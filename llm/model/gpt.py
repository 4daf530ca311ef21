"""A decoder-only transformer, read from top to bottom as part, block, whole.

One skeleton, two sets of parts. Both are models that other programs know, so every model made here can be exported
(export.py): `gpt2` is that of Radford et al. 2019, `modern` is Qwen3 (Yang et al. 2025).

               gpt2                                    modern
    position   learned, added to the embedding         RoPE: queries and keys turned, in every layer
    norm       LayerNorm                               RMSNorm, and one for the queries and keys of a head
    MLP        GELU between two matrices               SwiGLU: a third matrix opens and closes gates
    heads      each with keys and values of its own    groups of heads may share keys and values
    biases     in every layer                          none

Letters in shapes: B batch, T time (tokens given), S time including what a cache holds, C d_model, H heads, G heads of
keys and values, D head_dim, M d_mlp, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config, setting
from .presets import PRESETS

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of RoPE, (T, D / 2) both."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Config):
    """The shape of a GPT; with the weights, all that is needed to rebuild it. What may be left out is filled in."""

    architecture: Literal["gpt2", "modern"] = "gpt2"
    """Which parts the model is made of: see the top of this file."""
    vocab_size: int = setting(at_least=1)
    """Number of different tokens."""
    context_length: int = setting(at_least=1)
    """Most tokens the model can look back on, the newest included."""
    n_layers: int = setting(at_least=1)
    """Number of transformer blocks."""
    n_heads: int = setting(at_least=1)
    """Attention heads in a block."""
    n_kv_heads: int = setting(None, at_least=1)
    """Heads of keys and values in a block; n_heads / n_kv_heads query heads share each. Left out: n_heads."""
    d_model: int = setting(at_least=1)
    """Width: numbers that stand for one token between blocks."""
    head_dim: int = setting(None, at_least=1)
    """Width of one head. Left out: d_model / n_heads."""
    d_mlp: int = setting(None, at_least=1)
    """Width inside the MLP. Left out: 4 d_model; with three matrices 8/3 d_model, rounded up to a multiple of 64."""
    tied_head: bool = True
    """Whether the token embedding is also the head."""
    rope_theta: float = setting(10_000.0, at_least=1.0)
    """Of RoPE: the slowest pair of numbers turns by about 1 / rope_theta (in radians) from token to token."""
    norm_eps: float = setting(None, at_least=0.0)
    """Added to the mean square in norms, against division by zero. Left out: 1e-5 in gpt2, 1e-6 in modern."""
    dropout: float = setting(0.0, at_least=0.0, at_most=0.99)
    """Share of activations set to zero in training."""
    init_std: float = setting(0.02, at_least=1e-6)
    """Standard deviation of fresh weights."""

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> GPTConfig:
        """The shape that presets.py has under `name`, with other values for some fields.

        `GPTConfig.preset("30m", architecture="modern", vocab_size=4096)`. Raises ValueError for an unknown name.
        """
        if name not in PRESETS:
            near = "".join(f"; did you mean {match}?" for match in get_close_matches(name, PRESETS, n=1))
            raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}{near}")
        return cls(**{**PRESETS[name], **overrides})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("gpt2", "modern"):
            raise ValueError(f"architecture is {self.architecture!r}; allowed: 'gpt2', 'modern'")
        if self.d_model % self.n_heads and (self.head_dim is None or not self.is_modern):
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of n_heads, which is {self.n_heads}")
        follows = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.d_model // self.n_heads,
            "d_mlp": 64 * math.ceil(self.d_model / 24) if self.is_modern else 4 * self.d_model,
            "norm_eps": 1e-6 if self.is_modern else 1e-5,
        }
        for name, value in follows.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
            elif name in ("n_kv_heads", "head_dim") and not self.is_modern and getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)}; in gpt2 it can only be {value}: leave it out")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads is {self.n_kv_heads}; it must divide n_heads, which is {self.n_heads}")
        if self.is_modern and self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; RoPE turns pairs of numbers, so it must be even")

    @property
    def is_modern(self) -> bool:
        """Whether the architecture is `modern`."""
        return self.architecture == "modern"


class KeyValueCache:
    """Keys and values of tokens already read, so that the next token costs one token's work (see `GPT.forward`)."""

    def __init__(self, model: GPT, batch_size: int = 1) -> None:
        """An empty cache with room for `context_length` tokens in each of `batch_size` rows."""
        config = model.config
        shape = (config.n_layers, batch_size, config.n_kv_heads, config.context_length, config.head_dim)
        self.keys = model.token_embedding.weight.new_zeros(shape)  # (L, B, G, S, D)
        self.values = torch.zeros_like(self.keys)  # (L, B, G, S, D)
        self.n_tokens = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, G, T, D) keys and values of new tokens; returns those of all tokens so far, (B, G, S, D)."""
        end = self.n_tokens + keys.shape[2]
        self.keys[layer, :, :, self.n_tokens : end] = keys
        self.values[layer, :, :, self.n_tokens : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a learned weight, along the last axis (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x with a mean square of 1, times the weight; in the weight's precision, whatever autocast made of x."""
        x = x.to(self.weight.dtype)
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def make_norm(config: GPTConfig) -> nn.Module:
    """The norm of the residual stream; (B, T, C) to (B, T, C)."""
    kind = RMSNorm if config.is_modern else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps)


def rope_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """How far RoPE turns each pair of numbers of a head at each position, as cosines and sines, (T, D / 2) both.

    Pair i turns by theta^(-2i / D) from token to token (Su et al. 2021, equation 15): the first ones quickly, so that
    they tell near tokens apart, the last ones slowly. `positions` is (T,).
    """
    speeds = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=positions.device).to(dtype) / head_dim)  # (D/2,)
    angles = torch.outer(positions.to(dtype), speeds)  # (T, D/2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x (B, H, T, D) with its numbers i and i + D / 2 turned, as a point in the plane, for every i below D / 2.

    The product of a turned query and a turned key depends on how far apart they are, not on where.
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D/2) both
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)  # (B, H, T, D)
    return turned.to(x.dtype)


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(n_queries, n_keys) booleans, True where a token may look: at itself and at what came before.

    The queries are the last of the keys: with a cache there are more keys than queries.
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def share(x: Tensor, n_heads: int) -> Tensor:
    """Keys or values as each query head sees them, (B, G, S, D) to (B, H, S, D): neighbouring heads share (GQA)."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """How much each token takes from each it may see: softmax(Q K' / sqrt(D) + M), Vaswani et al. 2017, equation 1.

    (B, H, T, D) and (B, G, S, D) to (B, H, T, S); rows sum to 1. The form to read, and to draw.
    """
    allowed = causal_mask(query.shape[-2], key.shape[-2], query.device)  # (T, S)
    bias = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -math.inf)  # e^-inf = 0: no weight
    key = share(key, query.shape[1])  # (B, H, S, D)
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1) + bias  # (B, H, T, S)
    return torch.softmax(scores, dim=-1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(Q K' / sqrt(D) + M) V, (B, H, T, D): what each token gathers, as the formula says it."""
    return F.dropout(attention_weights(query, key), dropout) @ share(value, query.shape[1])


def fused_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """`plain_attention`, by a kernel that never stores the (T, S) weights."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    is_square, is_shared = n_queries == n_keys, query.shape[1] != key.shape[1]
    is_causal = is_square and n_queries > 1
    mask = None if is_square or n_queries == 1 else causal_mask(n_queries, n_keys, query.device)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, dropout_p=dropout, enable_gqa=is_shared
    )


MAX_LENGTH_OF_PLAIN_ATTENTION = 512
"""On a CPU the fused kernel's backward pass is slow for short sequences: with B = 8, T = 256, H = 4, D = 32 in bfloat16
both passes take 25 ms, in plain operations 16 (one core); at T = 1024 the fused one is twice as fast."""


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2): each token looks at those before it.

    In a modern model queries and keys are normed and turned, and heads may share keys (Ainslie et al. 2023).
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.dropout
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        has_bias = not config.is_modern
        self.query = nn.Linear(config.d_model, width, bias=has_bias)
        self.key = nn.Linear(config.d_model, kv_width, bias=has_bias)
        self.value = nn.Linear(config.d_model, kv_width, bias=has_bias)
        self.projection = nn.Linear(width, config.d_model, bias=has_bias)
        if config.is_modern:
            self.query_norm = RMSNorm(self.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(self.head_dim, config.norm_eps)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """What each token gathers from the tokens it may see; (B, T, C) to (B, T, C)."""
        query, key = self.query_and_key(x, rotation)  # (B, H, T, D), (B, G, T, D)
        value = self.split(self.value(x))  # (B, G, T, D)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)  # (B, G, S, D)
        is_short = key.shape[2] <= MAX_LENGTH_OF_PLAIN_ATTENTION
        attend = plain_attention if x.requires_grad and x.device.type == "cpu" and is_short else fused_attention
        gathered = attend(query, key, value, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.projection(gathered.transpose(1, 2).flatten(2))  # (B, T, C)

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """The attention weights of this layer, (B, T, C) to (B, H, T, T)."""
        return attention_weights(*self.query_and_key(x, rotation))

    def query_and_key(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """What each token looks for, (B, H, T, D), and what it is found by, (B, G, T, D)."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        if rotation is None:
            return query, key
        return rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation)

    def split(self, x: Tensor) -> Tensor:
        """Cuts the width into heads: (B, T, H D) to (B, H, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to each token alone: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.d_model, config.d_mlp)
        self.projection = nn.Linear(config.d_mlp, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """What each token makes of what it has gathered."""
        return self.projection(F.gelu(self.expand(x), approximate="tanh"))


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020): as `MLP`, but numbers are let through by gates instead of bent; (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_mlp, bias=False)
        self.expand = nn.Linear(config.d_model, config.d_mlp, bias=False)
        self.projection = nn.Linear(config.d_mlp, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What each token makes of what it has gathered."""
        return self.projection(F.silu(self.gate(x)) * self.expand(x))


class Block(nn.Module):
    """One layer: gather (attention), then think (MLP), each added to the residual stream: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = make_norm(config)
        self.attention = Attention(config, layer)
        self.norm_2 = make_norm(config)
        self.mlp = GatedMLP(config) if config.is_modern else MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after this layer."""
        x = x + self.dropout(self.attention(self.norm_1(x), rotation, cache))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Tokens in, for each of them the logits of the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        """A fresh model; its weights come from torch's global random generator."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if not config.is_modern:
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config)
        if not config.tied_head:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
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

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, (V, C): a token is likely where its row points the same way as the features.

        A tied head is the token embedding itself (Press and Wolf 2017).
        """
        return self.token_embedding.weight if self.config.tied_head else self.head.weight

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of each next token; (B, T) int64 to (B, T, V).

        With a cache, `tokens` continue the tokens that it holds, and are added to it. Raises ValueError when there are
        more tokens than the context can hold.
        """
        return F.linear(self.features(tokens, cache), self.head_weight)

    def features(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """What the model knows of each token before the head, (B, T) int64 to (B, T, C); see `forward`."""
        x, rotation = self.embed(tokens, 0 if cache is None else cache.n_tokens)  # (B, T, C)
        for block in self.blocks:
            x = block(x, rotation, cache)
        if cache is not None:
            cache.n_tokens += tokens.shape[1]
        return self.norm(x)

    def embed(self, tokens: Tensor, start: int = 0) -> tuple[Tensor, Rotation | None]:
        """What enters the first layer, (B, T) to (B, T, C), and how layers turn queries and keys (None: not at all).

        The first of `tokens` stands at position `start`.
        """
        config, end = self.config, start + tokens.shape[1]
        if end > config.context_length:
            raise ValueError(f"{end} tokens are more than context_length, which is {config.context_length}")
        positions = torch.arange(start, end, device=tokens.device)  # (T,)
        x = self.token_embedding(tokens)  # (B, T, C)
        if not config.is_modern:
            return self.dropout(x + self.position_embedding(positions)), None
        precision = torch.promote_types(x.dtype, torch.float32)  # in bfloat16 positions above 256 are rounded
        return self.dropout(x), rope_angles(positions, config.head_dim, config.rope_theta, precision)

    def attention_weights(self, tokens: Tensor) -> Iterator[Tensor]:
        """For each layer in turn, where each token looks: (B, T) int64 to L times (B, H, T, T)."""
        x, rotation = self.embed(tokens)
        for block in cast(Iterable[Block], self.blocks):
            yield block.attention.weights(block.norm_1(x), rotation)
            x = block(x, rotation)
