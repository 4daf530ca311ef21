"""Settings of pretraining, and of the optimizer and the loop that all methods share. No torch is imported here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..config import Config, identity, setting
from ..model.shape import Architecture


@dataclass(frozen=True, kw_only=True)
class ModelShape(Config):
    """The shape of the model. What is empty follows from `size`; vocabulary and context length come from the shards."""

    size: str = "demo"
    """Scaling preset: demo, 10m, 30m, gpt2-124m, gpt2-350m, gpt2-774m, gpt2-1.5b, modern-1b, or any number of
    parameters such as 50m or 1.3b. Shape, batch, learning rate and length of training follow from it where they are
    empty; `python -m flows plan` shows them, llm/train/resolve.py has the rules."""
    architecture: Architecture | None = None
    """Parts of the model: gpt2, modern (Qwen3: RoPE, RMSNorm, SwiGLU), or speedrun, which cannot be exported; see
    llm/model/gpt.py. Empty: the size's own, modern for a number of parameters."""
    n_layers: int | None = setting(None, at_least=1)
    """Number of transformer blocks; empty: the size's."""
    n_heads: int | None = setting(None, at_least=1)
    """Attention heads in a block; d_model must be a multiple of it. Empty: the size's, or heads of about 64."""
    n_kv_heads: int | None = setting(None, at_least=1)
    """Heads of keys and values, shared by n_heads / n_kv_heads query heads each; empty: the size's, or n_heads."""
    d_model: int | None = setting(None, at_least=1)
    """Width: numbers that stand for one token between blocks; empty: the size's."""
    head_dim: int | None = setting(None, at_least=1)
    """Width of one head; empty: d_model / n_heads."""
    d_mlp: int | None = setting(None, at_least=1)
    """Width inside the MLP; empty: the size's, or 4 d_model, in modern 8/3 d_model rounded up to a multiple of 64."""
    tied_head: bool = True
    """Whether the token embedding is also the head. A head of its own pays from about 100 million parameters on."""
    rope_theta: float | None = setting(None, at_least=1.0)
    """Slowest rotation of RoPE, 1 / rope_theta radians a token; empty: 10,000."""
    norm_eps: float | None = setting(None, at_least=0.0)
    """Added to the mean square in norms; empty: 1e-5 in gpt2, 1e-6 otherwise."""
    dropout: float = setting(0.0, at_least=0.0, at_most=0.99)
    """Share of activations set to zero in training (0 to 0.99)."""
    init_std: float | None = setting(None, at_least=1e-6)
    """Standard deviation of fresh weights; empty: from the width, 0.06 at 128, GPT-2's 0.02 at 768 and above."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """How gradients become updates, and how the learning rate changes from step to step; see llm/train/optimizer.py."""

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw for all weights, or muon for the matrices inside blocks and adamw for the rest."""
    learning_rate: float | None = setting(None, at_least=0.0)
    """Highest learning rate, per step; empty: from the model's width, in fine-tuning 0.001."""
    adamw_learning_rate: float | None = setting(None, at_least=0.0)
    """Highest learning rate of the weights that muon leaves to adamw (embeddings, head, norms, biases); empty: the
    same. It rises and falls with the other one."""
    min_learning_rate_ratio: float = setting(0.1, at_least=0.0, at_most=1.0)
    """Learning rate at the last step, as a share of the highest."""
    warmup_steps: int | None = setting(None, at_least=0)
    """Steps over which the learning rate grows from 0 to its highest; empty: a twentieth of all, at least 20, in
    fine-tuning 20."""
    schedule: Literal["wsd", "cosine", "linear"] = "wsd"
    """Shape after the warmup: wsd (constant, then a straight line down), cosine (half a cosine down), linear (down)."""
    decay_fraction: float = setting(0.5, at_least=0.0, at_most=1.0)
    """Share of all steps, at the end, over which wsd goes down."""
    weight_decay: float | None = setting(None, at_least=0.0)
    """Share of each matrix, times the learning rate, taken away at each step; biases and norms are left alone. Empty:
    0.1, with muon in pretraining 0.1 times 768 / d_model."""
    beta1: float = setting(0.9, at_least=0.0, at_most=0.9999)
    """Memory of AdamW's mean gradient (0 to 0.9999)."""
    beta2: float = setting(0.95, at_least=0.0, at_most=0.999999)
    """Memory of AdamW's mean squared gradient (0 to 0.999999)."""
    max_grad_norm: float | None = setting(1.0, at_least=1e-9)
    """Gradients with a larger norm are scaled down to it; empty: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adamw_learning_rate is not None and (self.kind != "muon" or self.learning_rate == 0):
            raise ValueError("adamw_learning_rate is for kind 'muon' with a learning_rate above 0; leave it out")

    def resolved(self, **rates: float) -> ResolvedOptimizer:
        """Returns the settings with those that are empty filled in from `rates`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ResolvedOptimizer(**values | {name: rate for name, rate in rates.items() if values[name] is None})


