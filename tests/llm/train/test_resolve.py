import dataclasses
import json
import re

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from llm.model.gpt import GPTConfig
from llm.model.presets import PRESETS
from llm.model.size import n_matmul_params, n_params
from llm.train.__main__ import train
from llm.train.config import ModelShape, OptimizerConfig, PretrainConfig
from llm.train.resolve import batch_tokens, init_std, learning_rate, resolve
from tests.llm.train.method_jobs import (
    classify_job,
    make_reference,
    prefer_job,
    reinforce_job,
    write_labelled,
    write_questions,
)
from tests.llm.train.train_materials import tiny_job

FORM = {"vocab_size": 8192, "context_length": 512}


def of_size(size, optimizer=None, n_train_tokens=None, form=None, **shape):
    config = PretrainConfig(model=ModelShape(size=size, **shape), optimizer=optimizer or OptimizerConfig())
    return resolve(config, **(form or FORM), n_train_tokens=n_train_tokens)


def test_the_demo_is_what_was_measured():
    """The values of the run in benchmarks/RESULTS.md."""
    found = resolve(PretrainConfig(), vocab_size=4096, context_length=256).config
    shape = found.model
    assert (shape.architecture, shape.n_layers, shape.n_heads, shape.d_model) == ("gpt2", 4, 2, 128)
    assert (shape.init_std, shape.d_mlp, shape.tied_head, shape.dropout) == (0.06, 512, True, 0.0)
    assert (found.batch_tokens, found.n_steps) == (2048, 1100)
    rates = found.optimizer
    assert (rates.learning_rate, rates.weight_decay, rates.warmup_steps, rates.decay_fraction) == (3e-3, 0.1, 20, 0.5)


def test_gpt2_124m_is_trained_as_others_train_it():
    """nanoGPT's and llm.c's learning rate and batch; 20 tokens for each weight that tokens are multiplied with."""
    found = of_size("gpt2-124m", form={"vocab_size": 50_257, "context_length": 1024})
    assert n_params(found.model) == 124_439_808
    config = found.config
    assert (config.optimizer.learning_rate, config.batch_tokens, config.model.init_std) == (6e-4, 524_288, 0.02)
    n_tokens = config.n_steps * config.batch_tokens
    assert 20 <= n_tokens / n_matmul_params(found.model) < 20.01
    assert config.optimizer.warmup_steps == config.n_steps // 20


@pytest.mark.parametrize("size", PRESETS)
def test_a_size_by_name_has_the_shape_of_its_preset(size):
    """With the vocabulary and the context length of the shards."""
    assert of_size(size).model == GPTConfig.preset(size, **FORM)
    assert GPTConfig.preset(size).init_std == init_std(GPTConfig.preset(size).d_model)


