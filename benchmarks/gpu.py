"""One script for a machine with a GPU: is training right there, and how fast is it?

    python -m benchmarks.gpu --out FOLDER [--shapes gpu|tiny] [--minutes 9] [--device cuda|cpu]

It needs what llm/train needs: torch, numpy, pyarrow, tokenizers, safetensors. Correctness first: the loss and its
gradients against those of the CPU, a run that is stopped and goes on, checkpoints written in the background, compiled
code. Then the table of issue 4: whole training steps (data, forward and backward pass, clipping, optimizer) of the loop
of `python -m llm.train`, in bfloat16, compiled: tokens a second, MFU (6 N + 12 L d T operations a token, over the
device's dense bfloat16 peak), memory. Each part stands for itself: one that fails is named, and the others follow.
Parts that would begin after `--minutes` are left out. `FOLDER` gets `gpu.md` and `gpu.json`, written anew after each
part. `--shapes tiny --device cpu` tries the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_memory import Windows, random_tokens, trainer
from llm.files import write_json, write_text
from llm.model.gpt import GPT, GPTConfig
from llm.model.size import flops_per_token, n_params
from llm.process import Stopped
from llm.train.compile import keep_code_in
from llm.train.config import ParallelConfig, ResolvedOptimizer
from llm.train.loader import Batch
from llm.train.loop import Trainer
from llm.train.loss import Objective
from llm.train.throughput import peak_flops

ADAMW = ResolvedOptimizer(learning_rate=3e-4, weight_decay=0.1, warmup_steps=0)
MUON = ResolvedOptimizer(kind="muon", learning_rate=3e-4, weight_decay=0.1, warmup_steps=0)
TINY = {"vocab_size": 307, "context_length": 32, "n_layers": 2, "n_heads": 2, "d_model": 32}
SECONDS_A_ROW = 6.0
"""Of steps that are timed, once they run."""


@dataclass(frozen=True)
class Row:
    """A line of the table of speeds."""

    preset: str
    micro_batch_size: int
    goal: str
    changes: tuple[tuple[str, Any], ...] = ()
    n_micro_batches: int = 4
    muon: bool = False
    compiled: bool = True
    recompute: bool = False

    @property
    def name(self) -> str:
        """What the line is called."""
        words = [self.preset, "muon" if self.muon else "adamw", f"micro-batch {self.micro_batch_size}"]
        return ", ".join(words + ["not compiled"] * (not self.compiled) + ["recompute"] * self.recompute)


ROWS = {
    "gpu": [
        Row("gpt2-124m", 64, ">= 460k tokens/s (40 % MFU), aim at 550k"),
        Row("gpt2-350m", 32, ">= 190k tokens/s"),
        Row("modern-1b", 8, ">= 50 % MFU"),
        Row("gpt2-1.5b", 16, ">= 47k tokens/s"),
        Row("gpt2-774m", 16, ""),
        Row("gpt2-124m", 64, "", muon=True),
        Row("gpt2-124m", 32, "", compiled=False),
        Row("modern-1b", 8, "", muon=True),
        Row("gpt2-124m", 128, ""),
    ],
    "tiny": [
        Row("demo", 2, "none", tuple(TINY.items()), n_micro_batches=2),
        Row("demo", 2, "none", tuple(TINY.items()), n_micro_batches=1, muon=True, compiled=False),
        Row("no such preset", 2, "fails, and the next row follows"),
        Row("demo", 2, "none", (("architecture", "modern"), *TINY.items()), compiled=False, recompute=True),
    ],
}
"""The rows with a goal come first, in case time runs out."""


def main() -> None:
    """Runs all parts and writes the results after each."""
    options = _options()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(device), "checks": [], "speeds": []}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        keep_code_in(options.cache or Path(folder) / "code")
        for kind, name, part in parts(device, options.shapes, Path(folder)):
            started = time.monotonic()
            found = attempt(part) if started < end else {"result": "left out: no time"}
            results[kind].append({"name": name, **found, "seconds": round(time.monotonic() - started, 1)})
            write_json(options.out / "gpu.json", results)
            write_text(options.out / "gpu.md", markdown(results))
            print(f"{time.monotonic() - end + 60 * options.minutes:6.0f} s  {name}: {json.dumps(found)}", flush=True)


def parts(device: torch.device, shapes: str, folder: Path) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """What is done, in order: "checks" or "speeds", a name, and the function that does it."""
    for architecture in ("gpt2", "modern"):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"loss and gradients of {architecture}, {str(dtype)[6:]}, against float32 on the CPU"
            yield "checks", name, lambda a=architecture, d=dtype: check_gradients(a, d, device)
    for compiled in (False, True):
        name = f"stopped and gone on with, checkpoints in the background{', compiled' * compiled}"
        yield "checks", name, lambda c=compiled: check_resume(device, folder / f"resume-{c}", c)
    yield "checks", "compiled losses against those as written", lambda: check_compiled(device, folder / "compiled")
    for number, row in enumerate(ROWS[shapes]):
        yield "speeds", row.name, lambda r=row, n=number: speed(r, device, folder / f"row-{n}")


def attempt(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part finds, or the error that it ends with."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return {"result": "FAILED", "error": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def check_gradients(architecture: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """One batch with both; the distance of the gradients over their length."""
    config = GPTConfig.preset("demo", architecture=architecture, vocab_size=4099)  # no multiple of anything
    found = []
    for where, numbers in ((torch.device("cpu"), torch.float32), (device, dtype)):
        torch.manual_seed(0)
        objective = Objective(GPT(config).to(where), numbers)
        tokens = torch.from_numpy(random_tokens(4099, 4 * 256).astype("int64")).view(4, 256).to(where)
        loss = objective(Batch(tokens, tokens.roll(-1, 1))) / tokens.numel()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in objective.parameters() if p.grad is not None])
        found.append((loss.item(), gradient))
    (loss, gradient), (our_loss, our_gradient) = found
    distance = float((our_gradient - gradient).norm() / gradient.norm())
    limits = (1e-4, 1e-3) if dtype == torch.float32 else (5e-3, 3e-2)  # of bfloat16: 8 bits
    is_right = abs(our_loss - loss) < limits[0] * loss and distance < limits[1]
    return {"result": "right" if is_right else "WRONG", "loss": [loss, our_loss], "gradients differ by": distance}


def check_resume(device: torch.device, folder: Path, compiled: bool) -> dict[str, Any]:
    """Losses of ten steps at one go, and of a run that is stopped after six and starts again from its checkpoint."""
    whole = losses(small_trainer(device, folder / "whole", compiled))
    first = losses(small_trainer(device, folder / "parts", compiled), 6)
    second = losses(small_trainer(device, folder / "parts", compiled))
    difference = max(abs(a - b) for a, b in zip(whole, first + second, strict=True))
    result = "right" if difference < 2e-2 else "WRONG"
    return {"result": result, "largest difference of a loss": difference, "bitwise": difference == 0.0}


def check_compiled(device: torch.device, folder: Path) -> dict[str, Any]:
    """Losses of ten steps with and without compiled code."""
    plain, compiled = (losses(small_trainer(device, folder / str(c), c)) for c in (False, True))
    difference = max(abs(a - b) for a, b in zip(plain, compiled, strict=True))
    return {"result": "right" if difference < 2e-2 else "WRONG", "largest difference of a loss": difference}


def small_trainer(device: torch.device, folder: Path, compiled: bool) -> Trainer:
    """Ten steps of a tiny model, a checkpoint every second step, from a thread."""
    torch.manual_seed(0)
    rows = Windows(random_tokens(307, 4000), 33, 32)
    return trainer(
        GPT(GPTConfig(architecture="modern", **TINY)).to(device),
        rows,
        rows,
        folder,
        batch_size=8,
        n_steps=10,
        compiled=compiled,
        optimizer=ADAMW,
        micro_batch_size=4,
        eval_every=10,
        n_eval_sequences=4,
        checkpoint_every=2,
        checkpoint_in_background=True,
    )


def losses(made: Trainer, until: int | None = None) -> list[float]:
    """The loss of each step that a run takes until it is stopped after step `until` (None: until its end)."""
    path = made.work_dir / "metrics.jsonl"
    n_before = len(path.read_text().splitlines()) if path.exists() else 0
    with contextlib.suppress(Stopped):
        made.run(lambda: until is not None and made.progress.step >= until)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines[n_before:] if "loss" in line]


def speed(row: Row, device: torch.device, folder: Path) -> dict[str, Any]:
    """Median time of a step, once the first ones have compiled and warmed up."""
    changes = dict(row.changes)
    context = {"context_length": 2048 if row.preset.startswith("modern") else 1024} if not changes else {}
    config = GPTConfig.preset(row.preset, **{**context, **changes})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    with device:
        model = GPT(config)
    batch_size = row.micro_batch_size * row.n_micro_batches
    rows = Windows(
        random_tokens(config.vocab_size, (batch_size * 8 + 1) * config.context_length + 1),
        config.context_length + 1,
        config.context_length,
    )
    made = trainer(
        model,
        rows,
        rows,
        folder,
        batch_size=batch_size,
        compiled=row.compiled,
        optimizer=MUON if row.muon else ADAMW,
        micro_batch_size=row.micro_batch_size,
        parallel=ParallelConfig(recompute=row.recompute),
    )
    model.train()
    seconds = timed_steps(made, device)
    tokens_per_s = batch_size * config.context_length / statistics.median(seconds)
    peak = peak_flops(device)
    return {
        "result": "done",
        "goal": row.goal,
        "n_params": n_params(config),
        "tokens_per_s": round(tokens_per_s),
        "mfu": None if peak is None else round(tokens_per_s * flops_per_token(config) / peak, 4),
        "step_seconds": round(statistics.median(seconds), 4),
        "n_steps": len(seconds),
        "memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device.type == "cuda" else None,
        "loss": made.progress.loss,
    }


def timed_steps(made: Trainer, device: torch.device) -> list[float]:
    """The wall time of each step (the loop itself waits for the device once a step)."""
    for _ in range(3):
        made.step()
    seconds: list[float] = []
    while sum(seconds) < SECONDS_A_ROW and len(seconds) < 50:
        started = time.perf_counter()
        made.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures are of."""
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or platform.machine(),
        "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if is_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "peak_flops": peak_flops(device),
    }


def markdown(results: dict[str, Any]) -> str:
    """The results as two tables."""
    lines = [", ".join(f"{name} {value}" for name, value in results["machine"].items()), ""]
    lines += ["| check | result | |", "|---|---|---|"]
    for check in results["checks"]:
        rest = {name: value for name, value in check.items() if name not in ("name", "result")}
        lines.append(f"| {check['name']} | {check['result']} | {json.dumps(rest)} |")
    lines += ["", "| | goal | tokens/s | MFU | ms a step | memory, GB |", "|---|---|---|---|---|---|"]
    for row in results["speeds"]:
        if row["result"] != "done":
            lines.append(f"| {row['name']} | | {row['result']} {row.get('error', '')} | | | |")
            continue
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        figures = [row["goal"], f"{row['tokens_per_s']:,}", mfu, f"{row['step_seconds'] * 1e3:.0f}"]
        lines.append(f"| {row['name']} | {' | '.join(figures)} | {row['memory_gb'] or ''} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.md and gpu.json")
    parser.add_argument("--shapes", choices=list(ROWS), default="gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after them")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if there is one")
    parser.add_argument("--cache", type=Path, help="where compiled code is kept; else nowhere")
    return parser.parse_args()


if __name__ == "__main__":
    main()
