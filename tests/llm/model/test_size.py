import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model.gpt import GPT, GPTConfig
from llm.model.size import flops_per_token, n_params, training_memory_bytes

SHAPES = [
    GPTConfig(vocab_size=31, context_length=12, n_layers=2, n_heads=3, d_model=24),
    GPTConfig(vocab_size=500, context_length=64, n_layers=1, n_heads=2, d_model=32),
]


@pytest.mark.parametrize("config", SHAPES)
def test_n_params_is_the_number_of_weights(config):
    assert n_params(config) == sum(parameter.numel() for parameter in GPT(config).parameters())


@pytest.mark.parametrize("config", SHAPES)
def test_flops_are_those_that_torch_counts(config):
    """Of a whole forward and backward pass, with attention in plain matrix products (not halved)."""
    model, tokens = GPT(config), torch.zeros(2, config.context_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens).sum().backward()
    assert counter.get_total_flops() == pytest.approx(flops_per_token(config) * tokens.numel(), rel=1e-6)


def test_memory_grows_with_the_micro_batch_from_sixteen_bytes_a_weight():
    config = SHAPES[0]
    one, two = training_memory_bytes(config, 1), training_memory_bytes(config, 2)
    assert 16 * n_params(config) < one < two
    assert two - one == one - 16 * n_params(config)
