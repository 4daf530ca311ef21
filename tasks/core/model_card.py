"""The model card: what a registered model was made of, how it was trained, what it scores, and what it is not for.

Only manifests and scores enter it, no time and no host, so the same model and scores always give the same card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from llm.evaluate.scores import read_scores
from llm.files import read_json

from .store import Artifact, Store

MAX_SUMMARY_CHARS = 5000
"""As much description as MLflow keeps for a version."""
RECIPE_HEADING = "## Recipe"
NUMBER_FORMAT = "{:,.6g}"
LIMITATIONS = (
    "A small model trained on little text: it makes up facts, also when it sounds sure, and its answers must not be "
    "relied on. It has had no safety training; what it says reflects its training documents. The scores below are "
    "measured on held-out material of the same kind as the training data, and say little about other uses or languages."
)
LICENCE = (
    "The licence of the training data is unknown: nothing records under which terms the documents may be used. Clear "
    "that before the model or what it writes is published."
)


def model_card(name: str, model: Artifact, store: Store, scores: Artifact | None) -> str:
    """The card of a model in Markdown; `scores` is an evaluation of it, or None when there is none yet."""
    made_of = store.ancestors(model)
    parts = [
        f"# {name}",
        f"The model {model.stage} `{model.fingerprint}` (content {model.digest}). {shape(model)}",
        "## Limitations",
        LIMITATIONS,
        "## Scores",
        scores_table(model, scores),
        "## Training",
        *(figures_of(item) for item in made_of if item.makes),
        "## Data",
        *sources(made_of),
        counts_table([item for item in made_of if not item.makes]),
        "## Licence of the data",
        LICENCE,
        RECIPE_HEADING,
        "What each stage was asked to do; together with the code this gives the model again.",
        "```yaml\n"
        + yaml.safe_dump({item.stage: item.manifest["config"] for item in made_of}, sort_keys=False)
        + "```",
    ]
    return "\n\n".join(parts) + "\n"


def summary(card: str) -> str:
    """The card without the recipe, as long as MLflow keeps a description."""
    return card.partition(RECIPE_HEADING)[0].strip()[:MAX_SUMMARY_CHARS]


def shape(model: Artifact) -> str:
    """The model's size in a sentence."""
    config = read_json(model.path / "config.json")["model"]
    return (
        f"{config['n_layers']} layers, width {config['d_model']}, {config['vocab_size']:,} tokens of vocabulary, "
        f"context of {config['context_length']:,} tokens, architecture {config['architecture']}."
    )


def figures_of(trained: Artifact) -> str:
    """What training a model left as figures, as a table."""
    counts = trained.counts
    rows = [
        (f"{counts.unit} in", counts.n_in),
        *((key.replace("_", " "), value) for key, value in counts.figures.items()),
    ]
    return f"**{trained.label}**\n\n" + table(("figure", "value"), ((key, number(value)) for key, value in rows))


def sources(made_of: list[Artifact]) -> Iterator[str]:
    """Where the documents came from, as the recipe says it."""
    for item in made_of:
        config = item.manifest["config"]
        if item.stage == "crawl":
            yield "Crawled from " + ", ".join(f"`{seed}`" for seed in config["seeds"])
        elif item.stage == "ingest":
            yield "Read from " + ", ".join(f"`{source['name']}` ({source['kind']})" for source in config["sources"])


def counts_table(stages: Iterable[Artifact]) -> str:
    """What each stage took in, kept and dropped."""
    rows = [
        (
            item.stage,
            item.counts.unit,
            number(item.counts.n_in),
            number(item.counts.n_out),
            ", ".join(f"{reason}: {n:,}" for reason, n in item.counts.dropped.items()),
        )
        for item in stages
    ]
    return table(("stage", "unit", "in", "out", "dropped"), rows)


def scores_table(model: Artifact, scores: Artifact | None) -> str:
    """The model's scores with their 95 % intervals."""
    if model.makes == "classifier":
        return "Measured on held-out texts with its training: see the figures below."
    if scores is None:
        return "Not evaluated yet."
    rows = [row for row in read_scores(scores.path) if row["model"] == model.makes]
    lines = [
        (
            f"{row['benchmark']}: {row['metric']} (version {row['metric_version']})",
            number(row["score"]),
            "" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}",
            number(row["n"]),
            "" if row["chance"] is None else number(row["chance"]),
        )
        for row in rows
    ]
    return table(("score", "value", "95 % interval", "n", "chance"), lines)


def table(names: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    heads = list(names)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: Any) -> str:
    """A number with six digits at most."""
    return f"{value:,}" if isinstance(value, int) else NUMBER_FORMAT.format(value)
