"""The shape of a model. It needs no torch, so that a recipe can be checked in an instant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from ..config import Config, setting
from .presets import PRESETS

Architecture = Literal["gpt2", "modern", "speedrun"]


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Config):
    """The shape of a GPT; with the weights, all that is needed to rebuild it. What may be left out is filled in."""

    architecture: Architecture = "gpt2"
    """Which parts the model is made of: see the top of gpt.py."""
    vocab_size: int = setting(at_least=1)
    """Number of different tokens."""
    context_length: int = setting(at_least=1, at_most=2**24)
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
    """Width inside the MLP. Left out: 4 d_model; in modern (three matrices) 8/3 d_model, up to a multiple of 64."""
    tied_head: bool = True
    """Whether the token embedding is also the head."""
    rope_theta: float = setting(10_000.0, at_least=1.0)
    """Of RoPE: the slowest pair of numbers is rotated by about 1 / rope_theta (in radians) from token to token."""
    norm_eps: float = setting(None, at_least=0.0)
    """Added to the mean square in norms, against division by zero. Left out: 1e-5 in gpt2, 1e-6 otherwise."""
    dropout: float = setting(0.0, at_least=0.0, at_most=0.99)
    """Share of activations set to zero in training."""
    init_std: float = setting(0.02, at_least=1e-6)
    """Standard deviation of fresh weights."""

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> GPTConfig:
        """Returns the shape that presets.py has under `name`, with other values for some fields.

        `GPTConfig.preset("30m", architecture="modern", vocab_size=4096)`. Raises ValueError for an unknown name.
        """
        if name not in PRESETS:
            near = "".join(f"; did you mean {match}?" for match in get_close_matches(name, PRESETS, n=1))
            raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}{near}")
        return cls(**{**PRESETS[name], **overrides})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads and (self.head_dim is None or not self.is_modern):
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of n_heads, which is {self.n_heads}")
        follows = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.d_model // self.n_heads,
            "d_mlp": 64 * math.ceil(self.d_model / 24) if self.architecture == "modern" else 4 * self.d_model,
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
            raise ValueError(f"head_dim is {self.head_dim}; RoPE rotates pairs of numbers, so it must be even")

    @property
    def is_modern(self) -> bool:
        """Whether the model has RoPE, RMSNorm and no biases: `modern` and `speedrun` do."""
        return self.architecture != "gpt2"

    @property
    def is_speedrun(self) -> bool:
        """Whether the architecture is `speedrun`, which no other program knows."""
        return self.architecture == "speedrun"

    @property
    def logit_softcap(self) -> float | None:
        """The bound that logits are pressed below (see `soft_capped` in gpt.py); None: no bound."""
        return 20.0 if self.is_speedrun else None

    def has_value_embedding(self, layer: int) -> bool:
        """Returns whether a layer has value embeddings: in speedrun every other one, the last among them."""
        return self.is_speedrun and (self.n_layers - 1 - layer) % 2 == 0
