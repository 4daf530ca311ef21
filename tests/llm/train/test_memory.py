"""What training takes, against what the machine has."""

import json
import re
import subprocess
import sys
import time

import pytest
import torch

from llm.model.gpt import GPTConfig
from llm.model.size import Passes, state_bytes, training_memory_bytes
from llm.train import memory
from llm.train.__main__ import train
from llm.train.config import ParallelConfig
from llm.train.memory import available_bytes, container_bytes, needed_bytes, require_memory, system_bytes
from llm.train.parallel import World
from tests.llm.train.train_materials import tiny_job

CPU = World(torch.device("cpu"))
FLOAT32 = torch.float32


def test_what_the_system_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   40 kB\n")
    assert system_bytes(tmp_path / "meminfo") == 40 * 1024
    assert system_bytes(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("limit", "taken"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_what_a_container_says(tmp_path, limit, taken):
    """Control groups of version 2 and 1; file pages that may be dropped are free."""
    assert container_bytes(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / taken).write_text("700\n")
    assert container_bytes(tmp_path) == 300
    (tmp_path / taken).with_name("memory.stat").write_text("anon 500\ninactive_file 50\nactive_file 10\n")
    assert container_bytes(tmp_path) == 350
    (tmp_path / limit).write_text("max\n")
    assert limit != "memory.max" or container_bytes(tmp_path) is None


def test_the_smaller_limit_counts_and_processes_share_it(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemAvailable:   40 kB\n")
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert available_bytes(torch.device("cpu")) == 8000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(torch.device("cpu")) == 40 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available_bytes(torch.device("cpu")) == 20 * 1024


def test_this_machine_says_something_sensible():
    there = available_bytes(torch.device("cpu"))
    assert there is None or 10e6 < there < 100e12


@pytest.fixture
def with_memory(monkeypatch):
    """Sets the memory that is there."""
    return lambda n_bytes: monkeypatch.setattr(memory, "available_bytes", lambda device: n_bytes)


def test_the_largest_micro_batch_that_fits_is_named(with_memory):
    config = GPTConfig.preset("10m")
    with_memory(needed_bytes(config, 5, CPU, FLOAT32, muon=False) + 1)
    require_memory(config, 5, CPU, FLOAT32)
    with pytest.raises(ValueError, match=r"GB are free: set loop.micro_batch_size to 5 instead of 16"):
        require_memory(config, 16, CPU, FLOAT32)


def test_a_size_that_fits_is_named(with_memory):
    config = GPTConfig.preset("gpt2-1.5b", vocab_size=8192, context_length=512)
    with_memory(3_000_000_000)
    with pytest.raises(ValueError, match=r"one sequence at a time .* still take 30.2 GB.* gpt2-124m fits"):
        require_memory(config, 16, CPU, torch.bfloat16)
    smaller = GPTConfig.preset("gpt2-124m", vocab_size=8192, context_length=512)
    require_memory(smaller, 1, CPU, torch.bfloat16)
    with_memory(1_000_000)
    with pytest.raises(ValueError, match=r"no model.size fits here"):
        require_memory(config, 16, CPU, torch.bfloat16)


def test_a_machine_that_does_not_say_is_trusted(with_memory):
    with_memory(None)
    require_memory(GPTConfig.preset("gpt2-1.5b"), 64, CPU, FLOAT32)


def test_processes_of_fsdp_hold_a_part_of_the_state():
    config = GPTConfig.preset("30m")
    four = World(torch.device("cpu"), size=4, config=ParallelConfig(strategy="fsdp"))
    whole, part = (needed_bytes(config, 2, world, FLOAT32, muon=False) for world in (CPU, four))
    assert whole - part == pytest.approx(state_bytes(config) * 3 / 4, rel=1e-6)


@pytest.mark.skipif(not (memory.MEMINFO.exists() or memory.CGROUPS.exists()), reason="only Linux says what is free")
@pytest.mark.parametrize("micro_batch_size", [64, 4096])
def test_a_job_larger_than_memory_is_refused_at_once(materials, tmp_path, micro_batch_size):
    """Before a weight is made: a model that no machine for tests can hold."""
    shape = {"size": "gpt2-1.5b", "n_layers": 4000}
    job = tiny_job(materials, tmp_path, model=shape, batch_tokens=16 * 4096)
    job["config"]["loop"] = {**job["config"]["loop"], "micro_batch_size": micro_batch_size}
    started = time.process_time()
    with pytest.raises(ValueError, match=r"training 122,963,724,800 parameters takes about .*choose a smaller"):
        train(job)
    assert time.process_time() - started < 5


MEASURE = """
import json, sys, torch
from llm.model.gpt import GPT, GPTConfig
from llm.train.config import ResolvedOptimizer
from llm.train.loss import Objective
from llm.train.optimizer import make_optimizer

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def steps(config, batch_size, n_steps):
    model = GPT(config)
    objective = Objective(model, torch.bfloat16)
    rates = ResolvedOptimizer(learning_rate=1e-3, weight_decay=0.1, warmup_steps=1)
    optimizer = make_optimizer(model, rates)
    for _ in range(n_steps):
        for _ in range(2):
            tokens = torch.randint(config.vocab_size, (batch_size, config.context_length))
            (objective(tokens, None, tokens.flatten()) / tokens.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

torch.set_num_threads(1)
shape = json.loads(sys.argv[1])
before = kilobytes("VmRSS")
steps(GPTConfig(**shape), int(sys.argv[2]), 2)
print(1024 * (kilobytes("VmHWM") - before))
"""
"""Two steps of two micro-batches in a fresh process: how much the resident set grew at most."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("shape", "batch_size"),
    [
        ({"vocab_size": 8192, "context_length": 256, "n_layers": 6, "n_heads": 8, "d_model": 512}, 8),
        ({"vocab_size": 8192, "context_length": 1024, "n_layers": 4, "n_heads": 4, "d_model": 256}, 4),
    ],
)
@pytest.mark.parametrize("architecture", ["gpt2", "modern", "speedrun"])
def test_the_estimate_is_a_little_more_than_is_seen(architecture, shape, batch_size):
    shape = shape | {"architecture": architecture}
    command = [sys.executable, "-c", MEASURE, json.dumps(shape), str(batch_size)]
    seen = int(re.findall(r"\d+", subprocess.run(command, check=True, capture_output=True, text=True).stdout)[-1])
    config = GPTConfig(**shape)
    estimate = training_memory_bytes(
        config, Passes(micro_batch_size=batch_size, plain_attention=config.context_length <= 512)
    )
    assert 0.95 * seen < estimate < 1.3 * seen
