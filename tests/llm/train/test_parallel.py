"""Two processes against one: the same losses, gradient norms and weights; checkpoints that either can take over."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from llm.files import read_json, write_json
from llm.model.files import load_tensors
from llm.model.gpt import GPT, GPTConfig
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train
from llm.train.compile import has_compiler
from llm.train.config import LoopConfig, ParallelConfig
from llm.train.loader import Batch, batch_of, step_rows
from llm.train.loss import Objective
from llm.train.methods.examples import read_examples
from llm.train.parallel import World, distribute
from tests.llm.train.ranks import Ranks
from tests.llm.train.train_materials import (
    CONTEXT_LENGTH,
    LOOP,
    TINY,
    WORDS,
    artifact,
    chat,
    tiny_job,
    write_chats,
)

SHAPES = {
    "gpt2": TINY | {"dropout": 0.0},
    "modern": TINY | {"dropout": 0.0, "architecture": "modern", "n_heads": 4, "n_kv_heads": 2, "head_dim": 6},
}
STRATEGIES = {
    "ddp": {"strategy": "ddp"},
    "zero-3": {"strategy": "fsdp", "reshard_after_forward": True},
    "zero-2": {"strategy": "fsdp", "reshard_after_forward": False},
    "tensor": {"strategy": "tensor"},
    "recomputed": {"strategy": "fsdp", "recompute": True},
}


@pytest.fixture(scope="module")
def ranks(forkserver):
    """Two processes that train together."""
    started = Ranks(forkserver)
    yield started
    started.close()


def job(materials, folder, architecture="gpt2", **parallel):
    """12 steps of 8 sequences in float32, in micro-batches of 2; a checkpoint every 4."""
    loop = LOOP | {"micro_batch_size": 2, "precision": "float32", "n_checkpoints": 9, "parallel": parallel}
    return tiny_job(materials, folder, loop=loop, model=SHAPES[architecture])


@pytest.fixture(scope="module")
def alone(materials, tmp_path_factory):
    """For each architecture the folder of a run on one process."""
    folders = {}
    for architecture in SHAPES:
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        train(job(materials, folders[architecture], architecture))
    return folders


def column(folder, name):
    """The values that the lines of a run's metrics have under a name."""
    lines = [json.loads(line) for line in (folder / "work" / "metrics.jsonl").read_text().splitlines()]
    return np.array([line[name] for line in lines if name in line])


