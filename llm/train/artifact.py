"""The files that training leaves: a folder with all that is needed to use the model and to see how it came about."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path, write_text
from ..model.files import save_model
from ..model.gpt import GPT
from ..process import METRICS_FILE
from ..tokenizer import CONFIG_FILE, TOKENIZER_FILE
from .guard import SKIPPED_FILE


def write_model_artifact(
    out_dir: Path,
    model: GPT,
    tokenizer_dir: Path,
    work_dir: Path,
    training: dict[str, Any],
    samples: Sequence[dict[str, Any]],
) -> None:
    """Writes model, tokenizer, metrics, samples and the record of skipped steps, if any, into `out_dir`, which exists.

    Only the bytes of the metrics depend on how fast the run was.
    """
    save_model(model, out_dir, training)
    copies = {TOKENIZER_FILE: tokenizer_dir, CONFIG_FILE: tokenizer_dir, METRICS_FILE: work_dir}
    for name, folder in copies.items():
        with atomic_path(out_dir / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    write_text(out_dir / "samples.md", samples_page(samples))
    if (work_dir / SKIPPED_FILE).exists():
        write_text(out_dir / SKIPPED_FILE, (work_dir / SKIPPED_FILE).read_text())


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
