"""Tiny Shakespeare by characters, nanoGPT's recipe for a CPU: the loss on the last tenth, and the time it takes.

    python -m benchmarks.shakespeare --data tinyshakespeare.txt [--threads 2] [--only recipe ours]

The recipe: 64 characters of context, 12 sequences a step, 4 layers of 128 with 4 heads, no dropout, 2,000 steps of
AdamW at 1e-3 (beta2 0.99, weight decay 0.1), 100 of them warm-up, then along a cosine to 1e-4. nanoGPT's README gives a
held-out loss of 1.88 after some three minutes. "ours" is what the same tokens and steps give with other choices.

Everything runs through the training loop of `python -m llm.train`. The loss is over the whole held-out part, each
character predicted once, from the beginning of its window of 64 on; nanoGPT takes 20 random batches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.in_memory import Windows, trainer
from llm.model.gpt import GPT, GPTConfig
from llm.train.compile import keep_code_in
from llm.train.config import ResolvedOptimizer

CONTEXT_LENGTH, BATCH_SIZE, N_STEPS = 64, 12, 2000
SHAPE = {"context_length": CONTEXT_LENGTH, "n_layers": 4, "n_heads": 4, "d_model": 128}
BETA2 = 0.99


@dataclass(frozen=True)
class Run:
    """One way to train."""

    words: str
    model: dict[str, Any]
    optimizer: ResolvedOptimizer
    compiled: bool = False


NANOGPT = ResolvedOptimizer(
    learning_rate=1e-3, beta2=BETA2, weight_decay=0.1, warmup_steps=100, schedule="cosine", min_learning_rate_ratio=0.1
)
WSD = ResolvedOptimizer(
    learning_rate=4e-3,
    beta2=BETA2,
    weight_decay=0.1,
    warmup_steps=100,
    schedule="wsd",
    decay_fraction=0.6,
    min_learning_rate_ratio=0.0,
)
RUNS = {
    "recipe": Run("nanoGPT's recipe", {"architecture": "gpt2"}, NANOGPT),
    "compiled": Run("the same, compiled", {"architecture": "gpt2"}, NANOGPT, compiled=True),
    "ours": Run("modern, WSD to 0, rate 4e-3, weights from 0.06", {"architecture": "modern", "init_std": 0.06}, WSD),
}


def main() -> None:
    """Trains and prints Markdown."""
    options = _options()
    torch.set_num_threads(options.threads)
    tokens, vocab_size = characters(options.data)
    n_train = int(0.9 * len(tokens))
    train = Windows(tokens[:n_train], CONTEXT_LENGTH + 1, 1)
    val = Windows(tokens[n_train:], CONTEXT_LENGTH + 1, CONTEXT_LENGTH)
    print(f"{len(tokens):,} characters, {vocab_size} different ones; {options.threads} threads\n")
    print("| | held-out loss | wall, s | CPU, s | tokens/s | steps skipped by the guard |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        keep_code_in(Path(folder) / "code")
        for name in options.only:
            print(row(RUNS[name], vocab_size, train, val, Path(folder) / name, options.steps), flush=True)


def characters(path: Path) -> tuple[np.ndarray, int]:
    """The characters of a text as numbers, in the order of their code points, and how many different ones."""
    text = np.array(list(path.read_text()))
    different, tokens = np.unique(text, return_inverse=True)
    return tokens.astype(np.uint16), len(different)


def row(run: Run, vocab_size: int, train: Windows, val: Windows, folder: Path, n_steps: int) -> str:
    """Trains once; the line of the table. The time is that of steps and the last measurement over all of `val`."""
    torch.manual_seed(1337)
    model = GPT(GPTConfig(vocab_size=vocab_size, **SHAPE, **run.model))
    wall, cpu = time.perf_counter(), time.process_time()
    made = trainer(
        model,
        train,
        val,
        folder,
        batch_size=BATCH_SIZE,
        n_steps=n_steps,
        compiled=run.compiled,
        optimizer=run.optimizer,
        seed=1337,
        eval_every=n_steps,
        n_eval_sequences=len(val),
        checkpoint_every=n_steps,
    )
    progress = made.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n_tokens = n_steps * BATCH_SIZE * CONTEXT_LENGTH
    figures = [f"{progress.val['val_loss']:.4f}", f"{wall:.0f}", f"{cpu:.0f}", f"{n_tokens / wall:,.0f}"]
    return f"| {run.words} | {' | '.join(figures)} | {len(progress.skipped)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=N_STEPS)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
