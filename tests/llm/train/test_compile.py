import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from llm.files import write_json
from llm.model.gpt import GPT
from llm.model.shape import GPTConfig
from llm.train import compile as compile_module
from llm.train.compile import choose_compile, compiles, in_one_shape, rough_seconds, sharing_code
from llm.train.config import LoopConfig, ParallelConfig
from llm.train.loader import IGNORED, Batch
from llm.train.loss import Objective
from llm.train.methods.config import FinetuneConfig
from llm.train.methods.pretrain import micro_batch_sizes
from tests.llm.train.train_materials import LOOP, artifact, tiny_job

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def objective():
    """A tiny model with its loss."""
    torch.manual_seed(0)
    shape = GPTConfig(vocab_size=40, context_length=16, n_layers=1, n_heads=2, d_model=8, dropout=0.1)
    return Objective(GPT(shape), torch.float32)


@pytest.fixture(autouse=True)
def as_before():
    """Compiling asks for deterministic operations in the whole process: here only in the test that does."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("setting", "device", "seconds", "compiler", "expected"),
    [
        (None, CPU, 61, True, True),
        (None, CPU, 59, True, False),
        (None, CPU, 61, False, False),
        (None, CUDA, 1, False, True),
        (True, CPU, 1, False, True),
        (False, CUDA, 1e6, True, False),
    ],
)
def test_what_is_worth_compiling(setting, device, seconds, compiler, expected, monkeypatch):
    monkeypatch.setattr(compile_module, "has_compiler", lambda: compiler)
    assert choose_compile(LoopConfig(compile=setting), device, seconds) is expected


def kept_code(directory, private):
    """Where a run keeps its compiled code, and what is there when it begins."""
    with sharing_code(directory, private):
        place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        found = sorted(path.name for path in place.rglob("*") if path.is_file())
        (place / "ab").mkdir(parents=True, exist_ok=True)
        for name in ("kernel.so", "kernel.cpp"):
            (place / "ab" / name).write_text(name)
    return place, found


@pytest.fixture
def code_variable(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of somebody else")


@pytest.mark.parametrize("damage", ["flip", "stranger", "list", "no list", "link"])
def test_compiled_code_that_is_not_as_a_run_left_it_is_not_taken(damage, code_variable, tmp_path, caplog):
    shared, private = tmp_path / "shared", tmp_path / "private"
    assert kept_code(shared, private)[1] == []
    place, found = kept_code(shared, private)
    assert found == ["kernel.cpp", "kernel.so"]
    listing, kernel = shared / "hashes.json", place / "ab" / "kernel.so"
    if damage == "flip":
        kernel.write_text("kernel.sp")
    elif damage == "stranger":
        (place / "ab" / "killed.so").write_text("half")
    elif damage == "link":
        (place / "ab" / "killed.so").symlink_to(tmp_path / "nowhere")
    elif damage == "list":
        listing.write_text(listing.read_text().replace("kernel", "cernel"))
    else:
        listing.unlink()
    expected = {"flip": ["kernel.cpp"], "list": [], "no list": []}.get(damage, ["kernel.cpp", "kernel.so"])
    assert kept_code(shared, private) == (place, expected)
    assert (str({"flip": kernel, "list": listing}.get(damage, "damaged")) in caplog.text) == (
        damage in ("flip", "list")
    )
    assert kept_code(shared, private) == (place, ["kernel.cpp", "kernel.so"])
    assert not private.exists()


def test_a_second_run_at_the_same_time_keeps_its_code_to_itself(code_variable, tmp_path):
    shared = tmp_path / "shared"
    with sharing_code(shared, tmp_path / "first"):
        assert kept_code(shared, tmp_path / "second") == (tmp_path / "second", [])
    assert not (tmp_path / "first").exists()
    assert kept_code(shared, tmp_path / "third")[0] == shared / "code"


def test_the_compiler_is_the_one_in_cxx_or_a_known_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not compile_module.has_compiler()
    (tmp_path / "mycc").touch(mode=0o755)
    monkeypatch.setenv("CXX", "mycc")
    assert compile_module.has_compiler()


def test_a_sharded_model_is_not_compiled():
    sharded = ParallelConfig(n_processes=2, strategy="fsdp")
    assert choose_compile(LoopConfig(parallel=sharded), CUDA, 1e6) is False
    with pytest.raises(ValueError, match=r"loop\.compile is true, but parallel\.strategy is 'fsdp'"):
        choose_compile(LoopConfig(parallel=sharded, compile=True), CUDA, 1e6)


def test_fine_tuning_is_not_compiled():
    with pytest.raises(ValueError, match=r"loop\.compile is true; fine-tuning's batches differ in shape"):
        FinetuneConfig(loop=LoopConfig(compile=True))


def test_the_estimate_does_not_depend_on_the_moment():
    shape = GPTConfig(vocab_size=4096, context_length=256, n_layers=4, n_heads=4, d_model=128)
    assert rough_seconds(shape, 10**6) == pytest.approx(9.44e12 / 2e11, rel=0.01)  # 6 N + 12 L d T operations a token


def test_batches_are_padded_to_one_shape():
    short = Batch(torch.tensor([[1, 2], [3, 0]]), torch.tensor([[2, 4], [5, IGNORED]]), torch.tensor([0, 1, 2]))
    padded = in_one_shape(short, 3)
    assert padded.inputs.tolist() == [[1, 2, 0], [3, 0, 0]]
    assert padded.positions is None
    assert padded.learned().tolist() == [2, 4, IGNORED, 5, IGNORED, IGNORED]


def test_a_padded_batch_has_the_same_loss(objective):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(40, (3, 12), generator=draw)
    is_learned = torch.rand(3, 11, generator=draw) < 0.6
    targets = tokens[:, 1:].masked_fill(~is_learned, IGNORED)
    batch = Batch(tokens[:, :-1], targets, is_learned.flatten().nonzero().flatten())
    objective.eval()
    losses, gradients = [], []
    for one in (batch, in_one_shape(batch, 16)):
        losses.append(objective(one))
        gradients.append(torch.autograd.grad(losses[-1], list(objective.parameters())))
    torch.testing.assert_close(losses[1], losses[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n", "micro", "sizes"), [(8, 3, [2, 3]), (8, 4, [4]), (2, 4, [2]), (5, 5, [5])])
def test_sizes_of_micro_batches(n, micro, sizes):
    assert micro_batch_sizes(n, micro) == sizes


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_without_a_working_compiler_it_is_said_and_nothing_changes(objective, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/bin/false",))
    weights, generator = [p.clone() for p in objective.parameters()], torch.get_rng_state()
    assert not compiles(objective, [(2, 16)])
    assert "the training step cannot be compiled here" in caplog.text
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(map(torch.equal, objective.parameters(), weights))
    assert all(parameter.grad is None for parameter in objective.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_a_shape_of_batch_is_compiled_once_and_whole(objective):
    """Each step has a new `Batch`: code that asked for the same one would be made at every step."""
    counter = CompileCounter()
    compiled = torch.compile(objective, dynamic=False, backend=counter, fullgraph=True)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        tokens = torch.randint(40, (2, 17), generator=draw)
        compiled(Batch(tokens[:, :-1], tokens[:, 1:])).backward()
    assert counter.frame_count == 1


def start(job, folder):
    """A process that does a job, as its parent starts it."""
    write_json(folder / "job.json", job)
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen([sys.executable, "-m", "llm.train", str(folder / "job.json")], stderr=log)


def finish(job, folder):
    """Does a job in a process of its own."""
    assert start(job, folder).wait(timeout=900) == 0, (folder / "log.txt").read_text()


def job_of(materials, folder, tmp_path, **changes):
    """12 steps, each two batches of 3 sequences and one of 2; compiled code is shared."""
    return tiny_job(materials, folder, **changes) | {"cache_dir": str(tmp_path / "code")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_runs_repeat_killed_or_not(materials, tmp_path):
    """With two threads, which must not add up gradients in the order in which they come."""
    first, second, killed = (tmp_path / name for name in ("first", "second", "killed"))
    compiled = {"loop": LOOP | {"compile": True, "n_threads": 2}}
    for folder in (first, second):
        finish(job_of(materials, folder, tmp_path, **compiled), folder)
    job = job_of(materials, killed, tmp_path, **compiled)
    process, metrics = start(job, killed), killed / "work" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"step": 6' in metrics.read_text()):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finish(job, killed)
    assert artifact(first) == artifact(second) == artifact(killed)
    flipped = next((tmp_path / "code").rglob("*.so"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    finish(job_of(materials, tmp_path / "flipped", tmp_path, **compiled), tmp_path / "flipped")
    assert artifact(first) == artifact(tmp_path / "flipped")
    assert json.loads((first / "out" / "config.json").read_text())["training"]["loop.compile"] is True


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_losses_are_those_of_the_step_as_it_is_written(materials, tmp_path):
    no_dropout = {"n_layers": 2, "n_heads": 2, "d_model": 16}
    losses = []
    for is_compiled in (True, False):
        folder = tmp_path / str(is_compiled)
        loop = LOOP | {"compile": is_compiled, "precision": "float32"}
        finish(job_of(materials, folder, tmp_path, model=no_dropout, loop=loop), folder)
        lines = (folder / "work" / "metrics.jsonl").read_text().splitlines()
        losses.append([value["loss"] for value in map(json.loads, lines) if "loss" in value])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
