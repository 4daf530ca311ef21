"""The report stage: one self-contained page about a run.

The page has no script, no link and no external resource, and its content security policy forbids them. Text that
comes from pages, models or users is escaped by the template (autoescape), and characters that would hide or reorder
text are made visible.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..config import Config, setting
from ..counts import Counts
from ..data.drops import SAMPLES_PER_REASON
from ..files import write_text
from . import sections
from .attention import AttentionMap, chat_attention, text_attention
from .dag import BOX_HEIGHT, BOX_WIDTH, Drawing, Node, draw

REPORT_FILE = "report.html"
# Control characters (but for tab and line end), lone surrogates, and what changes the direction of text: they would
# break the page or make text read as something that it is not.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class StageSummary:
    """A finished stage: its manifest in short, and where its files are.

    `inputs` are the names of the stages it read. `path` is never written to the page.
    """

    stage: str
    fingerprint: str
    digest: str
    inputs: tuple[str, ...]
    counts: Counts
    path: Path


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """What the report shows, and how much of it."""

    title: str = "Run report"
    """The heading."""
    n_samples: int = setting(SAMPLES_PER_REASON, at_least=0)
    """Dropped documents shown for each reason."""
    n_answers: int = setting(12, at_least=0)
    """Sampled answers shown."""
    n_tokens: int = setting(20, at_least=0)
    """Longest tokens of the tokenizer shown."""
    max_chars: int = setting(600, at_least=1)
    """A longer text from a page or a model is cut, in characters."""
    attention_tokens: int = setting(28, at_least=2)
    """Tokens in the attention map at most."""


def write_report(stages: Sequence[StageSummary], out_dir: Path, config: ReportConfig) -> Counts:
    """Writes report.html about `stages`, in their order; a missing stage leaves its section out.

    The bytes depend on the config and on the stages' names, digests, counts and files alone.
    """
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    page = (
        _environment(config)
        .get_template("report.html.jinja")
        .render(
            config=config,
            style=Markup(style),
            policy=_policy(style),
            stages=stages,
            **_content({stage.stage: stage for stage in stages}, config),
        )
    )
    write_text(out_dir / REPORT_FILE, page)
    return Counts("stages", len(stages), len(stages), figures={"n_bytes": len(page.encode())})


def _content(stages: Mapping[str, StageSummary], config: ReportConfig) -> dict[str, Any]:
    """The values of the template, by section."""
    path = {name: stage.path for name, stage in stages.items()}
    curves = {name: sections.training_curve(name, path[name]) for name in ("pretrain", "finetune") if name in path}
    lengths = next(
        (sections.document_lengths(path[name]) for name in ("decontaminate", "dedup", "clean") if name in path), None
    )
    answers = sections.answers(path["evaluate"]) if "evaluate" in path else []
    scores = sections.scores(path["evaluate"]) if "evaluate" in path else []
    tokenizer = sections.tokenizer_report(path["tokenizer"]) if "tokenizer" in path else None
    return {
        "tiles": _tiles(stages, scores),
        "drawing": _drawing(list(stages.values())),
        "box": (BOX_WIDTH, BOX_HEIGHT),
        "funnels": [found for name, stage in stages.items() if (found := sections.funnel(name, stage.counts))],
        "dropped": _dropped(stages, config.n_samples),
        "lengths": lengths,
        "tokenizer": tokenizer,
        "longest_tokens": tokenizer["longest_tokens"][: config.n_tokens] if tokenizer else [],
        "curves": {name: curve for name, curve in curves.items() if curve},
        "samples": sections.samples_text(path["pretrain"]) if "pretrain" in path else None,
        "attention": _attention(path, answers, config),
        "scores": scores,
        "answers": answers[: config.n_answers],
    }


def _tiles(stages: Mapping[str, StageSummary], scores: Sequence[sections.ScoreRow]) -> list[Tile]:
    """The run in a few numbers."""
    by_name = {(row.model, row.metric): row for row in scores}
    tiles = []
    if "dedup" in stages:
        counts = stages["dedup"].counts
        tiles.append(Tile("Documents", compact(counts.n_out), f"of {compact(counts.n_in)} before deduplication"))
    if "pretrain" in stages and "n_params" in stages["pretrain"].counts.figures:
        counts = stages["pretrain"].counts
        note = f"trained on {compact(counts.n_out)} {counts.unit}"
        tiles.append(Tile("Parameters", compact(counts.figures["n_params"]), note))
    if row := by_name.get(("base", "bits per byte")):
        xz = by_name.get(("xz -9", "bits per byte"))
        note = f"held-out documents{f'; xz -9: {xz.score:.2f}' if xz else ''}"
        tiles.append(Tile("Bits per byte", score(row), note))
    if row := by_name.get(("chat", "accuracy")):
        note = interval(row) + (f", chance {100 * row.chance:.0f} %" if row.chance is not None else "")
        tiles.append(Tile("Four-choice accuracy", score(row), note))
    return tiles


def _drawing(stages: Sequence[StageSummary]) -> Drawing:
    return draw([Node(stage.stage, stage.inputs, _flow_lines(stage.counts)) for stage in stages])


def _flow_lines(counts: Counts) -> tuple[str, str]:
    return f"{compact(counts.n_in)} → {compact(counts.n_out)}", counts.unit


def _dropped(stages: Mapping[str, StageSummary], n_samples: int) -> dict[str, list[sections.DroppedSample]]:
    dropped = {name: sections.dropped(stage.path, stage.counts, n_samples) for name, stage in stages.items()}
    return {name: samples for name, samples in dropped.items() if samples}


def _attention(
    path: Mapping[str, Path], answers: Sequence[Mapping[str, Any]], config: ReportConfig
) -> AttentionMap | None:
    """The chat model on a held-out question and its reference answer, else the base model on a held-out document."""
    if "finetune" in path and answers:
        shortest = min(answers, key=lambda answer: len(answer["question"] + answer["reference"]))
        roles = (("user", "question"), ("assistant", "reference"))
        messages = [{"role": role, "content": shortest[key]} for role, key in roles]
        return chat_attention(path["finetune"], messages, config.attention_tokens)
    text = sections.first_held_out_text(path["dedup"]) if "dedup" in path else None
    if "pretrain" in path and text:
        return text_attention(path["pretrain"], text, config.attention_tokens)
    return None


def _policy(style: str) -> str:
    """A content security policy that admits this style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _environment(config: ReportConfig) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        cut=lambda text: cut(str(text), config.max_chars),
        compact=compact,
        grouped=grouped,
        figure=figure,
        score=score,
        interval=interval,
        spaced=spaced,
        svg=Markup,
    )
    return environment


