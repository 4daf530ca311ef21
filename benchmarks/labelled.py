"""Labelled texts out of a corpus, for conf/classify.yaml: paragraphs of Python's documentation, by the part of it.

python -m benchmarks.labelled --data STORE/decontaminate/... --out labelled.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from llm.documents import document_files
from llm.files import read_table

PARTS = ("library", "c-api", "whatsnew", "howto", "reference")
N_EACH = 600


def main() -> None:
    """Writes up to `N_EACH` paragraphs of each part, drawn with a fixed seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for path in document_files(options.data):
        for document in read_table(path, ["url", "text"]).to_pylist():
            paragraphs = [text.replace("\n", " ").strip() for text in document["text"].split("\n\n")]
            label = document["url"].split("/")[3]
            rows += [{"text": text, "label": label} for text in paragraphs if 80 < len(text) < 600]
    random.Random(0).shuffle(rows)
    taken, lines = Counter[str](), []
    for row in rows:
        if row["label"] in PARTS and taken[row["label"]] < N_EACH:
            taken[row["label"]] += 1
            lines.append(json.dumps(row) + "\n")
    options.out.write_text("".join(lines))
    print(f"{len(lines):,} texts: {dict(taken)}")


if __name__ == "__main__":
    main()