@pytest.mark.parametrize(
    ("size", "vocab_size"),
    [
        *((size, 4096) for size in ("800k", "2m", "5m", "8.5m", "20M", "50m", "124m", "350m", "800m", "1.3b", "7b")),
        *((size, 50_257) for size in ("5m", "50m", "124m", "1.3b", "70b")),
    ],
)
def test_a_number_gives_a_model_of_that_many_parameters(size, vocab_size):
    asked = float(size[:-1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[size[-1].lower()]
    model = of_size(size, form=FORM | {"vocab_size": vocab_size}).model
    assert n_params(model) == pytest.approx(asked, rel=0.1)
    assert model.head_dim == (128 if asked >= 5e8 else 64)
    assert asked < 2e7 or 32 <= model.d_model / model.n_layers <= 128


def test_larger_models_learn_in_larger_and_smaller_steps():
    configs = [of_size(size).config for size in ("3m", "10m", "30m", "100m", "300m", "1b", "3b")]
    rates = [config.optimizer.learning_rate for config in configs]
    assert rates == sorted(rates, reverse=True)
    batches = [config.batch_tokens for config in configs]
    assert batches == sorted(batches)
    assert all(batch % FORM["context_length"] == 0 for batch in batches)


def test_rates_between_the_points_follow_a_power():
    assert learning_rate(320) == pytest.approx(3e-3 * (320 / 128) ** -0.898, rel=0.04)  # two digits
    assert learning_rate(16) == learning_rate(64) == 5.6e-3
    assert [init_std(width) for width in (16, 64, 128, 768, 4096)] == [0.092, 0.092, 0.06, 0.02, 0.02]
    assert batch_tokens(1, 256) == 256
    assert batch_tokens(32 * 2.47e9, 1024) == 2 * 1024 * 1024  # 32^0.383 = 3.8, a power of two


def test_what_is_set_stays():
    shape = {"d_model": 96, "n_layers": 3, "n_heads": 4, "init_std": 0.05, "d_mlp": 200, "norm_eps": 1e-4}
    config = PretrainConfig(
        model=ModelShape(**shape),
        batch_tokens=4096,
        n_steps=77,
        optimizer=OptimizerConfig(learning_rate=1e-5, weight_decay=0.0, warmup_steps=0),
    )
    found = resolve(config, **FORM)
    assert dataclasses.asdict(found.config.optimizer) == dataclasses.asdict(config.optimizer)
    assert (found.config.batch_tokens, found.config.n_steps) == (4096, 77)
    assert {name: getattr(found.model, name) for name in shape} == shape
    assert {name.rpartition(".")[2] for name, why in found.reasons.items() if why == "set"} == {
        *shape,
        "batch_tokens",
        "n_steps",
        "learning_rate",
        "weight_decay",
        "warmup_steps",
    }


def test_another_width_changes_what_hangs_on_it():
    found = of_size("demo", d_model=192)
    assert (found.model.n_heads, found.model.d_mlp, found.model.n_layers) == (3, 768, 4)
    assert found.model.init_std == init_std(192) < 0.06
    assert found.config.optimizer.learning_rate == learning_rate(192) < 3e-3
    assert found.config.n_steps != 1100  # which was measured for width 128
    grouped = of_size("modern-1b", n_heads=32).model
    assert (grouped.n_kv_heads, grouped.d_mlp) == (32, 5632)
    assert of_size("modern-1b", architecture="gpt2").model.d_mlp == 4 * 2048


@for_all(
    st.sampled_from(["demo", "30m", "modern-1b", "50m", "1.3b"]),
    st.sampled_from(["gpt2", "modern", "speedrun", None]),
    st.sampled_from([None, 64, 192]),
    st.sampled_from(["adamw", "muon"]),
    st.sampled_from([None, 10_000, 10**12]),
)
@settings(max_examples=25, deadline=None)
def test_nothing_is_left_open_and_a_second_turn_changes_nothing(size, architecture, d_model, kind, n_train_tokens):
    shape, optimizer = ModelShape(size=size, architecture=architecture, d_model=d_model), OptimizerConfig(kind=kind)
    found = resolve(PretrainConfig(model=shape, optimizer=optimizer), **FORM, n_train_tokens=n_train_tokens).config
    assert None not in dataclasses.asdict(found.model).values()
    assert None not in (found.n_steps, found.batch_tokens, found.optimizer.learning_rate, found.optimizer.weight_decay)
    assert resolve(found, **FORM, n_train_tokens=n_train_tokens).config == found


def test_a_small_corpus_is_read_four_times_at_most():
    endless, short = of_size("10m").config, of_size("10m", n_train_tokens=1_000_000).config
    assert 4e6 <= short.n_steps * short.batch_tokens <= 4e6 + short.batch_tokens
    assert short.batch_tokens < endless.batch_tokens
    assert of_size("10m", n_train_tokens=10**12).config == endless


def test_muon_takes_more_away_from_narrow_models():
    decays = [of_size(size, OptimizerConfig(kind="muon")).config.optimizer.weight_decay for size in ("demo", "30m")]
    assert decays == [0.6, 0.15]


def test_each_value_is_explained():
    lines = resolve(PretrainConfig(model=ModelShape(size="10m"), n_steps=5), **FORM, n_train_tokens=2_000_000).lines()
    assert "model.d_model 320 (from the size, 10m)" in lines
    assert "n_steps 5 (set)" in lines
    assert any(re.match(r"optimizer.learning_rate 0.0013 \(from the width, 320\)", line) for line in lines)
    assert any(re.match(r"batch_tokens [\d,]+ \(for a training of 8,000,000 tokens\)", line) for line in lines)
    names = {line.split(" ")[0] for line in lines}
    assert names >= {"model.n_layers", "model.init_std", "optimizer.weight_decay", "optimizer.warmup_steps"}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"size": "gpt2-345m"}, "model.size is 'gpt2-345m'; allowed: demo, .* or a number .*did you mean gpt2-350m?"),
        ({"size": "large"}, "model.size is 'large'; allowed: demo, 10m"),
        ({"size": "-5m"}, "model.size is '-5m'; allowed"),
        ({"size": "50k"}, r"'50k'; the nearest model has [\d,]+ parameters, of which the vocabulary of 8,192 tokens"),
        ({"n_heads": 3}, "d_model is 128; it must be a multiple of n_heads, which is 3"),
        ({"n_kv_heads": 1}, "n_kv_heads is 1; in gpt2 it can only be 2"),
    ],
)
def test_sizes_and_shapes_that_cannot_be_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        of_size(**{"size": "demo", **shape})


def test_training_keeps_and_logs_what_it_was_resolved_to(materials, tmp_path, caplog):
    with caplog.at_level("INFO", logger="llm.train.methods.pretrain"):
        train(tiny_job(materials, tmp_path, n_steps=1))
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["training"]["optimizer.learning_rate"] == learning_rate(16)
    assert content["training"]["model.d_mlp"] == content["model"]["d_mlp"] == 64
    assert "optimizer.learning_rate 0.0056 (from the width, 16)" in caplog.text
    assert "n_steps 1 (set)" in caplog.text


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("finetune", {"learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 3}),
        ("prefer", {"learning_rate": 1e-4, "weight_decay": 0.0, "warmup_steps": 3}),
        ("reinforce", {"learning_rate": 3e-4, "weight_decay": 0.0, "warmup_steps": 3}),
        ("classify", {"learning_rate": 5e-4, "weight_decay": 0.1, "warmup_steps": 3}),
    ],
)
def test_each_method_has_rates_of_its_own_where_none_are_set(kind, rates, materials, tmp_path):
    changes = {"optimizer": {"warmup_steps": 3}, "n_steps": 1}
    if kind == "finetune":
        job = tiny_job(materials, tmp_path, kind, **changes)
    elif kind == "prefer":
        job = prefer_job(tmp_path, materials, make_reference(tmp_path, materials), **changes)
    elif kind == "reinforce":
        job = reinforce_job(tmp_path, materials, write_questions(tmp_path), **changes)
    else:
        job = classify_job(tmp_path, materials, write_labelled(tmp_path), random_baseline=False, **changes)
    train(job)
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert {name: training[f"optimizer.{name}"] for name in rates} == rates
    assert training["kind"] == kind
