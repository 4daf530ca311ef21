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
from ..data.common.drops import SAMPLES_PER_REASON
from ..evaluate.metrics import BASE, BITS_PER_BYTE, CHAT, CORE, DEFINITIONS, DOCUMENTS, FOUR_CHOICE, XZ
from ..evaluate.scores import ANSWERS_FILE, read_lines
from ..files import write_text
from . import sections
from .attention import AttentionMap, chat_attention, text_attention
from .classifier import classifier
from .dag import BOX_HEIGHT, BOX_WIDTH, Node, draw
from .scores import ScoreRow, samples, score_tables, scores
from .training import example, training

REPORT_FILE = "report.html"
TEMPLATES = (
    "report.html.jinja",
    "data.html.jinja",
    "training.html.jinja",
    "scores.html.jinja",
    "classifier.html.jinja",
)
"""The page and what it includes: named here, so that a change of any makes the report anew."""
# Control characters (but for tab and line end), lone surrogates, and what changes the direction of text: they would
# break the page or make text read as something that it is not.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class StageSummary:
    """A finished stage: its manifest in short, and where its files are.

    `inputs` are the names of the stages it read, `makes` is what kind of model it makes: base, chat or classifier.
    `path` is never written to the page.
    """

    stage: str
    fingerprint: str
    digest: str
    inputs: tuple[str, ...]
    counts: Counts
    path: Path
    makes: str | None = None


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
    example_tokens: int = setting(200, at_least=0)
    """Tokens shown of a chat as fine-tuning reads it."""
    n_skipped: int = setting(10, at_least=0)
    """Skipped steps of a training stage shown."""


