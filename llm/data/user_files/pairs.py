"""Preference pairs out of files: a prompt, the answer that somebody liked better, and the other one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .json_records import Record, read_records
from .messages import Message, check_turns, messages_of


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


def read_pairs(paths: Iterable[Path]) -> tuple[list[Pair], dict[str, int]]:
    """Returns the pairs of files in their order, each once, and how many were dropped for which reason.

    A record has `chosen` and `rejected`, texts or chats that end with the assistant, and `prompt` (text or messages),
    or `instruction` and `input`; without either the chats hold the prompt. Raises ValueError that names file, line and
    field for what is malformed.
    """
    pairs: dict[tuple[str, str, str], Pair] = {}
    dropped = Counter[str]()
    for record in (record for path in paths for record in read_records(path)):
        pair = pair_of(record)
        identity = pair.key, pair.chosen, pair.rejected
        if pair.chosen == pair.rejected:
            dropped["both answers the same"] += 1
        elif identity in pairs:
            dropped["duplicate"] += 1
        else:
            pairs[identity] = pair
    return list(pairs.values()), dict(dropped)


def pair_of(record: Record) -> Pair:
    """Returns the pair of a record; see `read_pairs`."""
    begun = "prompt" in record.values or "instruction" in record.values
    before = record.prompt() if begun else None
    prompts, answers = [], []
    for name in ("chosen", "rejected"):
        prompt, answer = _prompt_and_answer(record, name)
        prompts.append(prompt if before is None else before)
        answers.append(answer)
    if prompts[0] is None or prompts[0] != prompts[1]:
        raise ValueError(
            f"{record.place}: what is asked is not the same for 'chosen' and 'rejected'; give it as field 'prompt'"
        )
    return Pair(prompts[0], *answers)


def _prompt_and_answer(record: Record, name: str) -> tuple[list[Message] | None, str]:
    """What a field says before the last answer (None: nothing), and that answer."""
    if not isinstance(record.values.get(name), list):
        return None, record.text(name)
    messages = messages_of(record.values[name], record.field(name))
    if [message["role"] for message in messages] != ["assistant"]:
        check_turns(messages, record.field(name), last="assistant")
    return messages[:-1] or None, messages[-1]["content"]
