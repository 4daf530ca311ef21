"""Speed of a whole training step on a CPU: ours against those of nanoGPT, litgpt and transformers, in one run.

    python -m benchmarks.step_speed --nanogpt PATH/model.py [--shapes S M] [--threads 2] [--rounds 7] [--peers-compiled]

A step: data, forward and backward pass, clipping, AdamW. Ours is that of the training loop (llm/train/loop.py), as it
is written and compiled. The others have their own model and optimizer, each as its project sets them up on a CPU, in
the same shape; all multiply matrices in bfloat16 under autocast. They take turns in one process, a step each time, so
that a busy machine slows all of them alike: medians of wall time and of CPU time, and the ratio to the best peer.

`--nanogpt`: nanoGPT's `model.py`. litgpt and transformers are left out where they are not installed. Under the table:
what the machine does with large square matrices of bfloat16, on the same threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.in_memory import Windows, random_tokens, trainer
from llm.model.gpt import GPT, GPTConfig
from llm.model.size import flops_per_token
from llm.train.compile import keep_code_in
from llm.train.config import ResolvedOptimizer

SHAPES: dict[str, dict[str, int]] = {
    "S": {"vocab_size": 4096, "d_model": 128, "n_layers": 4, "n_heads": 4, "context_length": 256, "batch_size": 16},
    "M": {"vocab_size": 8192, "d_model": 512, "n_layers": 6, "n_heads": 8, "context_length": 256, "batch_size": 8},
}
OPTIMIZER = ResolvedOptimizer(learning_rate=1e-3, weight_decay=0.1, warmup_steps=0)
SQUARE = 2048
WARM_UP = 3


@dataclass
class Runner:
    """Something that trains, and how long its steps took."""

    name: str
    step: Callable[[], Any]
    is_ours: bool = False
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self) -> None:
        """One step, timed; only our compiled one asks torch for operations that always give the same bits."""
        torch.use_deterministic_algorithms(self.is_ours and "compiled" in self.name, warn_only=True)
        wall, cpu = time.perf_counter(), time.process_time()
        self.step()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def main() -> None:
    """Measures the shapes and prints Markdown."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        keep_code_in(options.cache or Path(folder) / "code")
        for name in options.shapes:
            measure(name, options, Path(folder) / name)


def measure(name: str, options: argparse.Namespace, folder: Path) -> None:
    """The table of one shape."""
    shape = SHAPES[name]
    n_tokens = shape["batch_size"] * shape["context_length"]
    runners = ours(shape, folder) + peers(shape, options)
    square = Runner("", square_product())
    for runner in [*runners, square]:
        for _ in range(WARM_UP):
            runner.run()
        runner.wall.clear()
        runner.cpu.clear()
    for _ in range(options.rounds):
        for runner in [*runners, square]:
            runner.run()
    rate = 2 * SQUARE**3 / statistics.median(square.wall)
    as_they_are = [r for r in runners if not r.is_ours and "compiled" not in r.name]
    best = {kind: min(median(r, kind) for r in as_they_are) for kind in ("wall", "cpu")}
    print(f"\n{name}: {shape}, {options.threads} threads, bfloat16, median of {options.rounds}\n")
    print("| | tokens/s | to the best peer | tokens/CPU s | to the best peer | GFLOP/s | of the matrix rate |")
    print("|---|---|---|---|---|---|---|")
    for r in runners:
        wall, cpu = median(r, "wall"), median(r, "cpu")
        speeds = [f"{n_tokens / wall:,.0f}", f"{best['wall'] / wall:.2f}"]
        speeds += [f"{n_tokens / cpu:,.0f}", f"{best['cpu'] / cpu:.2f}"]
        flops = n_tokens / wall * flops_per_token(config(shape, "modern" if "modern" in r.name else "gpt2"))
        print(f"| {r.name} | {' | '.join(speeds)} | {flops / 1e9:.0f} | {flops / rate:.0%} |")
    print(f"\nSquare matrices of {SQUARE}, bfloat16: {rate / 1e9:.0f} GFLOP/s")


def median(runner: Runner, kind: str) -> float:
    """The median time of a step, wall or cpu."""
    return statistics.median(getattr(runner, kind))


def config(shape: dict[str, int], architecture: str) -> GPTConfig:
    """Our config of a shape."""
    return GPTConfig(architecture=architecture, **{k: v for k, v in shape.items() if k != "batch_size"})


