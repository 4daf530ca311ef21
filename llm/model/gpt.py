"""A decoder-only transformer, read from top to bottom as part, block, whole.

One skeleton, three sets of parts. `gpt2` (Radford et al. 2019) and `modern` (Qwen3, Yang et al. 2025) are models that
other programs know, so they can be exported (export.py). `speedrun` is what contests of training speed have found; no
other program knows it, and it stays here. Its parts are those of `modern` where the table says nothing else.

               gpt2                             modern                              speedrun
    position   learned, added to the embedding  RoPE: queries, keys rotated
    norm       LayerNorm                        RMSNorm; queries and keys as well
    MLP        GELU between two matrices        SwiGLU: a third one has the gates   squared ReLU between two matrices
    heads      keys and values of their own     may share keys and values
    values     made from the stream             made from the stream                and learned, token by token
    biases     in every layer                   none
    stream     from layer to layer              from layer to layer                 weighed anew with the embedding
    logits     as they are                      as they are                         pressed below a bound

Letters in shapes: B batch, T time (tokens given), S time including what a cache holds, C d_model, H heads, G heads of
keys and values, D head_dim, M d_mlp, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shape import GPTConfig as GPTConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of RoPE, (T, D / 2) both; (B, 1, T, D / 2) where rows have positions of their own."""


@dataclass(frozen=True)
class Layout:
    """Where tokens stand and what they see in rows that are not one text each: texts that share their beginnings."""

    positions: Tensor
    """Position of each token in its text, (B, T) int64."""
    visible: Tensor
    """Whether a token (third axis) may look at another (last axis), (B, 1, T, T) booleans."""


class KeyValueCache:
    """Keys and values of tokens already read, so that the next token costs one token's work (see `GPT.forward`)."""

    def __init__(self, model: GPT, batch_size: int = 1) -> None:
        """Makes an empty cache with room for `context_length` tokens in each of `batch_size` rows."""
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
        """Returns x with a mean square of 1, times the weight; in the weight's precision, whatever autocast made."""
        x = x.to(self.weight.dtype)
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def make_norm(config: GPTConfig) -> nn.Module:
    """Returns the norm of the residual stream; (B, T, C) to (B, T, C)."""
    kind = RMSNorm if config.is_modern else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps)


