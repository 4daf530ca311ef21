"""What a recipe will cost, before anything runs."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from llm.model.size import flops_per_token, n_params
from llm.train.device import choose_device, choose_dtype
from llm.train.memory import needed_bytes, require_memory
from llm.train.parallel import World
from llm.train.resolve import Resolved, resolve
from llm.train.throughput import flops_per_second
from tasks.core.session import Outcome, Session

from .recipe import Recipe

MEASURED_LAYERS = 4
"""A deeper model works at the same speed, but takes longer to measure."""


def plan_table(recipe: Recipe, session: Session) -> Table:
    """One row per stage: whether it would run, how large it is, and how long it takes.

    Times of data stages are those of their last build in this store (for whatever config); training times are FLOPs
    over the speed of this machine, measured for a second on a model of the recipe's shape.
    """
    table = Table("stage", "", "size", "estimated time", box=None, pad_edge=False)
    for outcome in session.outcomes:
        size, seconds = estimate(recipe, outcome, session)
        if outcome.action == "hit":
            seconds = 0.0
        time = "not built before: unknown" if seconds is None else f"{seconds:.0f} s"
        state = {"hit": "in the store", "run": "would run", "wait": "depends"}[outcome.action]
        table.add_row(outcome.stage, state, size, time)
    return table


def estimate(recipe: Recipe, outcome: Outcome, session: Session) -> tuple[str, float | None]:
    """Size in words and seconds (None: unknown) of one stage."""
    if outcome.stage == "pretrain":
        return pretrain_estimate(resolved_pretrain(recipe, session))
    if outcome.artifact is None:
        return "", None
    counts = outcome.artifact.counts
    return f"last time {counts.n_in:,} {counts.unit}", outcome.artifact.provenance.get("seconds")


def resolved_pretrain(recipe: Recipe, session: Session) -> Resolved:
    """The recipe's pretraining with all that follows from the model's size.

    Its length depends on the corpus, so it is final once the shards are in the store. The model's context is that of
    the shards, which is what training costs, also where published weights have a longer one.
    """
    vocab_size, context_length = recipe.tokenizer.vocab_size, recipe.shard.context_length
    shards = [outcome.artifact for outcome in session.outcomes if outcome.stage == "shard" and outcome.action == "hit"]
    figures = shards[0].counts.figures if shards and shards[0] else {}
    n_train = int(figures["n_train_sequences"]) * context_length if "n_train_sequences" in figures else None
    resolved = resolve(recipe.pretrain, vocab_size, context_length, n_train, recipe.published)
    return dataclasses.replace(resolved, model=dataclasses.replace(resolved.model, context_length=context_length))


def preset_lines(recipe: Recipe, session: Session) -> list[str]:
    """What follows from the size or the start of pretraining, and where each value comes from: a line for each."""
    config = recipe.pretrain
    given = f"start_from {config.start_from}" if config.start_from else f"model.size {config.model.size}"
    return ["", f"pretrain.{given}", *resolved_pretrain(recipe, session).lines()]


def pretrain_estimate(resolved: Resolved) -> tuple[str, float | None]:
    """Parameters, tokens, FLOPs, memory and seconds of pretraining; None when it does not fit into memory."""
    config, model = resolved.config, resolved.model
    n_tokens = config.n_steps * config.batch_tokens
    n_flops = n_tokens * flops_per_token(model)
    size = (
        f"{n_params(model):,} parameters, {n_tokens:,} tokens ({n_tokens / n_params(model):.1f} per parameter), "
        f"{n_flops:.2e} FLOPs"
    )
    world = World(choose_device(config.loop), config=config.loop.parallel)
    dtype, muon = choose_dtype(config.loop, world.device), config.optimizer.kind == "muon"
    n_at_once = min(config.loop.micro_batch_size, config.batch_tokens // model.context_length)
    try:
        require_memory(model, n_at_once, world, dtype, muon=muon)
    except ValueError as error:
        return f"{size}; {error}", None
    memory = needed_bytes(model, n_at_once, world, dtype, muon=muon)
    speed = flops_per_second(dataclasses.replace(model, n_layers=min(model.n_layers, MEASURED_LAYERS)), config.loop)
    return f"{size} at {speed / 1e9:.0f} GFLOP/s, {memory / 1e6:.0f} MB", n_flops / speed
