"""Small models for the tests of llm/model."""

import pytest
import torch

from llm.model.gpt import GPT, GPTConfig

TINY = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 3, "d_model": 24}
SHAPES = {
    "gpt2": GPTConfig(**TINY),
    "gpt2-untied": GPTConfig(**TINY, tied_head=False, d_mlp=40),
    "modern": GPTConfig(**TINY, architecture="modern"),
    "modern-grouped": GPTConfig(
        **TINY | {"n_heads": 4}, architecture="modern", n_kv_heads=2, head_dim=10, tied_head=False, rope_theta=50.0
    ),
    "speedrun": GPTConfig(**TINY, architecture="speedrun"),
    "speedrun-grouped": GPTConfig(
        **TINY | {"n_heads": 4, "n_layers": 3}, architecture="speedrun", n_kv_heads=2, head_dim=10, tied_head=True
    ),
}
"""All architectures, with their defaults and with all that may differ from them."""


@pytest.fixture(autouse=True)
def one_thread():
    """One CPU thread: enough for tiny models, and the tests may share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(params=SHAPES)
def tiny_model(request: pytest.FixtureRequest) -> GPT:
    """Two layers, in evaluation mode, with weights large enough for its logits to differ clearly."""
    return random_model(SHAPES[request.param])


@pytest.fixture(params=[name for name, config in SHAPES.items() if not config.is_speedrun])
def exportable_model(request: pytest.FixtureRequest) -> GPT:
    """A tiny model of an architecture that other programs know."""
    return random_model(SHAPES[request.param])


@pytest.fixture
def random_model_of():
    """Makes a model of a config as `tiny_model` is made."""
    return random_model


def random_model(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def tokens(tiny_model: GPT) -> torch.Tensor:
    """(3, 12) random tokens of the tiny model."""
    return torch.randint(tiny_model.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(1))
