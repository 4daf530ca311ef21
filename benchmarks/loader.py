"""Speed of the loader: packed shards as batches, in memory and read on the way, against a plain memory map.

    python -m benchmarks.loader --data SHARDS --tokenizer TOKENIZER [--copies 20]

`--data`: a folder that the shard stage has left, of 1,024 tokens a sequence, say. Its training files are put `--copies`
times into a temporary folder, so that they are larger than the processor's caches. `--tokenizer`: the tokenizer they
were made with.

The ways take turns; CPU seconds of one process, all its threads, median of `ROUNDS`; tokens are targets. The plain
memory map is what nanoGPT's loader does: all tokens in one file, a batch made of slices at random places, each turned
into 64-bit integers, inputs and targets apart. "A step" is all that training asks for: which rows, their batches of
`MICRO_BATCH`, through the thread that makes the next step's ready.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from llm.files import read_json, write_json
from llm.train.loader import StepLoader
from llm.train.shards import Shards, read_shards

ROUNDS = 7
MICRO_BATCH = 32
N_SEQUENCES = 12_800
"""Sequences in a round."""
CPU = torch.device("cpu")


def main() -> None:
    """Measures and prints Markdown."""
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copies = copied(options.data, Path(folder) / "shards", options.copies)
        held = read_shards(copies, options.tokenizer)
        streamed = read_shards(copies, options.tokenizer, in_memory_bytes=0)
        tokens = memory_map(held, Path(folder) / "tokens.bin")
        ways = {
            "memory map, slices one by one (nanoGPT), 32 sequences": (plain(tokens, held.context_length), 32),
            "in memory, a batch of 32 given rows": (batches(held), 32),
            "in memory, a step of 32 sequences": (steps(held, 32), 32),
            "in memory, a step of 256": (steps(held, 256), 256),
            "streamed, a step of 32": (steps(streamed, 32), 32),
            "streamed, a step of 256": (steps(streamed, 256), 256),
        }
        print(f"{len(held.train):,} sequences of {held.context_length:,} tokens\n")
        n_tokens = N_SEQUENCES * held.context_length
        report({name: n_tokens / seconds / 1e6 for name, seconds in measured(ways).items()})


def copied(shards: Path, folder: Path, n_copies: int) -> Path:
    """A folder of shards with each training file `n_copies` times."""
    folder.mkdir()
    form = read_json(shards / "shards.json")
    files = {}
    for name, digest in form["files"].items():
        for copy in range(n_copies if name.startswith("train") else 1):
            new = name.replace("-", f"-{copy:03d}")
            files[new] = digest
            shutil.copyfile(shards / name, folder / new)
    write_json(folder / "shards.json", form | {"files": files})
    return folder


def memory_map(shards: Shards, path: Path) -> np.ndarray:
    """All training tokens end to end in a file of 16-bit integers, mapped."""
    rows = np.arange(len(shards.train))
    with open(path, "wb") as file:
        for batch in shards.train.batches(rows, 1024):
            file.write(batch.inputs.numpy().astype("<u2").tobytes())
    return np.memmap(path, "<u2", "r")


Way = Callable[[int], object]
"""Makes the batches of one step."""


def plain(tokens: np.ndarray, context_length: int) -> Way:
    """Batches as nanoGPT makes them."""

    def batch(_: int) -> object:
        starts = torch.randint(len(tokens) - context_length, (MICRO_BATCH,)).tolist()
        inputs = torch.stack([torch.from_numpy(tokens[i : i + context_length].astype(np.int64)) for i in starts])
        ends = [i + 1 + context_length for i in starts]
        targets = [torch.from_numpy(tokens[end - context_length : end].astype(np.int64)) for end in ends]
        return inputs, torch.stack(targets)

    return batch


def batches(shards: Shards) -> Way:
    """Batches of rows that are known already."""
    rows = shards.train.order.rows(0, N_SEQUENCES, 0).reshape(-1, MICRO_BATCH)
    return lambda step: shards.train.batch(rows[step % len(rows)])


def steps(shards: Shards, batch_size: int) -> Way:
    """What training asks for."""
    return StepLoader(shards.train, batch_size, MICRO_BATCH, 0, CPU).batches


def measured(ways: dict[str, tuple[Way, int]]) -> dict[str, float]:
    """Median CPU seconds that each way takes for a round, the ways in turn; each round goes on where the last ended."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, (way, batch_size) in ways.items():
            n_steps = N_SEQUENCES // batch_size
            start = time.process_time()
            for step in range(number * n_steps, (number + 1) * n_steps):
                way(step)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first round reads the files


def report(speeds: dict[str, float]) -> None:
    """Prints a table of million tokens per CPU second."""
    peer = next(iter(speeds.values()))
    print("| way | M tokens per CPU second | against the memory map |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.0f} | {speed / peer:.1f}x |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