def require_close(folder, expected):
    """Rounding only: float32 has 1e-7, and AdamW makes more of the differences from step to step."""
    for name in ("loss", "grad_norm"):
        ours, theirs = column(folder, name), column(expected, name)
        assert len(ours) == len(theirs) == 12
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(column(folder, "val_loss"), column(expected, "val_loss"), rtol=1e-4)
    ours, theirs = (load_tensors(path / "out" / "model.safetensors") for path in (folder, expected))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("strategy", "architecture"),
    [
        ("ddp", "gpt2"),
        ("zero-3", "gpt2"),
        ("zero-2", "modern"),
        ("tensor", "modern"),
        pytest.param("tensor", "gpt2", marks=pytest.mark.slow),
        pytest.param("recomputed", "modern", marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(strategy, architecture, ranks, alone, materials, tmp_path):
    assert ranks.train(job(materials, tmp_path, architecture, **STRATEGIES[strategy])) == [None, None]
    require_close(tmp_path, alone[architecture])


def go_back(folder, step):
    """Leaves a run as if it had been killed soon after `step`."""
    for path in (folder / "work" / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    assert (folder / "work" / "checkpoints" / f"step-{step:08d}").exists()
    for path in (folder / "out").iterdir():
        path.unlink()


SLOW = [pytest.param(strategy, marks=pytest.mark.slow) for strategy in ("ddp", "zero-2", "tensor")]


@pytest.mark.parametrize("strategy", ["zero-3", *SLOW])
def test_a_checkpoint_of_two_processes_goes_on_in_one(strategy, ranks, alone, materials, tmp_path):
    ranks.train(job(materials, tmp_path, **STRATEGIES[strategy]))
    go_back(tmp_path, 8)
    train(job(materials, tmp_path))
    require_close(tmp_path, alone["gpt2"])


@pytest.mark.parametrize("strategy", ["zero-3", *SLOW])
def test_a_checkpoint_of_one_process_goes_on_in_two(strategy, ranks, alone, materials, tmp_path):
    shutil.copytree(alone["gpt2"], tmp_path, dirs_exist_ok=True)
    go_back(tmp_path, 8)
    assert ranks.train(job(materials, tmp_path, **STRATEGIES[strategy])) == [None, None]
    require_close(tmp_path, alone["gpt2"])


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_two_processes_with_compiled_steps(ranks, alone, materials, tmp_path):
    values = job(materials, tmp_path, strategy="ddp")
    values["config"]["loop"]["compile"] = True
    assert ranks.train(values) == [None, None]
    require_close(tmp_path, alone["gpt2"])


@pytest.mark.slow
def test_a_checkpoint_goes_on_under_another_strategy(ranks, alone, materials, tmp_path):
    for step, strategy in ((4, "ddp"), (8, "tensor"), (12, "zero-3")):
        assert ranks.train(job(materials, tmp_path, "modern", **STRATEGIES[strategy])) == [None, None]
        go_back(tmp_path, step)
    assert ranks.train(job(materials, tmp_path, "modern", strategy="ddp")) == [None, None]
    require_close(tmp_path, alone["modern"])


@pytest.mark.parametrize("strategy", ["zero-3", *SLOW])
def test_two_processes_resumed_end_with_the_same_bytes(strategy, ranks, materials, tmp_path):
    """Dropout too: each process gets its own random numbers back."""
    values = job(materials, tmp_path, **STRATEGIES[strategy])
    values["config"]["model"] = TINY | {"dropout": 0.0 if strategy == "tensor" else 0.2}
    ranks.train(values)
    expected = artifact(tmp_path)
    go_back(tmp_path, 8)
    assert ranks.train(values) == [None, None]
    assert artifact(tmp_path) == expected


def packed_rows(examples_dir, tokenizer_dir):
    """For each step of fine-tuning, the rows that either of two processes packs its chats into."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    chats = read_examples(examples_dir / "train.parquet", tokenizer, CONTEXT_LENGTH).sequences
    for step in range(12):
        rows = step_rows(chats.order, 8, step, seed=0)
        yield [len(list(chats.batches(rows[rank::2], 1))) for rank in (0, 1)]


@pytest.mark.parametrize("strategy", ["zero-3", pytest.param("ddp", marks=pytest.mark.slow)])
def test_fine_tuning_in_two_processes(strategy, ranks, materials, tmp_path):
    """Sequences differ in length here, and so do the numbers of rows that each process packs its own into; the loss is
    that of all tokens of a step wherever they fall."""
    base = materials.base_dir
    (tmp_path / "examples").mkdir()
    for name, n in (("train", 40), ("val", 8)):
        chats = [chat(" ".join(WORDS[: 1 + i % 3]), WORDS[i % 7]) for i in range(n)]
        write_chats(tmp_path / "examples" / f"{name}.parquet", chats)
    assert any(first != second for first, second in packed_rows(tmp_path / "examples", materials.tokenizer_dir))
    shutil.copytree(base, tmp_path / "base")
    values = read_json(base / "config.json")
    values["model"]["dropout"] = 0.0
    write_json(tmp_path / "base" / "config.json", values)
    for name, parallel in (("alone", {}), ("two", STRATEGIES[strategy])):
        loop = LOOP | {"micro_batch_size": 1, "precision": "float32", "parallel": parallel}
        values = tiny_job(materials, tmp_path / name, "finetune", loop=loop)
        values |= {"base_dir": str(tmp_path / "base"), "examples_dir": str(tmp_path / "examples")}
        if parallel:
            assert ranks.train(values) == [None, None]
        else:
            train(values)
    require_close(tmp_path / "two", tmp_path / "alone")


def test_a_damaged_part_of_a_checkpoint_is_named_and_the_one_before_used(ranks, alone, materials, tmp_path, caplog):
    ranks.train(job(materials, tmp_path, strategy="fsdp"))
    go_back(tmp_path, 8)
    (part, _) = sorted((tmp_path / "work" / "checkpoints" / "step-00000008").glob("*.safetensors"))
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)
    train(job(materials, tmp_path))
    assert f"{part.name} is damaged" in caplog.text
    require_close(tmp_path, alone["gpt2"])


@pytest.mark.parametrize(
    ("changes", "parallel", "message"),
    [
        ({"batch_tokens": 7 * CONTEXT_LENGTH}, {}, "a step has 7 sequences, which 2 processes cannot share evenly"),
        ({"model": TINY}, {"strategy": "tensor"}, "dropout is 0.2"),
        ({"model": SHAPES["gpt2"] | {"n_heads": 1}}, {"strategy": "tensor"}, "n_heads is 1, which 2 processes cannot"),
        ({"optimizer": {"kind": "muon"}}, {"strategy": "fsdp"}, "optimizer.kind is 'muon', which needs whole"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(changes, parallel, message, ranks, materials, tmp_path):
    values = job(materials, tmp_path, **parallel)
    values["config"] |= changes
    for error in ranks.train(values):
        assert re.match(f"ValueError: .*{message}", error)


def test_a_process_alone_is_refused_a_strategy_for_several():
    loop = LoopConfig(device="cpu", parallel=ParallelConfig(strategy="fsdp"))
    with pytest.raises(ValueError, match="strategy is 'fsdp', but this process trains alone"):
        World.join(loop)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="strategy is 'pipeline'; allowed: 'ddp', 'fsdp', 'tensor'"):
        ParallelConfig(strategy="pipeline")


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_recomputed_gradients_are_the_same_bits(architecture):
    gradients = {}
    for recompute in (False, True):
        torch.manual_seed(0)
        model = GPT(GPTConfig(vocab_size=50, context_length=16, **SHAPES[architecture] | {"dropout": 0.2}))
        names = list(model.state_dict())
        world = World(torch.device("cpu"), config=ParallelConfig(recompute=recompute))
        objective = distribute(Objective(model, torch.float32), world)
        tokens = torch.randint(50, (2, 17))
        objective(batch_of(tokens.numpy())).backward()
        gradients[recompute] = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert list(model.state_dict()) == names
    for name, gradient in gradients[False].items():
        assert torch.equal(gradient, gradients[True][name]), name


def test_recomputing_keeps_less_for_the_backward_pass():
    kept = {}
    for recompute in (False, True):
        model = GPT(GPTConfig(vocab_size=50, context_length=64, n_layers=8, n_heads=2, d_model=32))
        world = World(torch.device("cpu"), config=ParallelConfig(recompute=recompute))
        objective = distribute(Objective(model, torch.float32), world)
        tokens = torch.randint(50, (4, 64))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.nbytes) or x, lambda x: x):
            objective(Batch(tokens, tokens))
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 4
