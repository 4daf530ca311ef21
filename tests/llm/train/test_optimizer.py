import pytest
import torch
from torch import nn

from llm.train.config import OptimizerConfig
from llm.train.optimizer import learning_rate, make_optimizer, set_learning_rate


def test_wsd_values():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, decay_fraction=0.5, min_learning_rate_ratio=0.2)
    values = [learning_rate(step, 20, config) for step in range(20)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4:10] == [1.0] * 6
    assert values[10:] == pytest.approx([0.2 + 0.8 * (19 - step) / 10 for step in range(10, 20)])
    assert values[-1] == pytest.approx(0.2)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_cosine_values_are_those_of_torch():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=3, schedule="cosine", min_learning_rate_ratio=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.2)
    for step in range(3, 20):
        assert learning_rate(step, 20, config) == pytest.approx(reference.get_last_lr()[0])
        reference.step()
    assert [learning_rate(step, 20, config) for step in range(3)] == pytest.approx([2 / 3, 4 / 3, 2.0])


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
@pytest.mark.parametrize("n_steps", [1, 2, 50])
@pytest.mark.parametrize("warmup_steps", [0, 1, 30, 100])
def test_rates_stay_within_bounds_for_any_length(schedule, n_steps, warmup_steps):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps)
    values = [learning_rate(step, n_steps, config) for step in range(n_steps)]
    assert all(0 < value <= 1 for value in values)


def test_updates_equal_adamw_by_its_formula():
    """Loshchilov and Hutter 2019, algorithm 2, in plain numbers; matrices decay, vectors do not."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9)
    optimizer = make_optimizer(model, config)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in expected.items()}
    for t in range(1, 4):
        rate = 0.1 / t
        set_learning_rate(optimizer, rate)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape)
            gradient, (m, v) = parameter.grad.double(), moments[name]
            m.mul_(0.8).add_(0.2 * gradient)
            v.mul_(0.9).add_(0.1 * gradient**2)
            expected[name] *= 1 - rate * (0.5 if parameter.ndim == 2 else 0.0)
            expected[name] -= rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], atol=1e-6, rtol=0)  # float32
