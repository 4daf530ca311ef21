import math

import pytest
import torch
from torch import nn

from llm.model.gpt import GPT, GPTConfig
from llm.train.config import ResolvedOptimizer
from llm.train.optimizer import block_matrices, learning_rate, make_optimizer


def config(**changes):
    return ResolvedOptimizer(**({"learning_rate": 1.0, "warmup_steps": 0, "weight_decay": 0.1} | changes))


def rates(n_steps, **changes):
    return [learning_rate(step, n_steps, config(**changes)) for step in range(n_steps)]


def torch_rates(make_scheduler, n_steps, rate=1.0):
    """The learning rates of one of torch's schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, values = make_scheduler(optimizer), []
    for _ in range(n_steps):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return values


def test_wsd_values():
    values = rates(20, warmup_steps=4, decay_fraction=0.5, min_learning_rate_ratio=0.2)
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4:10] == [1.0] * 6
    assert values[10:] == pytest.approx([0.2 + 0.8 * (19 - step) / 10 for step in range(10, 20)])
    assert values[-1] == pytest.approx(0.2)


def test_cosine_values_are_those_of_torch():
    values = rates(20, learning_rate=2.0, warmup_steps=3, schedule="cosine", min_learning_rate_ratio=0.1)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=16, eta_min=0.2), 17, 2.0)
    assert values[3:] == pytest.approx(expected)
    assert values[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])


def test_linear_values_are_those_of_torch():
    values = rates(20, warmup_steps=3, schedule="linear", min_learning_rate_ratio=0.25)
    assert values[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    linear = torch.optim.lr_scheduler.LinearLR
    assert values[3:] == pytest.approx(torch_rates(lambda o: linear(o, 1.0, 0.25, total_iters=16), 17))


def test_warmup_and_decay_of_wsd_are_those_of_torch():
    schedulers = torch.optim.lr_scheduler
    values = rates(20, warmup_steps=5, decay_fraction=0.4, min_learning_rate_ratio=0.0)
    assert values[:5] == pytest.approx(torch_rates(lambda o: schedulers.LinearLR(o, 0.2, 1.0, total_iters=4), 5))
    falling = torch_rates(lambda o: schedulers.LinearLR(o, 1.0, 1e-9, total_iters=8), 9)
    assert values[11:] == pytest.approx(falling, abs=1e-8)


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "linear"])
@pytest.mark.parametrize("n_steps", [1, 2, 50])
@pytest.mark.parametrize("warmup_steps", [0, 1, 30, 100])
def test_rates_stay_within_bounds_for_any_length(schedule, n_steps, warmup_steps):
    assert all(0 < value <= 1 for value in rates(n_steps, schedule=schedule, warmup_steps=warmup_steps))


def test_updates_equal_adamw_by_its_formula():
    """Loshchilov and Hutter 2019, algorithm 2, in plain numbers; matrices decay, vectors do not."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, config(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9))
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in expected.items()}
    for t in range(1, 4):
        rate = 0.1 / t
        optimizer.set_learning_rate(rate)
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


def tiny(architecture="gpt2", **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 16}
    return GPT(GPTConfig(architecture=architecture, **shape, **changes))


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_muon_takes_the_matrices_inside_blocks_and_adamw_the_rest(architecture):
    model = tiny(architecture, tied_head=False)
    muon, adamw = make_optimizer(model, config(kind="muon")).parts
    names = {parameter: name for name, parameter in model.named_parameters()}
    of_muon, of_adamw = ({names[p] for group in part.param_groups for p in group["params"]} for part in (muon, adamw))
    assert of_muon | of_adamw == set(names.values())
    assert of_muon & of_adamw == set()
    assert of_muon == {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert {"token_embedding.weight", "head.weight", "norm.weight"} <= of_adamw


def test_updates_of_muon_are_orthogonal_and_as_large_as_those_of_adamw():
    """Against the singular values of the momentum: all about 1 (0.7 to 1.2 after five rounds), scaled by the rate."""
    model = tiny()
    optimizer = make_optimizer(model, config(kind="muon", learning_rate=0.01, weight_decay=0.0))
    matrix = model.blocks[0].mlp.expand.weight  # (64, 16)
    before = matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    optimizer.step()
    update = (before - matrix.detach()) / 0.01
    scale = 0.2 * math.sqrt(64)
    torch.testing.assert_close(update, scale * (u @ v), atol=0.35 * scale, rtol=0)
    singular = torch.linalg.svdvals(update) / scale
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_both_rates_of_muon_rise_and_fall_together():
    optimizer = make_optimizer(tiny(), config(kind="muon", learning_rate=0.02, adamw_learning_rate=0.005))
    muon, adamw = optimizer.parts
    for value in (0.02, 0.01, 0.004):
        optimizer.set_learning_rate(value)
        assert {group["lr"] for group in muon.param_groups} == {value}
        assert [group["lr"] for group in adamw.param_groups] == pytest.approx([value / 4] * 2)


def test_frozen_weights_stay():
    model = tiny()
    model.blocks[0].mlp.expand.weight.requires_grad_(False)
    assert len(block_matrices(model)) == 11
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, config(kind="muon", learning_rate=0.01))
    model(torch.zeros(1, 4, dtype=torch.int64)).square().sum().backward()
    optimizer.step()
    unchanged = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert "blocks.0.mlp.expand.weight" in unchanged
    assert "blocks.1.mlp.expand.weight" not in unchanged


def test_muon_is_refused_for_sharded_weights():
    model = tiny()
    model.blocks[0].mlp.expand.weight.placements = ()  # as those of a DTensor
    with pytest.raises(ValueError, match=r"optimizer.kind is 'muon', .* use 'adamw', or parallel.strategy 'ddp'"):
        make_optimizer(model, config(kind="muon"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sgd"}, "kind is 'sgd'; allowed: 'adamw', 'muon'"),
        ({"schedule": "step"}, "schedule is 'step'; allowed: 'wsd', 'cosine', 'linear'"),
        ({"adamw_learning_rate": 0.1}, "adamw_learning_rate is for kind 'muon'"),
        ({"kind": "muon", "learning_rate": 0.0, "adamw_learning_rate": 0.1}, "with a learning_rate above 0"),
    ],
)
def test_wrong_settings_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)
