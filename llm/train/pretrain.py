"""Pretraining: a fresh model, token shards, every token learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..counts import Counts
from ..model.gpt import GPT, GPTConfig
from ..model.size import n_params
from ..tokenizer import Tokenizer
from .artifact import write_model_artifact
from .config import PretrainConfig, result_settings
from .device import choose_device, choose_dtype
from .loader import Shards, read_shards
from .loop import Course, Trainer


def pretrain(
    shards_dir: Path,
    tokenizer_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: PretrainConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Trains a model from scratch and writes its artifact; counts the tokens trained on.

    Goes on from the checkpoints in `work_dir`. Raises ValueError when the shards hold too little, do not fit the
    settings, or the loss diverges; `Stopped` when asked to stop.
    """
    device = choose_device(config.loop)
    tokenizer = Tokenizer.load(tokenizer_dir)
    shards = read_shards(shards_dir, tokenizer_dir)
    batch_size = sequences_per_step(config.batch_tokens, shards.context_length)
    torch.manual_seed(config.loop.seed)
    shape = GPTConfig(vocab_size=shards.vocab_size, context_length=shards.context_length, **asdict(config.model))
    model = GPT(shape).to(device)
    dtype = choose_dtype(config.loop, device)
    identity = pretrain_identity(config, shards, dtype)
    course = Course(
        train=shards.train,
        val=shards.val,
        n_steps=config.n_steps,
        batch_size=batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=dtype,
        prompts=[[tokenizer.document_token, *tokenizer.encode(text)] for text in config.sample_prompts],
        identity=identity,
    )
    progress = Trainer(model, tokenizer, course, work_dir).run(should_stop)
    write_model_artifact(out_dir, model, tokenizer_dir, work_dir, identity, progress.samples)
    figures = progress.figures() | {
        "n_params": n_params(shape),
        "n_epochs": config.n_steps * batch_size / len(shards.train),
    }
    return Counts("tokens", progress.n_tokens, progress.n_tokens, {}, figures)


def sequences_per_step(batch_tokens: int, context_length: int) -> int:
    """Sequences that make up `batch_tokens`; raises ValueError when they do not divide evenly."""
    if batch_tokens % context_length:
        below = batch_tokens // context_length * context_length
        near = f"{below} or {below + context_length}" if below else f"{context_length}"
        raise ValueError(
            f"batch_tokens is {batch_tokens}; it must be a multiple of the shards' context_length, "
            f"{context_length}: try {near}"
        )
    return batch_tokens // context_length


def pretrain_identity(config: PretrainConfig, shards: Shards, dtype: torch.dtype) -> dict[str, Any]:
    """What decides the result, as plain values; kept in checkpoints and in the model's config."""
    return {"kind": "pretrain", "data": shards.digest, **result_settings(config), "loop.precision": str(dtype)[6:]}
