"""What a recipe will cost, before anything runs."""

from __future__ import annotations

from rich.table import Table

from llm.model.gpt import GPTConfig
from llm.model.size import flops_per_token, n_params, training_memory_bytes
from llm.train.throughput import flops_per_second
from tasks.session import Outcome, Session

from .recipe import Recipe


def plan_table(recipe: Recipe, session: Session) -> Table:
    """One row per stage: whether it would run, how large it is, and how long it takes.

    Times of data stages are those of their last build in this store (for whatever config); training times are FLOPs
    over the speed of this machine, measured for a second on a model of the recipe's shape.
    """
    table = Table("stage", "", "size", "estimated time", box=None, pad_edge=False)
    for outcome in session.outcomes:
        size, seconds = estimate(recipe, outcome)
        if outcome.action == "hit":
            seconds = 0.0
        time = "not built before: unknown" if seconds is None else f"{seconds:.0f} s"
        state = {"hit": "in the store", "run": "would run", "wait": "depends"}[outcome.action]
        table.add_row(outcome.stage, state, size, time)
    return table


def estimate(recipe: Recipe, outcome: Outcome) -> tuple[str, float | None]:
    """Size in words and seconds (None: unknown) of one stage."""
    if outcome.stage == "pretrain":
        return pretrain_estimate(recipe)
    if outcome.artifact is None:
        return "", None
    counts = outcome.artifact.counts
    return f"last time {counts.n_in:,} {counts.unit}", outcome.artifact.provenance.get("seconds")


def pretrain_estimate(recipe: Recipe) -> tuple[str, float]:
    """Parameters, tokens, FLOPs, memory and seconds of pretraining."""
    shape = recipe.pretrain.model
    config = GPTConfig(
        vocab_size=recipe.tokenizer.vocab_size,
        context_length=recipe.shard.context_length,
        architecture=shape.architecture,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        d_model=shape.d_model,
    )
    n_tokens = recipe.pretrain.n_steps * recipe.pretrain.batch_tokens
    n_flops = n_tokens * flops_per_token(config)
    speed = flops_per_second(config, recipe.pretrain.loop)
    memory = training_memory_bytes(config, recipe.pretrain.loop.micro_batch_size)
    size = (
        f"{n_params(config):,} parameters, {n_tokens:,} tokens ({n_tokens / n_params(config):.1f} per parameter), "
        f"{n_flops:.2e} FLOPs at {speed / 1e9:.0f} GFLOP/s, {memory / 1e6:.0f} MB"
    )
    return size, n_flops / speed
