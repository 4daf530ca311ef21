"""Supervised fine-tuning: a pretrained model, chats, only the assistant's words learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...counts import Counts
from ...files import sha256_file
from ...model.gpt import GPT
from ...model.lora import adapted_layers, add_lora, merge, save_adapter
from ...tokenizer.tokenizer import TOKENIZER_FILE
from ..loader import files_digest
from ..loop import RunSpec
from ..parallel import World
from ..shards import Shards, read_shards
from .config import FinetuneConfig, LoraConfig
from .examples import prompts, read_examples, write_shown
from .start import Start


def finetune(
    base_dir: Path,
    examples_dir: Path,
    tokenizer_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: FinetuneConfig,
    should_stop: Callable[[], bool] = lambda: False,
    shards_dir: Path | None = None,
) -> Counts:
    """Trains a pretrained model on chats and writes its artifact; counts the examples.

    Goes on from the checkpoints in `work_dir`. Raises ValueError when no example fits, when model and tokenizer do
    not belong together, or when the loss diverges; `Stopped` when asked to stop.
    """
    optimizer = config.optimizer.resolved(learning_rate=1e-3, warmup_steps=20, weight_decay=0.1)
    config = replace(config, optimizer=optimizer)
    if sha256_file(base_dir / TOKENIZER_FILE) != sha256_file(tokenizer_dir / TOKENIZER_FILE):
        raise ValueError("the base model was trained with another tokenizer than the one given; use the model's own")
    start = Start.of(base_dir, config.loop, tokenizer_dir, dropout=True)
    start.require_memory(min(config.loop.micro_batch_size, config.batch_size // start.world.n_shares), optimizer)
    context_length, shorten = start.model.config.context_length, config.too_long == "shorten"
    files = [examples_dir / f"{name}.parquet" for name in ("train", "val")]
    train, val = (read_examples(path, start.tokenizer, context_length, shorten=shorten) for path in files)
    identity = start.identity("finetune", files_digest(files), config)
    sequences = train.sequences
    if config.replay:
        shards = shards_to_replay(shards_dir, tokenizer_dir, context_length)
        identity["replayed"] = shards.digest
        sequences = sequences.with_rows(shards.train, round(config.replay * len(sequences)))
    n_steps = config.n_steps or math.ceil(config.n_epochs * len(sequences) / config.batch_size)
    spec = RunSpec(
        train=sequences,
        val=val.sequences,
        n_steps=n_steps,
        batch_size=config.batch_size,
        optimizer=optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=prompts(val.chats, start.tokenizer, config.n_samples),
        identity=identity,
    )
    if start.world.is_first:
        write_shown(out_dir, start.tokenizer, train.sequences)
    if config.lora:
        adapt(start.model, config.lora, start.world)
    progress = start.train(spec, work_dir, out_dir, should_stop, lambda model: save_and_merge(model, out_dir, base_dir))
    n_epochs = n_steps * config.batch_size / len(sequences)
    figures = progress.metrics() | {"n_epochs": n_epochs, "n_tokens": progress.n_tokens}
    figures |= {"n_shortened": train.n_shortened} if shorten else {}
    n_kept = len(train.sequences)
    return Counts("examples", n_kept + sum(train.dropped.values()), n_kept, train.dropped, figures)


def shards_to_replay(shards_dir: Path | None, tokenizer_dir: Path, context_length: int) -> Shards:
    """Returns the base model's training text; raises ValueError when it is not there or does not fit the model."""
    if shards_dir is None:
        raise ValueError("replay is above 0, but there are no shards to replay: set finetune.replay to 0")
    shards = read_shards(shards_dir, tokenizer_dir)
    if shards.context_length > context_length:
        raise ValueError(
            f"the shards' sequences have {shards.context_length} tokens, and the model's context is {context_length}: "
            "set finetune.replay to 0, or build the shards for this model"
        )
    return shards


def adapt(model: GPT, lora: LoraConfig, world: World) -> None:
    """Gives a model adapters; ValueError where these cannot be trained."""
    if world.size > 1 and world.config.strategy != "ddp":
        raise ValueError(f"lora is set and parallel.strategy is {world.config.strategy!r}: use 'ddp'")
    add_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, embeddings=lora.embeddings)


def save_and_merge(model: GPT, out_dir: Path, base_dir: Path) -> None:
    """Writes the adapters of a model that has some, and adds them to its weights.

    They name their base as the store does, `pretrain-649889fd...`: where `python -m flows export` has written that name
    under itself, peft finds it.
    """
    if adapted_layers(model):
        save_adapter(model, out_dir, f"{base_dir.parent.name}-{base_dir.name}")
        merge(model)
