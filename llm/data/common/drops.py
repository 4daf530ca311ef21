"""Documents left out: every data stage writes them down in one form, with the reason and the text's beginning."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from ...files import read_table, write_table

EXCERPT_CHARS = 300
SAMPLES_PER_REASON = 20
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "reason", "detail", "excerpt")])


@dataclass(frozen=True)
class Dropped:
    """A document left out, one row of `dropped-*.parquet`.

    `reason` is one of a few words, under which the drops are counted; `detail` says what was measured and what is
    allowed ("mean word length 2.1, allowed 3 to 10"); `excerpt` is the text's beginning, and may be "". `id` is "" for
    what never became a document.
    """

    id: str
    url: str
    reason: str
    detail: str = ""
    excerpt: str = ""

    @staticmethod
    def of(id: str, url: str, text: str, reason: str, detail: str = "") -> Dropped:
        """Returns a drop with the beginning of `text` as its excerpt, on one line."""
        return Dropped(id, url, reason, detail, " ".join(text[: 2 * EXCERPT_CHARS].split())[:EXCERPT_CHARS])


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Writes the drops of one partition, in the order given."""
    write_table(path, pa.Table.from_pylist([asdict(item) for item in dropped], schema=DROPPED_SCHEMA))


def read_dropped(artifact_dir: Path) -> Iterator[Dropped]:
    """Yields all drops of an artifact in order, one file in memory at a time; nothing for a stage that writes none."""
    for path in sorted(artifact_dir.glob("dropped-*.parquet")):
        for row in read_table(path).to_pylist():
            yield Dropped(**row)


def sample_dropped(artifact_dir: Path, n_per_reason: int = SAMPLES_PER_REASON) -> dict[str, list[Dropped]]:
    """Returns up to `n_per_reason` drops of each reason of an artifact; see `sampled`."""
    return sampled(read_dropped(artifact_dir), n_per_reason)


def sampled(dropped: Iterable[Dropped], n_per_reason: int) -> dict[str, list[Dropped]]:
    """Returns up to `n_per_reason` drops for each reason, drawn by a hash of their address: always the same ones."""
    by_reason: Mapping[str, list[Dropped]] = defaultdict(list)
    for item in dropped:
        chosen = by_reason[item.reason]
        chosen.append(item)
        if len(chosen) >= 2 * n_per_reason:
            chosen[:] = sorted(chosen, key=_draw)[:n_per_reason]
    return {reason: sorted(by_reason[reason], key=_draw)[:n_per_reason] for reason in sorted(by_reason)}


def _draw(item: Dropped) -> tuple[bytes, str]:
    return hashlib.blake2b(item.url.encode(), digest_size=8).digest(), item.url
