"""Records of instruction data in their several forms as chats of one form: who says what, in turn."""

from __future__ import annotations

import re
from typing import Any

from ...tokenizer import SPECIAL_TOKENS
from .config import InstructSource

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

EMPTY_ANSWER, SPECIAL_TOKEN, DUPLICATE = "empty answer", "special token", "duplicate"
ALWAYS_DROPPED = (EMPTY_ANSWER, SPECIAL_TOKEN, DUPLICATE)
"""Sound records that there is nothing to learn from, or that our chat template refuses (see llm/tokenizer.py)."""

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class BadExample(ValueError):
    """A record that is no example; `reason` is one of a few words, the message says which field and why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def messages_of(record: Any, source: InstructSource) -> list[Message]:
    """The chat of a record: perhaps a system message, then user and assistant in turn, the assistant last.

    Raises BadExample for any other record.
    """
    if not isinstance(record, dict):
        raise BadExample("no object", f"expected an object, found {record!r:.80}")
    messages = _of_alpaca(record, source) if source.kind == "alpaca" else _of_chat(record, source)
    for place, message in enumerate(messages):
        _check_text(message, f"message {place + 1}, of the {message['role']},")
    _check_turns([message["role"] for message in messages])
    return messages


def _of_alpaca(record: dict[str, Any], source: InstructSource) -> list[Message]:
    question = _text(record, source.instruction_field, source.instruction_field)
    added = record.get(source.input_field) if source.input_field else None
    if added is not None and added != "":
        question = f"{question}\n\n{_text(record, str(source.input_field), str(source.input_field))}"
    answer = _text(record, source.output_field, source.output_field)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _of_chat(record: dict[str, Any], source: InstructSource) -> list[Message]:
    names = [source.messages_field] if source.messages_field else ["messages", "conversations"]
    name = next((name for name in names if name in record), None)
    if name is None:
        raise BadExample("missing field", f"{' or '.join(names)} is missing; there are {', '.join(record) or 'none'}")
    turns = record[name]
    if not isinstance(turns, list) or not turns:
        raise BadExample("no messages", f"{name} is {turns!r:.80}; expected a list of messages")
    return [_message(turn, f"{name}[{place}]") for place, turn in enumerate(turns)]


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadExample("no messages", f"{place} is {turn!r:.80}; expected an object with role and content")
    role_field, text_field = ("from", "value") if "from" in turn else ("role", "content")
    role = _text(turn, role_field, f"{place}.{role_field}")
    if role not in ROLES:
        raise BadExample("unknown role", f"{place}.{role_field} is {role!r}; allowed: {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _text(turn, text_field, f"{place}.{text_field}")}


def _text(values: dict[str, Any], field: str, place: str) -> str:
    if field not in values:
        raise BadExample("missing field", f"{place} is missing; there are {', '.join(map(str, values)) or 'none'}")
    value = values[field]
    if not isinstance(value, str):
        raise BadExample("no text", f"{place} is {value!r:.80}; expected text")
    return value


def _check_text(message: Message, place: str) -> None:
    content = message["content"]
    if not content.strip():
        reason = EMPTY_ANSWER if message["role"] == "assistant" else "empty question"
        raise BadExample(reason, f"{place} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in content):
        raise BadExample("no text", f"{place} holds half a character (a lone surrogate)")
    if found := _SPECIAL.search(content):
        raise BadExample(SPECIAL_TOKEN, f"{place} spells {found[0]}, which marks turns")


def _check_turns(roles: list[str]) -> None:
    start = 1 if roles[0] == "system" else 0
    expected = ["user", "assistant"] * ((len(roles) - start + 1) // 2)
    if roles[start:] != expected or not expected:
        raise BadExample(
            "roles out of order",
            f"the roles are {', '.join(roles[:12])}; allowed: user and assistant in turn, the assistant last, and at "
            "most one system message, before them",
        )
