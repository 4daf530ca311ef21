"""Checkpoints: nothing is lost, damage is seen and named, a full disk leaves what was there."""

import copy
import dataclasses
import logging
import resource
import threading

import pytest
import torch
from torch import nn

from llm.files import read_json
from llm.process import ProcessLost
from llm.train.checkpoint import Checkpoints, state_tensors, write_plain
from llm.train.config import ResolvedOptimizer
from llm.train.optimizer import make_optimizer
from llm.train.parallel import World

WORLD = World(torch.device("cpu"))


class Model(nn.Module):
    """An embedding and two linear layers, one of them in a block."""

    def __init__(self, width=4):
        super().__init__()
        self.embedding = nn.Embedding(3, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width)])
        self.head = nn.Linear(width, 2)

    def forward(self, tokens):
        return self.head(self.blocks[0](self.embedding(tokens)))


def trained(n_steps=2, kind="adamw", width=4):
    torch.manual_seed(0)
    model = Model(width)
    optimizer = make_optimizer(model, ResolvedOptimizer(learning_rate=0.1, weight_decay=0.1, warmup_steps=0, kind=kind))
    for _ in range(n_steps):
        update(model, optimizer)
    return model, optimizer


def update(model, optimizer):
    """One step on random inputs, from the global generator."""
    optimizer.zero_grad()
    model(torch.randint(3, (5,))).square().sum().backward()
    optimizer.step()


def saved(directory, *steps, n_kept=2, **options):
    """Checkpoints of some steps."""
    checkpoints = Checkpoints(directory, WORLD, n_kept=n_kept, **options)
    tensors = state_tensors(*trained())
    for step in steps:
        checkpoints.save(tensors, {"step": step})
    checkpoints.finish()
    return checkpoints


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("in_background", [False, True])
def test_a_restored_run_goes_on_bit_for_bit(kind, in_background, tmp_path, monkeypatch):
    model, optimizer = trained(kind=kind)
    is_updated = threading.Event()
    if in_background:  # the writer begins after the next update, and writes what was before it

        def late(*arguments):
            assert is_updated.wait(60)
            write_plain(*arguments)

        monkeypatch.setattr("llm.train.checkpoint.write_plain", late)
    checkpoints = Checkpoints(tmp_path, WORLD, in_background=in_background)
    checkpoints.save(state_tensors(model, optimizer), {"step": 2, "note": [0.1, "x"]})
    update(model, optimizer)
    is_updated.set()
    checkpoints.finish()
    expected = copy.deepcopy(state_tensors(model, optimizer))

    other, other_optimizer = trained(n_steps=0, kind=kind)
    checkpoint = checkpoints.newest()
    assert checkpoint.state == {"step": 2, "note": [0.1, "x"]}
    assert checkpoints.read(checkpoint, state_tensors(other, other_optimizer))
    update(other, other_optimizer)
    found = state_tensors(other, other_optimizer)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_state_has_the_names_of_the_weights():
    names = set(state_tensors(*trained(kind="muon")))
    assert {"blocks.0.weight", "optimizer.blocks.0.weight.momentum_buffer", "optimizer.head.weight.exp_avg"} <= names
    assert "optimizer.blocks.0.weight.exp_avg" not in names
    assert "optimizer.blocks.0.bias.exp_avg_sq" in names


def test_the_newest_are_kept_and_those_that_are_retained(tmp_path):
    checkpoints, tensors = Checkpoints(tmp_path, WORLD, n_kept=2), state_tensors(*trained())
    for step in (8, 9, 10, 99_999_999, 100_000_000):
        checkpoints.save(tensors, {"step": step}, retained={9})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-100000000", "step-99999999"]
    assert checkpoints.newest().state["step"] == 100_000_000
    assert checkpoints.of_step(9).state["step"] == 9
    checkpoints.forget_after(9)
    assert checkpoints.newest().state["step"] == 9
    with pytest.raises(ProcessLost, match="step-00000008"):
        checkpoints.of_step(8)
    assert checkpoints.newest() is None  # what came after it needs it


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(file, damage, tmp_path, caplog):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {"cut": content[:middle], "flip": flipped(content, middle), "empty": b""}
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest().state["step"] == 1
    assert "step-00000002 is skipped" in caplog.text
    with pytest.raises(ProcessLost, match=r"step-00000002 is damaged.*before it is taken"):
        checkpoints.of_step(2)
    assert not path.parent.exists()
    assert checkpoints.of_step(1).state["step"] == 1


