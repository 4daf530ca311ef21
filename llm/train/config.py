"""Settings of training: what is learned, how the optimizer steps, how the loop runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..config import Config, identity, setting


@dataclass(frozen=True, kw_only=True)
class ModelShape(Config):
    """The part of a model's shape that is free to choose; vocabulary and context length come from the shards."""

    architecture: Literal["gpt2", "modern"] = "gpt2"
    """Parts of the model: gpt2, or modern (Qwen3: RoPE, RMSNorm, SwiGLU); see llm/model/gpt.py."""
    n_layers: int = setting(4, at_least=1)
    """Number of transformer blocks."""
    n_heads: int = setting(4, at_least=1)
    """Attention heads in a block; d_model must be a multiple of it."""
    d_model: int = setting(128, at_least=1)
    """Width: numbers that stand for one token between blocks."""
    dropout: float = setting(0.0, at_least=0.0, at_most=0.99)
    """Share of activations set to zero in training (0 to 0.99)."""
    init_std: float = setting(0.02, at_least=1e-6)
    """Standard deviation of fresh weights. 0.02 is GPT-2's, for a width of 768 and more; narrow models learn faster
    from larger weights (0.06 at 128)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of n_heads, which is {self.n_heads}")
        if self.architecture not in ("gpt2", "modern"):
            raise ValueError(f"architecture is {self.architecture!r}; allowed: 'gpt2', 'modern'")
        if self.architecture == "modern" and self.d_model // self.n_heads % 2:
            raise ValueError(
                f"d_model / n_heads is {self.d_model // self.n_heads}; in a modern model it must be even, for RoPE"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019) and how its learning rate changes from step to step."""

    learning_rate: float = setting(3e-3, at_least=0.0)
    """Highest learning rate, per step."""
    min_learning_rate_ratio: float = setting(0.1, at_least=0.0, at_most=1.0)
    """Learning rate at the last step, as a share of the highest."""
    warmup_steps: int = setting(20, at_least=0)
    """Steps over which the learning rate grows from 0 to its highest."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """Shape after the warmup: wsd (constant, then a straight line down) or cosine (down along half a cosine)."""
    decay_fraction: float = setting(0.5, at_least=0.0, at_most=1.0)
    """Share of all steps, at the end, over which wsd goes down."""
    weight_decay: float = setting(0.1, at_least=0.0)
    """Share of each matrix, times the learning rate, taken away at each step; biases and norms are left alone."""
    beta1: float = setting(0.9, at_least=0.0, at_most=0.9999)
    """Memory of AdamW's mean gradient (0 to 0.9999)."""
    beta2: float = setting(0.95, at_least=0.0, at_most=0.999999)
    """Memory of AdamW's mean squared gradient (0 to 0.999999)."""
    max_grad_norm: float | None = setting(1.0, at_least=1e-9)
    """Gradients with a larger norm are scaled down to it; null: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in ("wsd", "cosine"):
            raise ValueError(f"schedule is {self.schedule!r}; allowed: 'wsd', 'cosine'")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Config):
    """How training runs and what it reports on the way; the same for pretraining and fine-tuning."""

    micro_batch_size: int = setting(16, at_least=1)
    """Sequences in one forward and backward pass; a step adds up as many passes as it needs."""
    eval_every: int = setting(100, at_least=1)
    """Steps between measurements on held-out data."""
    n_eval_sequences: int = setting(128, at_least=1)
    """Held-out sequences used for a measurement, evenly spaced."""
    n_sample_tokens: int = setting(64, at_least=0)
    """Longest sample text, in tokens; 0: no samples."""
    checkpoint_every: int = setting(100, at_least=1, execution=True)
    """Steps between checkpoints, from which a killed run goes on."""
    seed: int = setting(0, at_least=0)
    """Seed of the initial weights, the order of sequences, dropout and samples."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers used in matrix products; auto: bfloat16 on CUDA and on CPUs made for it, else float32."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", execution=True)
    """Where to train; auto: on a GPU if there is one."""
    n_threads: int | None = setting(None, at_least=1, execution=True)
    """CPU threads; null: one a core."""
    log_every: int = setting(10, at_least=1, execution=True)
    """Steps between progress lines, unless a second has passed before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; allowed: 'auto', 'float32', 'bfloat16'")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; allowed: 'auto', 'cpu', 'cuda'")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Config):
    """Training from scratch on token shards. The defaults take about two minutes on two CPU cores."""

    model: ModelShape = ModelShape()
    """Shape of the model."""
    n_steps: int = setting(336, at_least=1)
    """Length of training, in optimizer steps."""
    batch_tokens: int = setting(4096, at_least=1)
    """Tokens in a step; a multiple of the shards' context length."""
    sample_prompts: tuple[str, ...] = ("The ",)
    """Starts of texts that the model goes on from at each measurement."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients."""
    loop: LoopConfig = LoopConfig()
    """Measurements, checkpoints, seed, device."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """Supervised fine-tuning of a pretrained model on chats; only what the assistant says is learned."""

    n_epochs: int = setting(3, at_least=1)
    """Length of training, in passes over the examples; the last step may start another pass to be full."""
    n_steps: int | None = setting(None, at_least=1)
    """Length of training in optimizer steps; null: from n_epochs."""
    batch_size: int = setting(32, at_least=1)
    """Examples in a step."""
    n_samples: int = setting(3, at_least=0)
    """Held-out questions that the model answers at each measurement."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)
    """How weights follow gradients."""
    loop: LoopConfig = LoopConfig(micro_batch_size=8)
    """Measurements, checkpoints, seed, device."""


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that can change the result, nested ones under dotted names: `{"optimizer.beta1": 0.9, ...}`."""
    return dict(_dotted(identity(config), ""))


def _dotted(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