def _visible(value: object) -> object:
    """Jinja's `finalize`: every value on its way to the page, before it is escaped."""
    return value if isinstance(value, Markup) else _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(value))


def score(row: sections.ScoreRow) -> str:
    """A score: shares in per cent, others with three decimals."""
    return f"{100 * row.score:.1f} %" if row.is_share else f"{row.score:.3f}"


def interval(row: sections.ScoreRow) -> str:
    """The ends of a score's 95 % interval, "" if it has none."""
    if row.low is None or row.high is None:
        return ""
    return f"{100 * row.low:.1f} to {100 * row.high:.1f} %" if row.is_share else f"{row.low:.3f} to {row.high:.3f}"


def cut(text: str, max_chars: int) -> str:
    """The text, ended by an ellipsis when it is longer than `max_chars`."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def spaced(text: str) -> str:
    """A token's text with its spaces and line ends made visible."""
    return text.replace(" ", "·").replace("\n", "⏎")


def compact(number: float) -> str:
    """A count in at most five characters or so: 999, 12,345, 1.23 M."""
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return grouped(number)


def grouped(number: float) -> str:
    """A whole number with its thousands marked."""
    return f"{number:,.0f}"


def figure(number: float) -> str:
    """A figure of a stage: whole numbers in full, others with four digits that count."""
    return grouped(number) if float(number).is_integer() else f"{number:.4g}"
