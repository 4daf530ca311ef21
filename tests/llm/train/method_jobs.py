"""Jobs of the methods that follow fine-tuning, on tiny files made here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.train.__main__ import train
from tests.llm.train.train_materials import LOOP, WORDS, Materials

SELDOM = {"eval_every": 20, "checkpoint_every": 100}
"""Of loop, where a test only wants the end: most of a tiny job's time goes into checkpoints."""
QUIET = LOOP | {"n_sample_tokens": 2, "eval_every": 4, "checkpoint_every": 3, "precision": "float32"}


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_pairs(folder: Path) -> Path:
    """48 pairs: the good answer is one of the first words, the bad one of the last."""
    pairs = [(good, bad) for good in WORDS[:6] for bad in [*WORDS[6:], "salty", "stale"]]
    records = [{"prompt": f"{good} {bad}", "chosen": good, "rejected": bad} for good, bad in pairs]
    return write_lines(folder / "pairs.jsonl", records)


def job(folder: Path, kind: str, config: dict[str, Any], **folders: Path) -> dict[str, Any]:
    """The values of a job with its own folders under `folder`."""
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    paths = {name: str(path) for name, path in folders.items()}
    return {
        "method": f"llm.train.methods.{kind}",
        "config": config,
        "work_dir": str(folder / "work"),
        "out_dir": str(folder / "out"),
        **paths,
    }


def prefer_job(folder: Path, materials: Materials, reference_dir: Path, **changes: Any) -> dict[str, Any]:
    """A preference job of 12 steps."""
    config = {"n_steps": 12, "batch_size": 8, "n_samples": 1, "loop": QUIET, "optimizer": {"learning_rate": 2e-3}}
    return job(folder, "prefer", config | changes, model_dir=materials.base_dir, reference_dir=reference_dir)


def reference_job(folder: Path, materials: Materials, pairs: Path) -> dict[str, Any]:
    """A job of the reference stage."""
    config = {
        "files": [str(pairs)],
        "held_out_fraction": 0.25,
        "n_threads": 1,
        "micro_batch_size": 5,
        "precision": "float32",
    }
    return job(folder / "reference", "reference", config, model_dir=materials.base_dir)


def make_reference(folder: Path, materials: Materials) -> Path:
    """The artifact of the reference stage for `write_pairs`."""
    values = reference_job(folder, materials, write_pairs(folder))
    train(values)
    return Path(values["out_dir"])


def after_calls(n_calls: int) -> Callable[[], bool]:
    """Says no `n_calls` times, then yes: what a job is asked to stop with."""
    answers = iter([False] * n_calls)
    return lambda: next(answers, True)


def write_labelled(folder: Path) -> Path:
    """120 texts of two kinds: of six words five are of the first half of all, or of the second."""
    draw, halves, records = random.Random(0), (WORDS[:6], WORDS[6:]), []
    for number in range(120):
        kind = number % 2
        words = draw.choices(halves[kind], k=draw.randint(4, 6)) + draw.choices(halves[1 - kind])
        records.append({"text": " ".join(words), "label": ("first", "second")[kind]})
    return write_lines(folder / "labelled.jsonl", records)


def classify_job(folder: Path, materials: Materials, labelled: Path, **changes: Any) -> dict[str, Any]:
    """A classification job of 12 steps."""
    config = {"files": [str(labelled)], "n_steps": 12, "batch_size": 12, "loop": QUIET, "trainable_blocks": 1}
    return job(folder, "classify", config | changes, model_dir=materials.base_dir)


def write_questions(folder: Path) -> Path:
    """40 questions; an answer is right if there is an "a" in it, which one token in a few has."""
    records = [{"prompt": f"{a} {b}?", "answer": "a"} for a in WORDS[:8] for b in WORDS[:5]]
    return write_lines(folder / "questions.jsonl", records)


def reinforce_job(folder: Path, materials: Materials, questions: Path, **changes: Any) -> dict[str, Any]:
    """A reinforcement job of 6 steps with answers of up to three tokens."""
    config = {
        "files": [str(questions)],
        "match": "contains",
        "max_answer_tokens": 3,
        "n_steps": 6,
        "batch_size": 4,
        "group_size": 6,
        "n_samples": 1,
        "loop": QUIET,
    }
    return job(folder, "reinforce", config | changes, model_dir=materials.base_dir)