def rope_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Returns cosines and sines of the angles by which RoPE rotates each pair of a head at each position, (T, D / 2).

    Pair i is rotated by theta^(-2i / D) from token to token (Su et al. 2021, equation 15): the first ones quickly, to
    tell near tokens apart, the last ones slowly. `positions` is (T,), or (B, 1, T), and then so are the angles.
    """
    speeds = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=positions.device).to(dtype) / head_dim)  # (D/2,)
    angles = positions.to(dtype)[..., None] * speeds  # (T, D/2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates the numbers i and i + D / 2 of x (B, H, T, D), as a point in the plane, for every i below D / 2.

    The product of a rotated query and a rotated key depends on how far apart they are, not on where.
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D/2) both
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)  # (B, H, T, D)
    return rotated.to(x.dtype)


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """Returns (n_queries, n_keys) booleans, True where a token may look: at itself and at what came before.

    The queries are the last of the keys: with a cache there are more keys than queries.
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def share(x: Tensor, n_heads: int) -> Tensor:
    """Repeats keys or values for the query heads that share them (GQA), (B, G, S, D) to (B, H, S, D)."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def attention_weights(query: Tensor, key: Tensor, visible: Tensor | None = None) -> Tensor:
    """Returns the weights of attention: softmax(Q K' / sqrt(D) + M), Vaswani et al. 2017, equation 1.

    (B, H, T, D) and (B, G, S, D) to (B, H, T, S); rows sum to 1. `visible` replaces the causal mask. The form to read,
    and to draw.
    """
    allowed = causal_mask(query.shape[-2], key.shape[-2], query.device) if visible is None else visible  # (..., T, S)
    bias = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -math.inf)  # e^-inf = 0: no weight
    key = share(key, query.shape[1])  # (B, H, S, D)
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1) + bias  # (B, H, T, S)
    return torch.softmax(scores, dim=-1)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, visible: Tensor | None = None
) -> Tensor:
    """Returns softmax(Q K' / sqrt(D) + M) V, (B, H, T, D): what each token gathers, as the formula says it."""
    return F.dropout(attention_weights(query, key, visible), dropout) @ share(value, query.shape[1])


def attention_in_pieces(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, visible: Tensor | None = None
) -> Tensor:
    """Computes `plain_attention` for `PIECE` queries at a time: keys after a piece are hidden from it, so are left out.

    Of the (T, S) weights a quarter is never computed at T = 256, nearly half at larger T.
    """
    n_before = key.shape[2] - query.shape[2]  # keys that a cache holds
    pieces = []
    for start in range(0, query.shape[2], PIECE):
        queries, end = slice(start, start + PIECE), n_before + start + PIECE
        seen = None if visible is None else visible[:, :, queries, :end]
        pieces.append(plain_attention(query[:, :, queries], key[:, :, :end], value[:, :, :end], dropout, seen))
    return torch.cat(pieces, dim=2)  # (B, H, T, D)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, visible: Tensor | None = None
) -> Tensor:
    """Computes `plain_attention` by a kernel that never stores the weights; `visible` replaces the causal mask."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    is_square, is_shared = n_queries == n_keys, query.shape[1] != key.shape[1]
    is_causal = is_square and n_queries > 1 and visible is None
    mask = visible
    if visible is None and not is_square and n_queries > 1:
        mask = causal_mask(n_queries, n_keys, query.device)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, dropout_p=dropout, enable_gqa=is_shared
    )


PIECE = 128
MAX_LENGTH_OF_PLAIN_ATTENTION = 512
"""On a CPU the fused kernel's backward pass is slow for short sequences: with B = 16, T = 256, H = 4, D = 32 in
bfloat16 both passes take 50 ms, in plain operations 30, in pieces 22 (one core); at T = 1024 it is the fastest."""


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2): each token looks at those before it.

    With RoPE queries and keys are normed and rotated, and heads may share keys (Ainslie et al. 2023).
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

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
        token_values: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Returns what each token gathers from the tokens it may see; (B, T, C) to (B, T, C).

        `token_values` (B, T, G D) are added to what tokens have to give; `visible` is that of a `Layout`.
        """
        query, key = self.query_and_key(x, rotation)  # (B, H, T, D), (B, G, T, D)
        value = self.value(x) if token_values is None else self.value(x) + token_values  # (B, T, G D)
        value = self.split(value)  # (B, G, T, D)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)  # (B, G, S, D)
        dropout = self.dropout if self.training else 0.0
        is_short = key.shape[2] <= MAX_LENGTH_OF_PLAIN_ATTENTION
        if x.requires_grad and x.device.type == "cpu" and is_short:
            gathered = attention_in_pieces(query, key, value, dropout, visible)  # (B, H, T, D)
        else:
            gathered = fused_attention(query, key, value, dropout, visible)  # (B, H, T, D)
        return self.projection(gathered.transpose(1, 2).flatten(2))  # (B, T, C)

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Returns the attention weights of this layer, (B, T, C) to (B, H, T, T)."""
        return attention_weights(*self.query_and_key(x, rotation))

    def query_and_key(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """Returns what each token looks for, (B, H, T, D), and what it is found by, (B, G, T, D)."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        if rotation is None:
            return query, key
        return rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation)

    def split(self, x: Tensor) -> Tensor:
        """Cuts the width into heads: (B, T, H D) to (B, H, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with an activation between them, applied to each token alone: (B, T, C) to (B, T, C).

    The activation is GELU (Hendrycks and Gimpel 2016), in speedrun max(0, x)^2 (So et al. 2021, Primer).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.is_squared = config.is_speedrun
        self.expand = nn.Linear(config.d_model, config.d_mlp, bias=not config.is_modern)
        self.projection = nn.Linear(config.d_mlp, config.d_model, bias=not config.is_modern)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what each token makes of what it has gathered."""
        x = self.expand(x)  # (B, T, M)
        return self.projection(F.relu(x).square() if self.is_squared else F.gelu(x, approximate="tanh"))


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020): as `MLP`, but with gates instead of an activation; (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_mlp, bias=False)
        self.expand = nn.Linear(config.d_model, config.d_mlp, bias=False)
        self.projection = nn.Linear(config.d_mlp, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what each token makes of what it has gathered."""
        return self.projection(F.silu(self.gate(x)) * self.expand(x))


class Block(nn.Module):
    """One layer: gather (attention), then think (MLP), each added to the residual stream: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = make_norm(config)
        self.attention = Attention(config, layer)
        self.norm_2 = make_norm(config)
        self.mlp = GatedMLP(config) if config.architecture == "modern" else MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
        token_values: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Returns the residual stream after this layer."""
        x = x + self.dropout(self.attention(self.norm_1(x), rotation, cache, token_values, visible))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class Shortcuts(nn.Module):
    """What the layers of `speedrun` get past the layers below them: the token itself, which these may have lost.

    Its embedding is mixed into the stream before each layer, in learned shares, and in every other layer it has values
    that attention hands on (both from Jordan et al. 2024, modded-nanogpt; the latter after Zhou et al. 2024).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.of_stream = nn.Parameter(torch.ones(config.n_layers))
        self.of_embedding = nn.Parameter(torch.zeros(config.n_layers))
        layers = [layer for layer in range(config.n_layers) if config.has_value_embedding(layer)]
        kv_width = config.n_kv_heads * config.head_dim
        self.values = nn.ModuleDict({str(layer): nn.Embedding(config.vocab_size, kv_width) for layer in layers})

    def forward(self, layer: int, x: Tensor, embedded: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns what enters a layer, (B, T, C), and the values of its tokens, (B, T, G D) or None.

        `x` is the stream so far, `embedded` what it was before the first layer, (B, T, C) both; `tokens` is (B, T).
        """
        mixed = self.of_stream[layer] * x + self.of_embedding[layer] * embedded
        return mixed, self.values[str(layer)](tokens) if str(layer) in self.values else None


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """Returns cap tanh(logits / cap), between -cap and cap (Gemma Team 2024, section 2); None: the logits."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


class GPT(nn.Module):
    """Tokens in, for each of them the logits of the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        """Makes a model; its initial weights come from torch's global random generator."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if not config.is_modern:
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        if config.is_speedrun:
            self.shortcuts = Shortcuts(config)
        self.norm = make_norm(config)
        if not config.tied_head:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Draws weights from N(0, std), the 2L residual projections from N(0, std / sqrt(2L)); sets biases to 0.

        Each block adds to the residual stream twice; the smaller scale keeps its variance the same for any depth
        (Radford et al. 2019, section 2.3). In speedrun a head of its own is 0: at first all tokens are alike.
        """
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or (name == "head.weight" and self.config.is_speedrun):
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
        """Returns logits of each next token; (B, T) int64 to (B, T, V).

        With a cache, `tokens` continue the tokens that it holds, and are added to it. Raises ValueError when there are
        more tokens than the context can hold.
        """
        return self.logits(self.features(tokens, cache))

    def logits(self, features: Tensor) -> Tensor:
        """Returns logits of the next token out of `features`, (..., C) to (..., V)."""
        return soft_capped(F.linear(features, self.head_weight), self.config.logit_softcap)

    def features(self, tokens: Tensor, cache: KeyValueCache | None = None, layout: Layout | None = None) -> Tensor:
        """Returns what the model knows of each token before the head, (B, T) int64 to (B, T, C); see `forward`.

        With a layout (and no cache) rows may be longer than the context, if no position is.
        """
        start, positions = 0 if cache is None else cache.n_tokens, None if layout is None else layout.positions
        embedded, rotation = self.embed(tokens, start, positions)  # (B, T, C)
        visible = None if layout is None else layout.visible
        x = embedded
        for layer, block in enumerate(self.blocks):
            x, token_values = self.enter(layer, x, embedded, tokens)
            x = block(x, rotation, cache, token_values, visible)
        if cache is not None:
            cache.n_tokens += tokens.shape[1]
        return self.norm(x)

    def embed(self, tokens: Tensor, start: int = 0, positions: Tensor | None = None) -> tuple[Tensor, Rotation | None]:
        """Returns what enters the first layer, (B, T) to (B, T, C), and the rotation of queries and keys (None: none).

        The first of `tokens` stands at position `start`, unless each has a position of its own, (B, T).
        """
        config, end = self.config, start + tokens.shape[1]
        if positions is None:
            if end > config.context_length:
                raise ValueError(f"{end} tokens are more than context_length, which is {config.context_length}")
            positions = torch.arange(start, end, device=tokens.device)  # (T,)
        x = self.token_embedding(tokens)  # (B, T, C)
        if not config.is_modern:
            return self.dropout(x + self.position_embedding(positions)), None
        precision = torch.promote_types(x.dtype, torch.float32)  # in bfloat16 positions above 256 are rounded
        of_heads = positions if positions.ndim == 1 else positions[:, None]  # (T,) or (B, 1, T)
        return self.dropout(x), rope_angles(of_heads, config.head_dim, config.rope_theta, precision)

    def enter(self, layer: int, x: Tensor, embedded: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns what enters a layer: the stream `x` as it is, or what `Shortcuts` make of it."""
        return self.shortcuts(layer, x, embedded, tokens) if self.config.is_speedrun else (x, None)

    def attention_weights(self, tokens: Tensor) -> Iterator[Tensor]:
        """Yields for each layer in turn, where each token looks: (B, T) int64 to L times (B, H, T, T)."""
        embedded, rotation = self.embed(tokens)
        x = embedded
        for layer, block in enumerate(cast(Iterable[Block], self.blocks)):
            x, token_values = self.enter(layer, x, embedded, tokens)
            yield block.attention.weights(block.norm_1(x), rotation)
            x = block(x, rotation, None, token_values)
