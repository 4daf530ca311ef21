"""What the report shows of the stages that train a model, whichever method they use.

Read is only what cannot differ between two artifacts of the same digest: no times, no speeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..counts import Counts
from ..evaluate.metrics import HELD_OUT
from ..files import read_json, read_table
from ..process import read_metrics
from .figures import Curve, training_figure

_ENDS = ("_low", "_high")


@dataclass(frozen=True)
class Skipped:
    """A step that was skipped, and why."""

    step: int
    batch: int
    why: str


@dataclass(frozen=True)
class HeldOutMetric:
    """A held-out metric before training, at the best step, and at the step whose weights were kept."""

    name: str
    first: str
    best: str
    kept: str


@dataclass(frozen=True)
class Training:
    """A run of training: `charts` are inline SVG, `loss` is that of the last step, `samples` Markdown."""

    charts: list[str]
    n_steps: int
    loss: float
    first_step: int | None
    best_step: int | None
    kept_step: int
    held_out: list[HeldOutMetric]
    skipped: list[Skipped]
    n_rollbacks: int
    samples: str | None


@dataclass(frozen=True)
class Piece:
    """A token's text in an example, and whether the loss is taken on it."""

    text: str
    is_trained: bool


def training(stage: str, artifact: Path, counts: Counts) -> Training | None:
    """Returns the run of a stage that trains; None for another stage."""
    lines = read_metrics(artifact / "metrics.jsonl")
    losses = curve(lines, "loss")
    if not losses.steps:
        return None
    n_steps = int(max(losses.steps))
    measured = [line for line in lines if "val_loss" in line]
    best_step = min(measured, key=lambda line: (line["val_loss"], line["step"]))["step"] if measured else None
    path = artifact / "config.json"
    keeps_best = path.exists() and read_json(path).get("training", {}).get("loop.keep") == "best"
    kept_step = best_step if best_step is not None and keeps_best else n_steps
    return Training(
        charts=_charts(stage, lines, measured),
        n_steps=n_steps,
        loss=losses.values[-1],
        first_step=measured[0]["step"] if measured else None,
        best_step=best_step,
        kept_step=kept_step,
        held_out=_held_out(measured, best_step, kept_step),
        skipped=_skipped(artifact / "skipped.json"),
        n_rollbacks=int(counts.figures.get("n_rollbacks", 0)),
        samples=_samples(artifact / "samples.md"),
    )


def curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """Returns a field of metric lines over their steps, where it is a number."""
    points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    return Curve([step for step, _ in points], [value for _, value in points])


def example(instruct: Path, finetuned: Path, max_tokens: int) -> list[Piece]:
    """Returns the first chat that was trained on, token by token; `max_tokens` of it at most.

    As in fine-tuning itself, a chat that does not fit into the context, or without an answer, is skipped.
    """
    path, config = instruct / "train.parquet", finetuned / "config.json"
    if not path.exists() or not config.exists():
        return []
    from ..tokenizer.tokenizer import Tokenizer

    tokenizer, context_length = Tokenizer.load(finetuned), read_json(config)["model"]["context_length"]
    for messages in read_table(path, ["messages"])["messages"]:
        tokens, loss_mask = tokenizer.render_chat(messages.as_py())
        if len(tokens) <= context_length + 1 and any(loss_mask[1:]):
            pieces = itertools.islice(zip(tokens, loss_mask, strict=True), max_tokens)
            return [Piece(tokenizer.decode([token]), is_trained) for token, is_trained in pieces]
    return []


def _names(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys of held-out metrics without the ends of their intervals."""
    names = dict.fromkeys(name for line in measured for name in line if name.startswith("val_"))
    return [name for name in names if not name.endswith(_ENDS)]


def _charts(stage: str, lines: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draws the losses, then each other metric, beside its values in training where there are any.

    Bits per byte say what the loss says.
    """
    names = _names(measured)
    unit = "loss, nats per token" if "val_bpb" in names else "loss"
    charts = [training_figure(f"{stage}-loss", unit, curve(lines, "loss"), curve(measured, "val_loss"))]
    for name in names:
        if name not in ("val_loss", "val_bpb"):
            key = name.removeprefix("val_")
            charts.append(training_figure(f"{stage}-{key}", HELD_OUT[name], curve(lines, key), curve(measured, name)))
    return charts


def _held_out(measured: Sequence[Mapping[str, Any]], best_step: int | None, kept_step: int) -> list[HeldOutMetric]:
    at = {line["step"]: line for line in measured}
    return [
        HeldOutMetric(
            HELD_OUT[name],
            *(_value(at.get(step, {}), name) for step in (measured[0]["step"], best_step, kept_step)),
        )
        for name in _names(measured)
    ]


def _value(line: Mapping[str, Any], name: str) -> str:
    if name not in line:
        return ""
    low, high = (line.get(f"{name}{end}") for end in _ENDS)
    ends = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    return f"{line[name]:.3f}{ends}"


def _skipped(path: Path) -> list[Skipped]:
    records = read_json(path) if path.exists() else []
    return [Skipped(record["step"], record["batch"], record["why"]) for record in records]


def _samples(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return text if len(text.splitlines()) > 1 else None  # the first line is a heading
