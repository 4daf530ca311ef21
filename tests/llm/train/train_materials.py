"""Makes a tiny corpus, its shards and chats."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from llm.counts import Counts
from llm.data.pack.pack import ShardConfig, finish_shards, pack_partition
from llm.files import write_table
from llm.model.files import save_model
from llm.model.gpt import GPT, GPTConfig
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.throughput import TIMED_FIELDS

WORDS = ["flour", "water", "salt", "starter", "knead", "fold", "proof", "bake", "crumb", "crust", "oven", "rye"]
CONTEXT_LENGTH = 16
TINY = {"n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.2}
LOOP = {
    "micro_batch_size": 3,
    "eval_every": 5,
    "n_eval_sequences": 6,
    "n_sample_tokens": 4,
    "checkpoint_every": 4,
    "device": "cpu",
    "n_threads": 1,
    "log_every": 3,
}


@dataclass(frozen=True)
class Materials:
    """Folders that training reads."""

    tokenizer_dir: Path
    shards_dir: Path
    examples_dir: Path
    base_dir: Path


def make_materials(folder: Path) -> Materials:
    """Sequences of 17 tokens (200, 40 held out), chats (50, 10 held out), an untrained model."""
    made = Materials(folder / "tokenizer", folder / "shards", folder / "examples", folder / "base")
    for path in (made.tokenizer_dir, made.shards_dir, made.examples_dir, made.base_dir):
        path.mkdir()
    draw = random.Random(0)
    texts = [". ".join(" ".join(draw.choices(WORDS, k=6)) for _ in range(9)) for _ in range(48)]
    Tokenizer.train(texts, 310).save(made.tokenizer_dir)
    write_shards(made, texts)
    chats = [chat(f"{a} {b}?", f"{b} {a} {b}") for a in WORDS[:8] for b in WORDS[:8]][:60]
    write_chats(made.examples_dir / "train.parquet", chats[:50])
    write_chats(made.examples_dir / "val.parquet", chats[50:])
    Tokenizer.load(made.tokenizer_dir).save(made.base_dir)
    torch.manual_seed(0)
    save_model(GPT(GPTConfig(vocab_size=310, context_length=CONTEXT_LENGTH, **TINY)), made.base_dir, {})
    return made


def write_shards(made: Materials, texts: list[str]) -> None:
    """Packs the texts, every sixth held out, into two partitions."""
    config = ShardConfig(context_length=CONTEXT_LENGTH)
    counts = []
    for i in range(2):
        rows = [{"id": f"{j:032x}", "text": t, "held_out": j % 6 == 0} for j, t in enumerate(texts) if j % 2 == i]
        part = made.shards_dir / f"part-{i}"
        part.mkdir()
        write_table(part / "documents.parquet", pa.Table.from_pylist(rows))
        counts.append(pack_partition(part / "documents.parquet", made.tokenizer_dir, part, config))
        for split in ("train", "val"):
            (part / f"{split}.parquet").rename(made.shards_dir / f"{split}-{i:05d}.parquet")
    finish_shards(made.shards_dir, made.tokenizer_dir, config, Counts.total(counts))


def chat(question: str, answer: str) -> list[dict[str, str]]:
    """One question and its answer as messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_chats(path: Path, chats: list[list[dict[str, str]]]) -> None:
    """Writes an examples file with its `messages` column."""
    write_table(path, pa.table({"messages": chats}))


def tiny_job(made: Materials, folder: Path, kind: str = "pretrain", **changes: Any) -> dict[str, Any]:
    """The values of a job of 12 steps, with its folders under `folder`; `changes` go into its config."""
    job: dict[str, Any] = {"method": f"llm.train.methods.{kind}", "tokenizer_dir": str(made.tokenizer_dir)}
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        job[f"{name}_dir"] = str(folder / name)
    config: dict[str, Any] = {"n_steps": 12, "loop": LOOP}
    if kind == "pretrain":
        job["shards_dir"] = str(made.shards_dir)
        config |= {"model": TINY, "batch_tokens": 8 * CONTEXT_LENGTH}
    else:
        job |= {"base_dir": str(made.base_dir), "examples_dir": str(made.examples_dir)}
        config |= {"batch_size": 8, "n_samples": 1}
    return job | {"config": config | changes}


def artifact(folder: Path) -> dict[str, bytes]:
    """Name and content of every file that a job left in its out directory, the metrics without times and speeds."""
    files = {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}
    timed = re.compile(f', "({"|".join(TIMED_FIELDS)})": [0-9.]+'.encode())
    return {name: timed.sub(b"", content) for name, content in files.items()}
