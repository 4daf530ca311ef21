"""Speed of supervised fine-tuning: chats packed into rows, against padded batches and against trl on the same chats.

    python -m benchmarks.sft_speed --base STORE/pretrain/... --examples STORE/instruct/... [--trl]

One process with one thread takes turns: some steps of each way, forward, backward and update, in CPU seconds; the
median over turns. `--trl` needs `pip install trl` and exports the base model to a temporary folder; its trainer is
given the same number of chats a step, bfloat16, the same optimizer, no gradient checkpointing, and loss on the
assistant's tokens only. What it spends before its first step is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.files import read_table
from llm.model.export import to_hf
from llm.model.files import load_model
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.config import LoopConfig, ResolvedOptimizer
from llm.train.device import choose_dtype
from llm.train.loader import batch_of, step_rows
from llm.train.loss import Objective
from llm.train.methods.examples import Chats, read_examples
from llm.train.optimizer import make_optimizer

BATCH_SIZE, N_STEPS = 32, 6


class Padded:
    """The same chats in batches of like lengths, each filled up to its longest."""

    def __init__(self, chats: Chats) -> None:
        self.chats = chats

    def batches(self, rows: np.ndarray, n: int) -> Any:
        """Batches of `n` chats, the shortest first."""
        rows = rows[np.argsort(self.chats.lengths(rows), kind="stable")]
        for start in range(0, len(rows), n):
            parts = [self.chats[row] for row in rows[start : start + n]]
            width = max(len(tokens) for tokens, _ in parts)
            tokens, masks = (np.stack([np.pad(part[i], (0, width - len(part[i]))) for part in parts]) for i in (0, 1))
            yield batch_of(tokens, masks)


def ours(base: Path, chats: Any, order: Any, micro_batch_size: int) -> Callable[[int], tuple[float, int]]:
    """Takes some steps; CPU seconds, and positions computed, padding included."""
    model = load_model(base).train().requires_grad_()
    objective = Objective(model, choose_dtype(LoopConfig(device="cpu"), torch.device("cpu")))
    settings = ResolvedOptimizer(learning_rate=1e-4, warmup_steps=0, weight_decay=0.1)
    optimizer = make_optimizer(model, settings)

    def take(first: int) -> tuple[float, int]:
        start, n_positions = time.process_time(), 0
        for step in range(first, first + N_STEPS):
            batches = list(chats.batches(step_rows(order, BATCH_SIZE, step, 0), micro_batch_size))
            n_learned = sum(batch.n_learned for batch in batches)
            for batch in batches:
                (objective(batch) / n_learned).backward()
                n_positions += batch.inputs.numel()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start, n_positions

    return take


def trl(base: Path, examples: Path, folder: Path) -> Callable[[int], tuple[float, int]]:
    """trl's SFTTrainer, from its first step to its last."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    to_hf(load_model(base), folder / "base", Tokenizer.load(base))
    chats = datasets.Dataset.from_list(read_table(examples / "train.parquet", ["messages"]).to_pylist())

    class Clock(TrainerCallback):
        start = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                self.start = time.process_time()

    def take(first: int) -> tuple[float, int]:
        clock = Clock()
        settings = SFTConfig(
            output_dir=str(folder / "out"), max_steps=N_STEPS + 1, per_device_train_batch_size=BATCH_SIZE,
            max_length=256, assistant_only_loss=True, bf16=True, use_cpu=True, gradient_checkpointing=False,
            optim="adamw_torch_fused", learning_rate=1e-4, weight_decay=0.1, seed=first, save_strategy="no",
            report_to="none", disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        trainer = SFTTrainer(model, settings, train_dataset=chats, processing_class=tokenizer, callbacks=[clock])
        trainer.train()
        return time.process_time() - clock.start, 0

    return take


def main() -> None:
    """Prints CPU seconds a step of each way, in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--trl", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    context_length = load_model(options.base).config.context_length
    chats = read_examples(options.examples / "train.parquet", Tokenizer.load(options.base), context_length).sequences
    ways = {
        "packed": ours(options.base, chats, chats.order, 16),
        "padded, 8 at a time": ours(options.base, Padded(chats), chats.order, 8),
    }
    with tempfile.TemporaryDirectory() as folder:
        if options.trl:
            ways["trl"] = trl(options.base, options.examples, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        positions = dict.fromkeys(ways, 0)
        for turn in range(options.turns + 1):  # the first one warms up
            for name, take in ways.items():
                taken, positions[name] = take(turn * N_STEPS)
                seconds[name].append(taken / N_STEPS)
    rows = [step_rows(chats.order, BATCH_SIZE, step, 0) for step in range(turn * N_STEPS, (turn + 1) * N_STEPS)]
    n_tokens = sum(int((chats.lengths(row) - 1).sum()) for row in rows)
    for name, values in seconds.items():
        middle = statistics.median(values[1:])
        padding = f", {1 - n_tokens / positions[name]:.0%} padding" if positions[name] else ""
        print(f"{name}: {middle:.3f} CPU s a step, {n_tokens / N_STEPS / middle:,.0f} tokens/s{padding}")


if __name__ == "__main__":
    main()