def ours(shape: dict[str, int], folder: Path) -> list[Runner]:
    """Our loop: both architectures, as written and compiled."""
    tokens = random_tokens(shape["vocab_size"], 200 * shape["batch_size"] * shape["context_length"])
    rows = Windows(tokens, shape["context_length"] + 1, shape["context_length"])
    runners = []
    for architecture in ("gpt2", "modern"):
        for compiled in (False, True):
            torch.manual_seed(0)
            name = f"ours, {architecture}{', compiled' if compiled else ''}"
            made = trainer(
                GPT(config(shape, architecture)),
                rows,
                rows,
                folder / name,
                batch_size=shape["batch_size"],
                compiled=compiled,
                optimizer=OPTIMIZER,
            )
            made.model.train()
            runners.append(Runner(name, made.step, is_ours=True))
    return runners


def peers(shape: dict[str, int], options: argparse.Namespace) -> list[Runner]:
    """The peers that are there."""
    made: dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], torch.optim.Optimizer]] = {}
    if options.nanogpt:
        made["nanoGPT"] = nanogpt(shape, options.nanogpt)
    if importlib.util.find_spec("litgpt"):
        made["litgpt"] = litgpt(shape)
    if importlib.util.find_spec("transformers"):
        made["transformers"] = transformers(shape)
    runners = [Runner(name, peer_step(shape, *parts)) for name, parts in made.items()]
    if options.peers_compiled and options.nanogpt:
        model, loss, optimizer = nanogpt(shape, options.nanogpt)
        runners.append(Runner("nanoGPT, compiled", peer_step(shape, model, torch.compile(loss), optimizer)))
    return runners


def peer_step(
    shape: dict[str, int],
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
) -> Callable[[], None]:
    """A step as plain training scripts do it: sequences from random places of an array, mean loss, clipping."""
    length, batch_size = shape["context_length"], shape["batch_size"]
    tokens = torch.from_numpy(random_tokens(shape["vocab_size"], 200 * batch_size * length).astype("int64"))

    def step() -> None:
        starts = torch.randint(len(tokens) - length, (batch_size,))
        inputs = torch.stack([tokens[i : i + length] for i in starts])
        targets = torch.stack([tokens[i + 1 : i + 1 + length] for i in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(inputs, targets)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def nanogpt(shape: dict[str, int], path: Path) -> Any:
    """nanoGPT's model and its own choice of AdamW."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--nanogpt: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks for it there
    spec.loader.exec_module(module)
    model = module.GPT(
        module.GPTConfig(
            block_size=shape["context_length"],
            vocab_size=shape["vocab_size"],
            n_layer=shape["n_layers"],
            n_head=shape["n_heads"],
            n_embd=shape["d_model"],
            dropout=0.0,
            bias=True,
        )
    )
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    return model, lambda inputs, targets: model(inputs, targets)[1], optimizer


def litgpt(shape: dict[str, int]) -> Any:
    """litgpt's model in the shape of a GPT-2 (the head not tied, which costs no time), and the loss of its trainer."""
    from litgpt.config import Config
    from litgpt.model import GPT as LitGPT
    from litgpt.utils import chunked_cross_entropy

    model = LitGPT(
        Config(
            name="gpt2-like",
            block_size=shape["context_length"],
            vocab_size=shape["vocab_size"],
            padded_vocab_size=shape["vocab_size"],
            n_layer=shape["n_layers"],
            n_head=shape["n_heads"],
            n_embd=shape["d_model"],
            parallel_residual=False,
            gelu_approximate="tanh",
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return model, lambda inputs, targets: chunked_cross_entropy(model(inputs), targets), optimizer


def transformers(shape: dict[str, int]) -> Any:
    """transformers' GPT-2, and the fused AdamW that its Trainer takes by itself."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape["vocab_size"],
            n_positions=shape["context_length"],
            n_embd=shape["d_model"],
            n_layer=shape["n_layers"],
            n_head=shape["n_heads"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return model, lambda inputs, _: model(input_ids=inputs, labels=inputs).loss, optimizer


def square_product() -> Callable[[], Tensor]:
    """A product of two square matrices of bfloat16."""
    a, b = (torch.randn(SQUARE, SQUARE).to(torch.bfloat16) for _ in range(2))
    return lambda: a @ b.T


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="nanoGPT's model.py")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", type=Path, help="where compiled code is kept; else nowhere")
    parser.add_argument("--peers-compiled", action="store_true", help="nanoGPT under torch.compile too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
