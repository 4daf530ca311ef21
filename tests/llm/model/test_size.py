import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model.gpt import GPT, GPTConfig
from llm.model.size import (
    BYTES_AROUND,
    Passes,
    block_bytes,
    flops_per_token,
    n_matmul_params,
    n_params,
    training_memory_bytes,
)

SMALL = {"vocab_size": 500, "context_length": 64, "n_layers": 2, "n_heads": 4, "d_model": 32}
SHAPES = [
    GPTConfig(**SMALL),
    GPTConfig(**SMALL, d_mlp=40, tied_head=False),
    GPTConfig(**SMALL, architecture="modern"),
    GPTConfig(**SMALL, architecture="modern", n_kv_heads=2, head_dim=10, d_mlp=50, tied_head=False),
    GPTConfig(**SMALL, architecture="speedrun"),
    GPTConfig(**SMALL | {"n_layers": 3}, architecture="speedrun", n_kv_heads=2, head_dim=10, d_mlp=50, tied_head=True),
]


def n_params_of_a_real_one(config: GPTConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


@pytest.mark.parametrize("config", SHAPES)
def test_n_params_is_the_number_of_weights(config):
    assert n_params(config) == n_params_of_a_real_one(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", 1_350_400),
        ("10m", 10_183_680),
        ("30m", 29_676_544),
        ("gpt2-124m", 124_439_808),
        ("gpt2-350m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1.5b", 1_557_611_200),
        ("modern-1b", 1_010_916_352),
    ],
)
def test_sizes_of_the_presets(name, expected):
    """Those of gpt2 are the sizes of OpenAI's four models."""
    config = GPTConfig.preset(name)
    assert n_params(config) == n_params_of_a_real_one(config) == expected


@pytest.mark.parametrize("config", SHAPES)
def test_flops_are_those_that_torch_counts(config):
    """Of a whole forward and backward pass, with attention in plain matrix products (not halved)."""
    model, tokens = GPT(config), torch.zeros(2, config.context_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens).sum().backward()
    assert counter.get_total_flops() == pytest.approx(flops_per_token(config) * tokens.numel(), rel=1e-6)


def kept_bytes(config: GPTConfig, batch_size: int, bfloat16: bool) -> int:
    """What torch keeps for the backward pass of a model up to its features."""
    model, kept = GPT(config), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, or the next tensor could take its address
        return tensor

    tokens = torch.zeros(batch_size, config.context_length, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        model.features(tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("plain_attention", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("config", SHAPES)
def test_what_a_block_keeps_is_what_torch_keeps(config, bfloat16, plain_attention, monkeypatch):
    """Weights, and their copies in bfloat16, do not grow with the batch; what lies around blocks not with depth."""
    monkeypatch.setattr("llm.model.gpt.MAX_LENGTH_OF_PLAIN_ATTENTION", 1000 if plain_attention else 0)
    deeper = dataclasses.replace(config, n_layers=config.n_layers + 2)
    of_two_blocks = [kept_bytes(deeper, size, bfloat16) - kept_bytes(config, size, bfloat16) for size in (2, 3)]
    measured = (of_two_blocks[1] - of_two_blocks[0]) / config.context_length / 2
    passes = Passes(micro_batch_size=1, bfloat16=bfloat16, plain_attention=plain_attention)
    estimate = block_bytes(config, passes)
    assert 0.95 * measured < estimate < 1.15 * measured


@pytest.mark.parametrize("config", SHAPES)
def test_memory_counts_state_and_passes(config):
    one, two, three = (training_memory_bytes(config, Passes(micro_batch_size=n)) for n in (1, 2, 3))
    assert 16 * n_params(config) + BYTES_AROUND < one < two
    assert three - two == pytest.approx(two - one, abs=2)  # rounded
    inside_blocks = n_matmul_params(config) - config.vocab_size * config.d_model
    assert three - training_memory_bytes(config, Passes(micro_batch_size=3, muon=True)) == 4 * inside_blocks
    deep = dataclasses.replace(config, n_layers=24)
    by_sequence, recomputed = (
        training_memory_bytes(deep, Passes(micro_batch_size=90, recompute=flag))
        - training_memory_bytes(deep, Passes(micro_batch_size=80, recompute=flag))
        for flag in (False, True)
    )
    assert recomputed < by_sequence / 3
