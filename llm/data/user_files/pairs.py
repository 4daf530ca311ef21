"""Preference pairs out of files: a prompt, the answer that somebody liked better, and the other one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .json_records import BadExamples, BadRecords, Record, read_examples
from .messages import BadRecord, Message


@dataclass(frozen=True)
class Pair:
    """A chat that ends with a question, and two answers to it."""

    prompt: list[Message]
    chosen: str
    rejected: str

    @property
    def key(self) -> str:
        """What decides whether it is held out: the prompt, so that no prompt is on both sides."""
        return json.dumps(self.prompt, ensure_ascii=False)


def read_pairs(paths: Iterable[Path], bad_examples: BadExamples = "refuse") -> tuple[list[Pair], dict[str, int]]:
    """Returns the pairs of files in their order, each once, and how many were dropped for which reason.

    A record has `chosen` and `rejected`, texts or chats that end with the assistant, and `prompt` (text or messages),
    or `instruction` and `input`; without either the chats hold the prompt, as in Anthropic's HH. Raises ValueError that
    names file, line and field for what is malformed, unless that is to be dropped.
    """
    pairs: dict[tuple[str, str, str], Pair] = {}
    bad = BadRecords("reference", bad_examples)
    for _, pair in read_examples(paths, pair_of, bad):
        identity = pair.key, pair.chosen, pair.rejected
        if pair.chosen == pair.rejected:
            bad.dropped["both answers the same"] += 1
        elif identity in pairs:
            bad.dropped["duplicate"] += 1
        else:
            pairs[identity] = pair
    return list(pairs.values()), dict(bad.dropped)


def pair_of(record: Record) -> Pair:
    """Returns the pair of a record; see `read_pairs`."""
    (*before_chosen, chosen), (*before_rejected, rejected) = (
        record.chat(name, last="assistant") for name in ("chosen", "rejected")
    )
    if "prompt" in record.values or "instruction" in record.values:
        prompt = record.asked()
        for before in (before_chosen, before_rejected):
            prompt = _longer(prompt, before, record.place)
    elif before_chosen and before_chosen == before_rejected:
        prompt = before_chosen
    else:
        raise BadRecord(
            "no common prompt",
            f"{record.place}: what is asked is not in both of 'chosen' and 'rejected', or not the same; give it as "
            "field 'prompt'",
        )
    return Pair(record.with_system(prompt), chosen["content"], rejected["content"])


def _longer(a: list[Message], b: list[Message], place: str) -> list[Message]:
    """Returns the beginning of a chat that holds the other one: a field `prompt` often has its last question only."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    if not any(longer[i : i + len(shorter)] == shorter for i in range(len(longer) - len(shorter) + 1)):
        raise BadRecord(
            "other prompt", f"{place}: the prompt says something else than 'chosen' or 'rejected' before it"
        )
    return longer
