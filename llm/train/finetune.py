"""Supervised fine-tuning: a pretrained model, chats, only the assistant's words learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..counts import Counts
from ..files import sha256_file
from ..model.files import WEIGHTS_FILE, load_model
from ..model.gpt import GPT
from ..model.lora import adapted_layers, add_lora, merge, save_adapter
from ..tokenizer import TOKENIZER_FILE, Tokenizer
from .artifact import write_model_artifact
from .config import FinetuneConfig, LoraConfig, result_settings
from .device import choose_dtype
from .dial import resolved_finetune
from .examples import prompts, read_examples, write_shown
from .loader import files_digest
from .loop import Course, Trainer
from .memory import require_memory
from .parallel import World, whole_model
from .shards import Shards, read_shards


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
    config = resolved_finetune(config)
    world = World.join(config.loop)
    device = world.device
    tokenizer = Tokenizer.load(tokenizer_dir)
    require_same_tokenizer(base_dir, tokenizer_dir)
    model = load_model(base_dir, device)
    context_length = model.config.context_length
    shorten = config.too_long == "shorten"
    files = [examples_dir / f"{name}.parquet" for name in ("train", "val")]
    train, val = (read_examples(path, tokenizer, context_length, shorten=shorten) for path in files)
    dtype = choose_dtype(config.loop, device)
    n_at_once = min(config.loop.micro_batch_size, config.batch_size // world.n_shares)
    require_memory(model.config, n_at_once, world, dtype, muon=config.optimizer.kind == "muon")
    identity = finetune_identity(base_dir, files, config, dtype)
    sequences = train.sequences
    if config.replay:
        shards = shards_to_replay(shards_dir, tokenizer_dir, context_length)
        identity["replayed"] = shards.digest
        sequences = sequences.with_rows(shards.train, round(config.replay * len(sequences)))
    n_steps = config.n_steps or math.ceil(config.n_epochs * len(sequences) / config.batch_size)
    course = Course(
        train=sequences,
        val=val.sequences,
        n_steps=n_steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=dtype,
        prompts=prompts(val.chats, tokenizer, config.n_samples),
        identity=identity,
    )
    if world.is_first:
        write_shown(out_dir, tokenizer, train.sequences)
    torch.manual_seed(config.loop.seed)
    if config.lora:
        adapt(model, config.lora, world)
    progress = Trainer(model, tokenizer, course, work_dir, world).run(should_stop)
    finished = whole_model(model, world)
    if finished is not None:
        leave_adapter(finished, out_dir)
        write_model_artifact(out_dir, finished, tokenizer_dir, work_dir, identity, progress.samples)
    n_epochs = n_steps * config.batch_size / len(sequences)
    figures = progress.figures() | {"n_epochs": n_epochs, "n_tokens": progress.n_tokens}
    figures |= {"n_shortened": train.n_shortened} if shorten else {}
    n_kept = len(train.sequences)
    return Counts("examples", n_kept + sum(train.dropped.values()), n_kept, train.dropped, figures)


def finetune_identity(
    base_dir: Path, files: Sequence[Path], config: FinetuneConfig, dtype: torch.dtype
) -> dict[str, Any]:
    """What decides the result, as plain values; kept in checkpoints and in the model's config."""
    return {
        "kind": "finetune",
        "base": sha256_file(base_dir / WEIGHTS_FILE),
        "tokenizer": sha256_file(base_dir / TOKENIZER_FILE),
        "data": files_digest(files),
        **result_settings(config),
        "loop.precision": str(dtype)[6:],
    }


def shards_to_replay(shards_dir: Path | None, tokenizer_dir: Path, context_length: int) -> Shards:
    """The base model's training text; raises ValueError when it is not there or does not fit the model."""
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


def leave_adapter(model: GPT, out_dir: Path) -> None:
    """Writes the adapters of a model that has some, and adds them to its weights."""
    if adapted_layers(model):
        save_adapter(model, out_dir)
        merge(model)


def require_same_tokenizer(base_dir: Path, tokenizer_dir: Path) -> None:
    """Raises ValueError when the base model was trained with another tokenizer."""
    if sha256_file(base_dir / TOKENIZER_FILE) != sha256_file(tokenizer_dir / TOKENIZER_FILE):
        raise ValueError("the base model was trained with another tokenizer than the one given; use the model's own")
