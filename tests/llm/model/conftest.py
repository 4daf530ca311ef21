"""Small models for the tests of llm/model."""

import pytest
import torch

from llm.model.gpt import GPT, GPTConfig


@pytest.fixture(autouse=True)
def one_thread():
    """One CPU thread: enough for tiny models, and the tests may share the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_model() -> GPT:
    """Two layers, in evaluation mode, with weights large enough for its logits to differ clearly."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=31, context_length=12, n_layers=2, n_heads=3, d_model=24)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def tokens(tiny_model: GPT) -> torch.Tensor:
    """(3, 12) random tokens of the tiny model."""
    return torch.randint(tiny_model.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(1))
