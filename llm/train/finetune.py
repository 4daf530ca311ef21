"""Supervised fine-tuning: a pretrained model, chats, only the assistant's words learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..counts import Counts
from ..files import sha256_file
from ..model.files import WEIGHTS_FILE, load_model
from ..tokenizer import TOKENIZER_FILE, Tokenizer
from .artifact import write_model_artifact
from .config import FinetuneConfig, result_settings
from .device import choose_dtype
from .dial import resolved_finetune
from .examples import prompts, read_examples
from .loader import files_digest
from .loop import Course, Trainer
from .memory import require_memory
from .parallel import World, whole_model


def finetune(
    base_dir: Path,
    examples_dir: Path,
    tokenizer_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: FinetuneConfig,
    should_stop: Callable[[], bool] = lambda: False,
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
    train = read_examples(examples_dir / "train.parquet", tokenizer, context_length)
    val = read_examples(examples_dir / "val.parquet", tokenizer, context_length)
    dtype = choose_dtype(config.loop, device)
    n_at_once = min(config.loop.micro_batch_size, config.batch_size // world.n_shares)
    require_memory(model.config, n_at_once, world, dtype, muon=config.optimizer.kind == "muon")
    n_steps = config.n_steps or math.ceil(config.n_epochs * len(train.sequences) / config.batch_size)
    identity = {
        "kind": "finetune",
        "base": sha256_file(base_dir / WEIGHTS_FILE),
        "tokenizer": sha256_file(tokenizer_dir / TOKENIZER_FILE),
        "data": files_digest([examples_dir / "train.parquet", examples_dir / "val.parquet"]),
        **result_settings(config),
        "loop.precision": str(dtype)[6:],
    }
    course = Course(
        train=train.sequences,
        val=val.sequences,
        n_steps=n_steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=dtype,
        prompts=prompts(val.chats, tokenizer, config.n_samples),
        identity=identity,
    )
    torch.manual_seed(config.loop.seed)
    progress = Trainer(model, tokenizer, course, work_dir, world).run(should_stop)
    finished = whole_model(model, world)
    if finished is not None:
        write_model_artifact(out_dir, finished, tokenizer_dir, work_dir, identity, progress.samples)
    n_kept, n_dropped = len(train.sequences), sum(train.dropped.values())
    figures = progress.figures() | {"n_epochs": n_steps * config.batch_size / n_kept, "n_tokens": progress.n_tokens}
    return Counts("examples", n_kept + n_dropped, n_kept, train.dropped, figures)


def require_same_tokenizer(base_dir: Path, tokenizer_dir: Path) -> None:
    """Raises ValueError when the base model was trained with another tokenizer."""
    if sha256_file(base_dir / TOKENIZER_FILE) != sha256_file(tokenizer_dir / TOKENIZER_FILE):
        raise ValueError("the base model was trained with another tokenizer than the one given; use the model's own")
