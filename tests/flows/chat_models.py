"""A store with small models and evaluations in it, made without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.pipeline import PIPELINE
from llm.counts import Counts
from llm.evaluate.scores import ITEM_SCHEMA, SCORE_SCHEMA
from llm.files import write_table, write_text
from llm.model.files import save_model
from llm.serve.answer import LoadedModel
from tasks.core.fingerprint import Code, Key
from tasks.core.store import Artifact, Store


def add_model(store: Store, stage: str, loaded: LoadedModel, config: dict[str, Any], *inputs: Artifact) -> Artifact:
    """The artifact of a model; `config` tells models of a stage apart."""
    key = Key(stage, 1, config, [input_of(made) for made in inputs], Code("", {}))
    out_dir = store.new_out_dir(stage, key.fingerprint)
    save_model(loaded.model, out_dir, {"kind": stage, **config})
    loaded.tokenizer.save(out_dir)
    counts = Counts("tokens", 1000, 1000) if stage == "pretrain" else Counts("examples", 5, 5, {}, {"n_tokens": 70})
    day = config.get("day", 1)
    provenance = {"started": f"2026-01-{day:02}T08:00:00+00:00", "seconds": 10.5}
    return store.commit(out_dir, key, counts, provenance=provenance, facts=PIPELINE[stage].facts())


def add_evaluation(
    store: Store, base: Artifact, chat: Artifact, right: dict[str, list[bool]], *, version: int = 1, day: int = 1
) -> Artifact:
    """An evaluation of two models on the four-choice benchmark; `right` says which items each got right."""
    key = Key("evaluate", version, {"day": day}, [input_of(base), input_of(chat)], Code("", {}))
    out_dir = store.new_out_dir("evaluate", key.fingerprint)
    names = {"benchmark": "four-choice definitions", "metric": "accuracy", "metric_version": version}
    scores = [
        {
            "model": model,
            **names,
            "score": sum(hits) / len(hits),
            "low": 0.1,
            "high": 0.9,
            "n": len(hits),
            "chance": 0.25,
        }
        for model, hits in right.items()
    ]
    items = [
        {"model": model, **names, "id": f"item {i}", "value": float(hit), "weight": 1.0}
        for model, hits in right.items()
        for i, hit in enumerate(hits)
    ]
    write_table(out_dir / "scores.parquet", pa.Table.from_pylist(scores, schema=SCORE_SCHEMA))
    write_table(out_dir / "items.parquet", pa.Table.from_pylist(items, schema=ITEM_SCHEMA))
    write_text(out_dir / "answers.jsonl", '{"question": "What does the baker do?", "answer": "bakes"}\n')
    provenance = {"started": f"2026-01-{day:02}T09:00:00+00:00", "seconds": 1.0}
    return store.commit(out_dir, key, Counts("items", 1, 1), provenance=provenance)


def input_of(artifact: Artifact) -> dict[str, str]:
    """An artifact as an entry of a key's inputs."""
    return {"stage": artifact.stage, "fingerprint": artifact.fingerprint, "digest": artifact.digest}


def new_store(folder: Path) -> Store:
    """The store of a workspace."""
    return Store(folder / "store")
