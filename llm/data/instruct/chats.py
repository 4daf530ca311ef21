"""Records of instruction data in their several forms as chats of one form: who says what, in turn."""

from __future__ import annotations

import re
from typing import Any

from ...tokenizer import SPECIAL_TOKENS
from ..messages import EMPTY_ANSWER, EMPTY_QUESTION, BadRecord, Message, check_turns, messages_of, text_of, with_input
from .config import InstructSource

SPECIAL_TOKEN, DUPLICATE = "special token", "duplicate"
ALWAYS_DROPPED = (EMPTY_ANSWER, SPECIAL_TOKEN, DUPLICATE)
"""Sound records that there is nothing to learn from, or that our chat template refuses (see llm/tokenizer.py)."""

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def chat_of(record: Any, source: InstructSource) -> list[Message]:
    """The chat of a record: perhaps a system message, then user and assistant in turn, the assistant last.

    Raises BadRecord for any other record.
    """
    if not isinstance(record, dict):
        raise BadRecord("no object", f"expected an object, found {record!r:.80}")
    messages = _of_alpaca(record, source) if source.kind == "alpaca" else _of_messages(record, source)
    for number, message in enumerate(messages, 1):
        if found := _SPECIAL.search(message["content"]):
            place = f"message {number}, of the {message['role']},"
            raise BadRecord(SPECIAL_TOKEN, f"{place} spells {found[0]}, which marks turns")
    return messages


def _of_alpaca(record: dict[str, Any], source: InstructSource) -> list[Message]:
    question = text_of(record, source.instruction_field, source.instruction_field, when_empty=EMPTY_QUESTION)
    if source.input_field:
        question = with_input(question, record, source.input_field, source.input_field)
    answer = text_of(record, source.output_field, source.output_field, when_empty=EMPTY_ANSWER)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _of_messages(record: dict[str, Any], source: InstructSource) -> list[Message]:
    names = [source.messages_field] if source.messages_field else ["messages", "conversations"]
    name = next((name for name in names if name in record), None)
    if name is None:
        found = ", ".join(map(repr, record)) or "none"
        raise BadRecord("missing field", f"{' or '.join(names)} is missing; there are {found}")
    messages = messages_of(record[name], name)
    check_turns(messages, name, last="assistant")
    return messages