def flipped(content, place, bit=0):
    """The content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json"])
def test_any_flipped_bit_is_seen(file, tmp_path, caplog):
    """Some 60 places in each file; what JSON reads alike (another white space) is no damage."""
    checkpoints = saved(tmp_path, 1)
    path = tmp_path / "step-00000001" / file
    content = path.read_bytes()
    state = checkpoints.newest().state
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(flipped(content, place, place % 8))
        found = checkpoints.newest()
        if found is not None:
            assert file == "state.json"
            assert read_json(path)["state"] == state
    path.write_bytes(content)
    assert checkpoints.newest().state == state


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    checkpoints = saved(tmp_path, 1)
    wider = state_tensors(*trained(n_steps=0, width=5))
    before = {name: tensor.clone() for name, tensor in wider.items()}
    with pytest.raises(ValueError, match=r"another model .*blocks.0.bias is \(4,\) there and \(5,\) here"):
        checkpoints.read(checkpoints.newest(), wider)
    assert all(torch.equal(wider[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match=r"optimizer.blocks.0.weight.exp_avg is \(4, 4\) there and absent here"):
        checkpoints.read(checkpoints.newest(), state_tensors(*trained(n_steps=0, kind="muon")))


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent", WORLD).newest() is None


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".step-00000007").mkdir()
    (tmp_path / ".step-00000007" / "model.safetensors").write_bytes(b"half")
    assert Checkpoints(tmp_path, WORLD).newest() is None
    saved(tmp_path, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]


def test_a_step_can_be_saved_again(tmp_path):
    checkpoints, tensors = Checkpoints(tmp_path, WORLD), state_tensors(*trained())
    for note in ("a", "b"):
        checkpoints.save(tensors, {"step": 3, "note": note})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert checkpoints.newest().state["note"] == "b"


@pytest.fixture
def small_files():
    """No file can grow beyond 4,096 bytes, as on a disk that is almost full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_disk_leaves_the_checkpoint_before(in_background, tmp_path, request):
    saved(tmp_path / "checkpoints", 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", WORLD, in_background=in_background)
    large = state_tensors(*trained(n_steps=0, width=64))
    request.getfixturevalue("small_files")
    message = r"no checkpoint could be written in .*checkpoints: .*It takes 0.1 MB, .* are free; step-00000001 is whole"
    if in_background:
        checkpoints.save(large, {"step": 2})
        with pytest.raises(OSError, match=message):
            checkpoints.finish()
    else:
        with pytest.raises(OSError, match=message):
            checkpoints.save(large, {"step": 2})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert checkpoints.newest().state["step"] == 1


def test_a_failure_in_the_background_is_raised_by_the_next_save(tmp_path, small_files):
    checkpoints = Checkpoints(tmp_path / "checkpoints", WORLD, in_background=True)
    large = state_tensors(*trained(n_steps=0, width=64))
    checkpoints.save(large, {"step": 1})
    with pytest.raises(OSError, match="there is none before it"):
        checkpoints.save(large, {"step": 2})


def test_the_background_is_a_thread_of_its_own(tmp_path, monkeypatch):
    writers = []
    monkeypatch.setattr("llm.train.checkpoint.write_plain", lambda *_: writers.append(threading.current_thread()))
    saved(tmp_path / "a", 1, in_background=True)
    saved(tmp_path / "b", 1)
    assert [writer is threading.main_thread() for writer in writers] == [False, True]


def test_generators_of_another_number_of_processes_are_left_alone(tmp_path):
    tensors = state_tensors(*trained())
    checkpoints = saved(tmp_path, 1)
    checkpoint = checkpoints.newest()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert not checkpoints.read(dataclasses.replace(checkpoint, world_size=4), tensors)
    assert torch.equal(torch.get_rng_state(), before)
    assert checkpoints.read(checkpoint, tensors)
    assert not torch.equal(torch.get_rng_state(), before)