def write_report(stages: Sequence[StageSummary], out_dir: Path, config: ReportConfig) -> Counts:
    """Writes report.html about `stages`, in their order; a missing stage leaves its section out.

    The bytes depend on the config and on the stages' names, digests, counts and files alone.
    """
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    page = (
        _environment(config)
        .get_template(TEMPLATES[0])
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
    """Returns the values of the templates, by section."""
    path = {name: stage.path for name, stage in stages.items()}
    runs = {name: training(name, stage.path, stage.counts) for name, stage in stages.items()}
    lengths = next(
        (sections.document_lengths(path[name]) for name in ("decontaminate", "dedup", "clean") if name in path), None
    )
    answers = read_lines(path["evaluate"] / ANSWERS_FILE) if "evaluate" in path else []
    rows = scores(path["evaluate"]) if "evaluate" in path else []
    tokenizer = sections.tokenizer_report(path["tokenizer"]) if "tokenizer" in path else None
    chats, classifiers = (_makers(stages, kind) for kind in ("chat", "classifier"))
    return {
        "tiles": _tiles(stages, rows),
        "drawing": draw([_node(stage) for stage in stages.values()]),
        "box": (BOX_WIDTH, BOX_HEIGHT),
        "funnels": [found for name, stage in stages.items() if (found := sections.funnel(name, stage.counts))],
        "dropped": _dropped(stages, config.n_samples),
        "lengths": lengths,
        "tokenizer": tokenizer,
        "longest_tokens": tokenizer["longest_tokens"][: config.n_tokens] if tokenizer else [],
        "runs": {name: run for name, run in runs.items() if run},
        "example": example(path["instruct"], chats[0].path, config.example_tokens)
        if "instruct" in path and chats
        else [],
        "attention": _attention(stages, answers, config),
        "score_tables": score_tables(rows),
        "answers": answers[: config.n_answers],
        "classifier": classifier(classifiers[-1].path) if classifiers else None,
        "samples": samples(path["evaluate"]) if "evaluate" in path else {},
    }


def _node(stage: StageSummary) -> Node:
    counts = stage.counts
    return Node(stage.stage, stage.inputs, (f"{compact(counts.n_in)} → {compact(counts.n_out)}", counts.unit))


def _makers(stages: Mapping[str, StageSummary], kind: str) -> list[StageSummary]:
    """Returns the stages that make a kind of model, in their order."""
    return [stage for stage in stages.values() if stage.makes == kind]


def _tiles(stages: Mapping[str, StageSummary], rows: Sequence[ScoreRow]) -> list[Tile]:
    """Returns the run in a few numbers."""
    tiles = []
    if "dedup" in stages:
        counts = stages["dedup"].counts
        tiles.append(Tile("Documents", compact(counts.n_out), f"of {compact(counts.n_in)} before deduplication"))
    for stage in _makers(stages, "base"):
        if "n_params" in stage.counts.figures:
            note = f"trained on {compact(stage.counts.n_out)} {stage.counts.unit}"
            tiles.append(Tile("Parameters", compact(stage.counts.figures["n_params"]), note))
    return tiles + _score_tiles({(row.model, row.benchmark, row.metric): row for row in rows if not row.part})


def _score_tiles(rows: Mapping[tuple[str, str, str], ScoreRow]) -> list[Tile]:
    tiles = []
    if row := rows.get((BASE, DOCUMENTS, BITS_PER_BYTE.name)):
        xz = rows.get((XZ, DOCUMENTS, BITS_PER_BYTE.name))
        tiles.append(
            Tile("Bits per byte", row.in_words(), f"held-out documents{f'; xz -9: {xz.score:.2f}' if xz else ''}")
        )
    if row := rows.get((CHAT, DEFINITIONS, FOUR_CHOICE.name)):
        note = row.interval() + (f", chance {100 * row.chance:.0f} %" if row.chance is not None else "")
        tiles.append(Tile("Four-choice accuracy", row.in_words(), note))
    core = {model: row for (model, name, _), row in rows.items() if name == CORE and not row.is_difference}
    if row := core.get(BASE):
        chat = f"; chat: {core[CHAT].in_words()}" if CHAT in core else ""
        tiles.append(Tile("CORE", row.in_words(), f"{row.interval()}, {row.metric.partition(', ')[2]}{chat}"))
    return tiles


def _dropped(stages: Mapping[str, StageSummary], n_samples: int) -> dict[str, list[sections.DroppedSample]]:
    dropped = {name: sections.dropped(stage.path, stage.counts, n_samples) for name, stage in stages.items()}
    return {name: samples for name, samples in dropped.items() if samples}


def _attention(
    stages: Mapping[str, StageSummary], answers: Sequence[Mapping[str, Any]], config: ReportConfig
) -> AttentionMap | None:
    """Returns the map of the last chat model on a held-out question and its reference answer; without these, that of
    the base model on a held-out document."""
    chats, bases = (_makers(stages, kind) for kind in ("chat", "base"))
    if chats and answers:
        shortest = min(answers, key=lambda answer: len(answer["question"] + answer["reference"]))
        roles = (("user", "question"), ("assistant", "reference"))
        messages = [{"role": role, "content": shortest[key]} for role, key in roles]
        return chat_attention(chats[-1].path, messages, config.attention_tokens)
    text = sections.first_held_out_text(stages["dedup"].path) if "dedup" in stages else None
    return text_attention(bases[-1].path, text, config.attention_tokens) if bases and text else None


def _policy(style: str) -> str:
    """Returns a content security policy that admits this style sheet and nothing else."""
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
        spaced=spaced,
        svg=Markup,
    )
    return environment


def _visible(value: object) -> object:
    """Jinja's `finalize`: every value on its way to the page, before it is escaped."""
    return value if isinstance(value, Markup) else _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(value))


def cut(text: str, max_chars: int) -> str:
    """Returns the text, ended by an ellipsis when it is longer than `max_chars`."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def spaced(text: str) -> str:
    """Returns a token's text with its spaces and line ends made visible."""
    return text.replace(" ", "·").replace("\n", "⏎")


def compact(number: float) -> str:
    """Returns a count in at most five characters or so: 999, 12,345, 1.23 M."""
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return grouped(number)


def grouped(number: float) -> str:
    """Returns a whole number with its thousands marked."""
    return f"{number:,.0f}"


def figure(number: float) -> str:
    """Returns a figure of a stage: whole numbers in full, others with four digits that count."""
    return grouped(number) if float(number).is_integer() else f"{number:.4g}"
