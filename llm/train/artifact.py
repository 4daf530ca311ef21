"""The files that training leaves: a folder with all that is needed to use the model and to see how it came about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path, write_text
from ..model.files import save_model
from ..model.gpt import GPT
from ..process import METRICS_FILE, read_metrics
from ..tokenizer import CONFIG_FILE, TOKENIZER_FILE

SPEED = "tokens_per_s"
"""Metric that says how fast a run was; left out of the artifact, whose bytes must not depend on it."""


def write_model_artifact(
    out_dir: Path,
    model: GPT,
    tokenizer_dir: Path,
    work_dir: Path,
    training: dict[str, Any],
    samples: Sequence[dict[str, Any]],
) -> None:
    """Writes model, tokenizer, metrics (without speed) and samples into `out_dir`, which exists."""
    save_model(model, out_dir, training)
    for name in (TOKENIZER_FILE, CONFIG_FILE):
        with atomic_path(out_dir / name) as temporary:
            shutil.copyfile(tokenizer_dir / name, temporary)
    lines = [{k: v for k, v in line.items() if k != SPEED} for line in read_metrics(work_dir / METRICS_FILE)]
    write_text(out_dir / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))
    write_text(out_dir / "samples.md", samples_page(samples))


def samples_page(samples: Sequence[dict[str, Any]]) -> str:
    """Samples as Markdown: a heading for each step, then prompt and text as indented blocks."""
    parts = ["# Samples"]
    steps = [None, *(sample["step"] for sample in samples)]
    for before, sample in zip(steps, samples, strict=False):
        if sample["step"] != before:
            parts.append(f"## Step {sample['step']}")
        parts.append(f"Prompt:\n\n{indented(sample['prompt'])}\n\nText:\n\n{indented(sample['text'])}")
    return "\n\n".join(parts) + "\n"


def indented(text: str) -> str:
    """A Markdown code block, whatever the text holds."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "
