"""Texts and chats in records: one reading of who says what, and one set of reasons to refuse it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Message = dict[str, str]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""Names of roles in the data that are about, and ours."""

EMPTY_QUESTION, EMPTY_ANSWER = "empty question", "empty answer"

_HALF = re.compile("[\ud800-\udfff]")


class BadRecord(ValueError):
    """A record that is refused; `reason` is one of a few words, the message says which field and why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def text_of(values: Mapping[str, Any], field: str, place: str, *, when_empty: str = "empty text") -> str:
    """Returns the text of a field, which is called `place` in errors.

    Raises BadRecord when it is missing, no text, empty (the reason is then `when_empty`), or no valid Unicode.
    """
    if field not in values:
        raise BadRecord("missing field", f"{place} is missing; there are {', '.join(map(repr, values)) or 'none'}")
    value = values[field]
    if not isinstance(value, str):
        raise BadRecord("no text", f"{place} is {value!r:.80}; expected text")
    if not value.strip():
        raise BadRecord(when_empty, f"{place} is empty")
    if _HALF.search(value):
        raise BadRecord("no text", f"{place} holds half a character (a lone surrogate)")
    return value


def with_input(instruction: str, values: Mapping[str, Any], field: str, place: str) -> str:
    """Returns the question of an Alpaca record: the instruction, and below it the text of `field`, where there is one.

    Raises BadRecord as `text_of` does.
    """
    added = values.get(field)
    if added is None or (isinstance(added, str) and not added.strip()):
        return instruction
    return f"{instruction}\n\n{text_of(values, field, place)}"


def messages_of(turns: Any, place: str) -> list[Message]:
    """Returns the messages of a list of `{role, content}` or, as ShareGPT has them, `{from, value}`, with our roles.

    Raises BadRecord, naming the turn and its field, for what is neither, an unknown role, or as `text_of` does.
    """
    if not isinstance(turns, list) or not turns:
        raise BadRecord("no messages", f"{place} is {turns!r:.80}; expected a list of messages")
    return [_message(turn, f"{place}[{number}]") for number, turn in enumerate(turns)]


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRecord("no messages", f"{place} is {turn!r:.80}; expected an object with role and content")
    role_field, text_field = ("from", "value") if "from" in turn else ("role", "content")
    role = text_of(turn, role_field, f"{place}.{role_field}")
    if role not in ROLES:
        raise BadRecord("unknown role", f"{place}.{role_field} is {role!r}; allowed: {', '.join(ROLES)}")
    when_empty = EMPTY_ANSWER if ROLES[role] == "assistant" else EMPTY_QUESTION
    return {"role": ROLES[role], "content": text_of(turn, text_field, f"{place}.{text_field}", when_empty=when_empty)}


def check_turns(messages: Sequence[Message], place: str, *, last: Literal["user", "assistant"]) -> None:
    """Raises BadRecord unless perhaps a system message, then user and assistant in turn speak, `last` at the end."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[number % 2] for number in range(len(turns))]
    if not turns or turns != expected or turns[-1] != last:
        raise BadRecord(
            "roles out of order",
            f"{place}: the roles are {', '.join(roles[:12])}; allowed: user and assistant in turn, the {last} last, "
            "and at most one system message, before them",
        )
