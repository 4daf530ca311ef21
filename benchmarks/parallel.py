"""A training step shared by several processes against one process: speed, and memory of each process.

    python -m benchmarks.parallel [--shape S] [--processes 2] [--steps 20] [--rounds 3] [--device cpu]

Each arrangement trains random tokens with the real loop's step, in processes of its own. They take turns, `--rounds`
times, so that a busy machine slows all of them alike. On a CPU every arrangement has `--processes` threads in all. Wall
time is the median over all steps; CPU time is that of all processes together; memory is the mean over processes: of the
GPU by tensors, else what the process has grown by since its model was made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_memory import Windows, random_tokens, trainer
from benchmarks.step_speed import OPTIMIZER, SHAPES
from llm.model.gpt import GPT, GPTConfig
from llm.train.config import LoopConfig, ParallelConfig
from llm.train.device import choose_dtype
from llm.train.parallel import World, leave
from llm.train.throughput import memory_bytes

SHARED: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp, ZeRO-3": {"strategy": "fsdp"},
    "fsdp, ZeRO-2": {"strategy": "fsdp", "reshard_after_forward": False},
    "fsdp, ZeRO-3, recompute": {"strategy": "fsdp", "recompute": True},
    "tensor": {"strategy": "tensor"},
}
ALONE: dict[str, dict[str, Any]] = {"one process": {}, "one process, recompute": {"recompute": True}}
WARM_UP = 3


def main() -> None:
    """Runs all arrangements and prints the table, or is one process of one arrangement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="S", choices=SHAPES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--arrangement", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arrangement:
        return work(options)
    figures: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for name in ALONE | SHARED:
            figures.setdefault(name, []).append(run(name, options))
    print(table(figures))
    return None


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What an arrangement's first process prints at its end."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
    command = [sys.executable, *(start if name in SHARED else []), "-m", "benchmarks.parallel", "--arrangement", name]
    for option in ("shape", "processes", "steps", "device"):
        command += [f"--{option}", str(getattr(options, option))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(options: argparse.Namespace) -> None:
    """Trains, as one process of an arrangement; the first one prints the figures."""
    settings, is_shared = (ALONE | SHARED)[options.arrangement], options.arrangement in SHARED
    loop = LoopConfig(
        device=options.device,
        n_threads=1 if is_shared else options.processes,
        parallel=ParallelConfig(n_processes=options.processes if is_shared else 1, **settings),
    )
    world = World.join(loop)
    shape = dict(SHAPES[options.shape])
    batch_size = shape.pop("batch_size")
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape)).to(world.device)
    before = 0 if options.device == "cuda" else memory_bytes(world.device)
    width = shape["context_length"] + 1
    sequences = Windows(random_tokens(shape["vocab_size"], 64 * width), width, width)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            model,
            sequences,
            sequences,
            Path(folder),
            batch_size=batch_size,
            dtype=choose_dtype(loop, world.device),
            optimizer=OPTIMIZER,
            world=world,
            parallel=loop.parallel,
            micro_batch_size=batch_size // world.n_shares,
        )
        wall, cpu = timed(made.step, options.steps)
    values = torch.tensor([cpu, float(memory_bytes(world.device) - before)], dtype=torch.float64)
    cpu, memory = dataclasses.replace(world, config=ParallelConfig()).total(values).tolist()  # of all, in any strategy
    if world.is_first:
        figures = {"wall": wall, "cpu": cpu, "memory": memory / world.size, "tokens": batch_size * (width - 1)}
        print(json.dumps(figures))
    leave()


def timed(step: Any, n_steps: int) -> tuple[list[float], float]:
    """Wall seconds of each step, and CPU seconds of this process per step."""
    for _ in range(WARM_UP):
        step()
    wall, cpu = [], time.process_time()
    for _ in range(n_steps):
        start = time.perf_counter()
        step()  # ends when the device has finished: the loop looks at the loss
        wall.append(time.perf_counter() - start)
    return wall, (time.process_time() - cpu) / n_steps


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """The arrangements as Markdown rows."""
    lines = ["| arrangement | ms a step | tokens/s | CPU ms a step | MB a process |", "|---|---|---|---|---|"]
    for name, rounds in figures.items():
        wall = statistics.median(seconds for figure in rounds for seconds in figure["wall"])
        cpu = statistics.median(figure["cpu"] for figure in rounds)
        memory = statistics.median(figure["memory"] for figure in rounds)
        speed = rounds[0]["tokens"] / wall
        lines.append(f"| {name} | {1e3 * wall:,.0f} | {speed:,.0f} | {1e3 * cpu:,.0f} | {memory / 1e6:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
