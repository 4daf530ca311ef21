import copy
import logging

import pytest
import torch
from torch import nn

from llm.train.checkpoint import load_newest_checkpoint, restore, save_checkpoint
from llm.train.config import OptimizerConfig
from llm.train.optimizer import make_optimizer


def trained(n_steps=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = make_optimizer(model, OptimizerConfig())
    for _ in range(n_steps):
        update(model, optimizer)
    return model, optimizer


def update(model, optimizer):
    """One step on random inputs, from the global generator."""
    optimizer.zero_grad()
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path, model, optimizer, {"step": 2, "note": [0.1, "x"]})
    update(model, optimizer)
    expected = copy.deepcopy(model.state_dict())

    other, other_optimizer = trained(n_steps=0)
    checkpoint = load_newest_checkpoint(tmp_path)
    assert checkpoint.state == {"step": 2, "note": [0.1, "x"]}
    restore(checkpoint, other, other_optimizer)
    update(other, other_optimizer)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in expected.items())


def test_the_two_newest_are_kept(tmp_path):
    model, optimizer = trained()
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, model, optimizer, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert load_newest_checkpoint(tmp_path).state["step"] == 11


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(file, damage, tmp_path, caplog):
    model, optimizer = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, model, optimizer, {"step": step})
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + (b"" if damage == "cut" else b"\xff" + content[middle + 1 :]))
    with caplog.at_level(logging.WARNING):
        assert load_newest_checkpoint(tmp_path).state["step"] == 1
    assert "step-00000002 is passed over" in caplog.text


def test_no_checkpoint_is_none(tmp_path):
    assert load_newest_checkpoint(tmp_path / "absent") is None


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    model, optimizer = trained()
    (tmp_path / ".step-00000007").mkdir()
    (tmp_path / ".step-00000007" / "model.safetensors").write_bytes(b"half")
    assert load_newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, model, optimizer, {"step": 9})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]