@dataclass(frozen=True, kw_only=True)
class ResolvedOptimizer(OptimizerConfig):
    """An `OptimizerConfig` in which nothing is left empty that follows from others."""

    learning_rate: float = setting(at_least=0.0)
    """Highest learning rate, per step."""
    warmup_steps: int = setting(at_least=0)
    """Steps over which the learning rate grows from 0 to its highest."""
    weight_decay: float = setting(at_least=0.0)
    """Share of each matrix, times the learning rate, taken away at each step."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Config):
    """How several processes share one training; see llm/train/parallel.py."""

    n_processes: int = setting(1, at_least=1)
    """Processes on this machine, each with a GPU or its share of the cores. Under torchrun its own options count."""
    strategy: Literal["ddp", "fsdp", "tensor"] = "ddp"
    """ddp: each process holds all weights; fsdp: weights, gradients and moments are sharded, gathered block by block;
    tensor: each process computes some heads and a part of each MLP. The first two share out a step's sequences."""
    reshard_after_forward: bool = True
    """For fsdp: give up the gathered weights between the forward and the backward pass (ZeRO-3); false: keep them,
    which takes more memory and fewer exchanges (ZeRO-2)."""
    recompute: bool = False
    """Keep only what enters each block and compute the rest again in the backward pass: less memory, a third more
    work. Works with one process too."""
    timeout_seconds: int = setting(600, at_least=1)
    """Longest wait for another process, after which training fails."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig(Config):
    """When a step of training is skipped, and what happens if that does not help; see llm/train/guard.py."""

    sigma: float | None = setting(6.0, at_least=1.0)
    """Steps are skipped whose loss, or logarithm of the gradient norm, is more than so many standard deviations above
    the mean of the last `window` steps; empty: only those whose loss or gradient norm is not finite."""
    window: int = setting(128, at_least=8)
    """Steps that mean and standard deviation are taken over; before half of them are there, a loss is only compared
    with the first."""
    max_skipped: int = setting(4, at_least=1)
    """Steps skipped in a row after which the run goes back to its last good checkpoint, and on with other batches."""
    max_rollbacks: int = setting(2, at_least=0)
    """Times to go back to the same checkpoint; after them training stops."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Config):
    """How training runs and what it reports on the way; the same for pretraining and fine-tuning."""

    micro_batch_size: int = setting(16, at_least=1)
    """Sequences in one forward and backward pass; a step accumulates the gradients of as many as it needs."""
    eval_every: int = setting(100, at_least=1)
    """Steps between measurements on held-out data."""
    n_eval_sequences: int = setting(128, at_least=1)
    """Held-out sequences used for a measurement, evenly spaced."""
    n_sample_tokens: int = setting(64, at_least=0)
    """Longest sample text, in tokens; 0: no samples."""
    checkpoint_every: int = setting(100, at_least=1, execution=True)
    """Steps between checkpoints, from which a killed run goes on; besides, there is one at each measurement."""
    n_checkpoints: int = setting(2, at_least=1, execution=True)
    """Newest checkpoints to keep; besides, the one with the lowest held-out loss stays, and the last good one."""
    checkpoint_in_background: bool | None = setting(None, execution=True)
    """Whether a thread writes checkpoints while training goes on, from a copy in memory; empty: on a GPU."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the model: those of the last step, or those with the lowest held-out loss."""
    guard: GuardConfig = GuardConfig()
    """Steps that are skipped: a loss or gradient norm that is not finite or far too large."""
    seed: int = setting(0, at_least=0)
    """Seed of the initial weights, the order of sequences, dropout and samples."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers used in matrix products; auto: bfloat16 on CUDA and on CPUs made for it, else float32."""
    compile: bool | None = None
    """Whether torch.compile makes code for this machine out of the step; empty: on a GPU, and on a CPU with a C++
    compiler if training takes longer than a minute. Such code rounds in other places, so it belongs to the result."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", execution=True)
    """Where to train; auto: on a GPU if there is one."""
    n_threads: int | None = setting(None, at_least=1, execution=True)
    """CPU threads of each process; empty: one a core, shared out among the processes."""
    parallel: ParallelConfig = setting(ParallelConfig(), execution=True)
    """How several processes share the training."""
    log_every: int = setting(10, at_least=1, execution=True)
    """Steps between lines with speed, memory and time left, unless a second has passed before."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Config):
    """Training on token shards, from scratch or not. The defaults, of size demo, take 3 minutes on two CPU cores."""

    start_from: str | None = setting(None, optional=True)
    """Directory with a published GPT-2 or Qwen3 in Hugging Face's layout (config.json, safetensors, tokenizer.json):
    training begins with its weights, shape and tokenizer; special tokens for chats are added. Empty: from scratch."""
    model: ModelShape = ModelShape()
    """Shape of the model; with start_from only dropout is free."""
    n_steps: int | None = setting(None, at_least=0)
    """Length of training, in optimizer steps; empty: from the size, 20 tokens a parameter but at most four epochs of
    the corpus (demo: 1,100). 0, with start_from: the weights are taken as they are."""
    batch_tokens: int | None = setting(None, at_least=1)
    """Tokens in a step, a multiple of the shards' context length; empty: from the length of training (demo: 2,048)."""
    mixture: dict[str, float] | None = None
    """How much of each source is read, as weights, `{"wiki": 3, "docs.python.org": 1}`; a source that is not named is
    not read, a small one is repeated. Needs shard.keep_sources_apart. Empty: every sequence once an epoch."""
    sample_prompts: tuple[str, ...] = ("The ",)
    """Starts of texts that the model continues at each measurement."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients."""
    loop: LoopConfig = LoopConfig()
    """Measurements, checkpoints, seed, device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_steps == 0 and self.start_from is None:
            raise ValueError("n_steps is 0; allowed: 1 or more, or 0 together with start_from")
        mixture = self.mixture
        if mixture is not None and not (mixture and all(0 < weight < math.inf for weight in mixture.values())):
            raise ValueError(f"mixture is {self.mixture}; allowed: empty, or sources with weights above 0")


@dataclass(frozen=True, kw_only=True)
class ResolvedPretrain(PretrainConfig):
    """A `PretrainConfig` in which nothing is left empty that follows from the size; see llm/train/resolve.py."""

    n_steps: int = setting(at_least=0)
    """Length of training, in optimizer steps."""
    batch_tokens: int = setting(at_least=1)
    """Tokens in a step."""
    optimizer: ResolvedOptimizer = setting()
    """How weights follow gradients."""


def result_settings(config: Config) -> dict[str, Any]:
    """Returns the settings that can change the result, nested ones by dotted names: `{"optimizer.beta1": 0.9, ...}`."""
    return dict(_dotted(identity(config), ""))


def _dotted(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
