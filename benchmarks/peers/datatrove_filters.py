"""Peer: datatrove's quality filters, one by one.

    python datatrove_filters.py TEXTS.jsonl

Run it with the Python of an environment of its own (see datatrove_run.py). TEXTS.jsonl holds one JSON string a line.
Prints one line of JSON: for every text the reason of each filter ("" where it keeps the text), and CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_parts

FILTERS = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(),
}


def reason(name: str, text: str) -> str:
    """Why a filter drops a text; "" where it keeps it."""
    verdict = FILTERS[name].filter(Document(text=text, id="text"))
    if isinstance(verdict, tuple):
        return "" if verdict[0] else verdict[1]
    return "" if verdict else "dropped"


def main() -> None:
    """Measures all filters on all texts; words are split once for each text, as in a pipeline."""
    with open(sys.argv[1], encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    for name in FILTERS:
        reason(name, "This sentence loads the tokenizer of words. " * 9)
    rows, seconds = [], 0.0
    for text in texts:
        split_into_parts.cache_clear()
        started = time.process_time()
        rows.append({name: reason(name, text) for name in FILTERS})
        seconds += time.process_time() - started
    print(json.dumps({"rows": rows, "cpu_s": seconds}))


if __name__ == "__main__":
    main()
