"""What `plan` says of pretraining."""

from __future__ import annotations

import pytest

from flows.plan import pretrain_estimate
from flows.recipe import load_recipe
from llm.train.resolve import Resolved, resolve


def resolved(*overrides: str) -> Resolved:
    recipe = load_recipe("conf/demo.yaml", overrides)
    return resolve(recipe.pretrain, recipe.tokenizer.vocab_size, recipe.shard.context_length)


def test_the_demo_in_numbers() -> None:
    size, seconds = pretrain_estimate(resolved("pretrain.loop.n_threads=1"))
    assert size.startswith("1,377,920 parameters, 2,252,800 tokens (1.6 per parameter), 2.21e+13 FLOPs at")
    assert size.endswith(" MB")
    assert seconds is not None
    assert 5 < seconds < 100_000


def test_a_model_larger_than_memory_is_said_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.train.memory.available_bytes", lambda device: 2_000_000_000)
    size, seconds = pretrain_estimate(resolved("pretrain.model.size=gpt2-1.5b", "pretrain.model.architecture=gpt2"))
    assert size.startswith("1,482,524,800 parameters")
    assert "2.0 GB are free: one sequence at a time would still take" in size
    assert seconds is None


def test_a_bad_size_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ValueError, match=r"model.size is 'gpt2-345m'; allowed: .*did you mean gpt2-350m\?"):
        load_recipe("conf/demo.yaml", ["pretrain.model.size=gpt2-345m"])
    with pytest.raises(ValueError, match=r"the nearest model has .* make tokenizer.vocab_size smaller"):
        load_recipe("conf/demo.yaml", ["pretrain.model.size=100k"])


def test_null_means_what_follows_even_over_a_value_that_is_set() -> None:
    recipe = load_recipe("conf/tinystories.yaml", ["pretrain.n_steps=null", "pretrain.optimizer.learning_rate=null"])
    assert recipe.pretrain.n_steps is None
    assert resolve(recipe.pretrain, 4096, 256).config.n_steps == 1100
