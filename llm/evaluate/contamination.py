"""Which benchmark items a model may have read: those that decontamination has found and left where they are."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..files import read_table

HITS_FILE = "hits.parquet"


def contaminated_items(documents_dir: Path) -> dict[str, set[int]]:
    """For each benchmark (its file's stem) of which an item was found, the lines from 0 of those in training documents.

    What was found in documents that were dropped, or are held out, does not count: no model is trained on these.
    """
    path = documents_dir / HITS_FILE
    found: dict[str, set[int]] = defaultdict(set)
    rows = read_table(path, columns=["benchmark", "item", "held_out", "dropped"]).to_pylist() if path.exists() else []
    for row in rows:
        found[row["benchmark"]] |= set() if row["dropped"] or row["held_out"] else {row["item"]}
    return dict(found)
