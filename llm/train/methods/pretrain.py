"""Pretraining: a fresh model or published weights, token shards, a loss on every token."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ...counts import Counts
from ...model.gpt import GPT
from ...model.hf_import import published_model
from ...model.published import published_files
from ...model.size import n_params
from ...tokenizer.tokenizer import Tokenizer
from ..compile import choose_compile, compiles, rough_seconds
from ..config import LoopConfig, PretrainConfig
from ..device import choose_dtype
from ..loader import files_digest
from ..loop import RunSpec
from ..loss import Objective
from ..memory import require_memory
from ..order import epochs_by_source
from ..parallel import World
from ..resolve import resolve
from ..shards import read_shards
from .start import Start

log = logging.getLogger(__name__)


def pretrain(
    shards_dir: Path,
    tokenizer_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: PretrainConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Trains a model from scratch, or from published weights on, and writes its artifact; counts the tokens trained on.

    Goes on from the checkpoints in `work_dir`. Raises ValueError when the shards hold too little, do not fit the
    settings, the model takes more memory than there is, or the loss diverges; `Stopped` when asked to stop.
    """
    world = World.join(config.loop)
    tokenizer = Tokenizer.load(tokenizer_dir)
    shards = read_shards(shards_dir, tokenizer_dir, config.mixture)
    context_length = shards.context_length
    n_tokens, published = len(shards.train) * context_length, published_start(config, tokenizer, context_length)
    resolved = resolve(config, shards.vocab_size, context_length, n_tokens, published.config if published else None)
    config, shape = resolved.config, resolved.model
    log.info("\n".join(["what follows from the size:", *resolved.lines()]))
    n_steps, batch_size = config.n_steps, sequences_per_step(config.batch_tokens, context_length)
    dtype = choose_dtype(config.loop, world.device)
    n_at_once = min(config.loop.micro_batch_size, batch_size // world.n_shares)
    as_trained = dataclasses.replace(shape, context_length=context_length)
    require_memory(as_trained, n_at_once, world, dtype, muon=config.optimizer.kind == "muon")
    torch.manual_seed(config.loop.seed)
    start = Start((published or GPT(shape)).to(world.device), tokenizer, tokenizer_dir, world, dtype)
    is_compiled = is_to_be_compiled(start.model, config.loop, world, dtype, n_steps, (batch_size, context_length))
    identity = start.identity("pretrain", shards.digest, config) | {"loop.compile": is_compiled}
    if config.start_from:
        identity["start_from"] = files_digest(published_files(Path(config.start_from)))  # wherever it is
    spec = RunSpec(
        train=shards.train,
        val=shards.val,
        n_steps=n_steps,
        batch_size=batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=dtype,
        prompts=[[tokenizer.document_token, *tokenizer.encode(text)] for text in config.sample_prompts],
        identity=identity,
        compiled_width=context_length if is_compiled else None,
    )
    progress = start.train(spec, work_dir, out_dir, should_stop)
    figures = progress.metrics() | {
        "n_params": n_params(shape),
        "n_epochs": n_steps * batch_size / len(shards.train),
    }
    epochs = epochs_by_source(shards.train.order, n_steps * batch_size)
    figures |= {f"n_epochs {source}": n_epochs for source, n_epochs in epochs.items()}
    if n_steps == 0:
        return Counts("parameters", n_params(shape), n_params(shape), {}, figures)
    return Counts("tokens", progress.n_tokens, progress.n_tokens, {}, figures)


def published_start(config: PretrainConfig, tokenizer: Tokenizer, context_length: int) -> GPT | None:
    """Loads the model of `config.start_from`, None without; ValueError when its context is shorter than the shards'."""
    if config.start_from is None:
        return None
    model = published_model(Path(config.start_from), tokenizer, dropout=config.model.dropout)
    if context_length > model.config.context_length:
        raise ValueError(
            f"the shards' context_length is {context_length}, but the model of start_from, {config.start_from}, reads "
            f"{model.config.context_length} tokens: set shard.context_length to that or less"
        )
    return model


def sequences_per_step(batch_tokens: int, context_length: int) -> int:
    """Returns the sequences that make up `batch_tokens`; raises ValueError when they do not divide evenly."""
    if batch_tokens % context_length:
        below = batch_tokens // context_length * context_length
        near = f"{below} or {below + context_length}" if below else f"{context_length}"
        raise ValueError(
            f"batch_tokens is {batch_tokens}; it must be a multiple of the shards' context_length, "
            f"{context_length}: try {near}"
        )
    return batch_tokens // context_length


def is_to_be_compiled(
    model: GPT, loop: LoopConfig, world: World, dtype: torch.dtype, n_steps: int, step: tuple[int, int]
) -> bool:
    """Returns whether steps (sequences, tokens in each) run as compiled code: worth it, and possible everywhere."""
    batch_size, context_length = step
    if not choose_compile(loop, world.device, rough_seconds(model.config, n_steps * batch_size * context_length)):
        return False
    sizes = micro_batch_sizes(batch_size // world.n_shares, loop.micro_batch_size)
    works = compiles(Objective(model, dtype), [(size, context_length) for size in sizes])
    return not world.any(not works)


def micro_batch_sizes(n_sequences: int, micro_batch_size: int) -> list[int]:
    """Returns the sizes of batches that `n_sequences` are cut into, each once."""
    sizes = {min(micro_batch_size, n_sequences), n_sequences % micro_batch_size}
    return sorted(sizes - {0})
