import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.model.gpt import GPT, GPTConfig
from llm.model.size import flops_per_token, n_block_activations, n_params, training_memory_bytes

SMALL = {"vocab_size": 500, "context_length": 64, "n_layers": 2, "n_heads": 4, "d_model": 32}
SHAPES = [
    GPTConfig(**SMALL),
    GPTConfig(**SMALL, d_mlp=40, tied_head=False),
    GPTConfig(**SMALL, architecture="modern"),
    GPTConfig(**SMALL, architecture="modern", n_kv_heads=2, head_dim=10, d_mlp=50, tied_head=False),
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


@pytest.mark.parametrize("config", SHAPES)
def test_activations_are_a_little_more_than_torch_keeps(config):
    """With the fused attention, which keeps no (T, T) weights: that of a GPU, and of a CPU for long sequences."""
    n_numbers = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal n_numbers
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            kept.append(tensor)  # or the next tensor could take its address
            n_numbers += storage.nbytes() // 4
        return tensor

    model, tokens = GPT(config), torch.zeros(2, config.context_length, dtype=torch.int64)
    counted, kept = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}, []
    x, rotation = model.embed(tokens)
    counted |= {part.untyped_storage().data_ptr() for part in rotation or ()}
    with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        patch.setattr("llm.model.gpt.MAX_LENGTH_OF_PLAIN_ATTENTION", 0)
        model.blocks[1](model.blocks[0](x, rotation), rotation)
    measured = n_numbers / tokens.numel() / 2
    assert measured < n_block_activations(config) < 1.3 * measured


@pytest.mark.parametrize("config", SHAPES)
def test_memory_grows_with_the_micro_batch_from_sixteen_bytes_a_weight(config):
    one, two = training_memory_bytes(config, 1), training_memory_bytes(config, 2)
    assert 16 * n_params(config) < one < two
    assert two - one == one - 16 * n_params(config)
