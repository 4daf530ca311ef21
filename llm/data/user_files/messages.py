"""Texts and chats in records and requests: one reading of who says what, and one set of reasons to refuse it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Message = dict[str, Any]
"""The texts `role` and `content`; in a turn of the assistant that is not to be learned also `weight`, 0."""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""Names of roles in the data that are about, and ours."""

EMPTY_QUESTION, EMPTY_ANSWER = "empty question", "empty answer"

SYSTEM_FIELDS = ("system", "system_prompt")
"""Fields of a record, beside its chat, that hold what the system says."""

UNREAD = {
    "turn": ("tool_calls", "function_call", "refusal", "audio"),
    "record": ("history", "tools", "functions", "images", "image", "audios", "videos"),
}
"""Fields that change what a chat means, and cannot be obeyed: a record that fills one is refused."""

_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_SPOKEN = re.compile(rf"\n\n({'|'.join(_SPEAKERS)}):")

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


def our_role(name: Any) -> Any:
    """Returns our name of a role; what is no name of one comes back as it is."""
    return ROLES.get(name, name) if isinstance(name, str) else name


def content_text(content: Any, role: Any) -> Any:
    """Returns the text of what `role` says: text itself, parts of the type `text` joined, and null as an empty one.

    Anything else comes back as it is, null that a user says too. Raises BadRecord for parts of another type.
    """
    if content is None and role in ("system", "assistant"):
        return ""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    if len(parts) != len(content) or not all(isinstance(part.get("text"), str) for part in parts):
        raise BadRecord("no text", "expected text, or a list of parts of the type 'text'")
    return "".join(part["text"] for part in parts)


def without_empty_system(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages but for those of the system that say nothing."""
    return [message for message in messages if message["role"] != "system" or message["content"].strip()]


def messages_of(turns: Any, place: str) -> list[Message]:
    """Returns the messages of a list of `{role, content}` or, as ShareGPT has them, `{from, value}`, with our roles.

    One of the system that says nothing is left out; `weight` 0 (as OpenAI has it) marks a turn that is not learned.
    Raises BadRecord, naming the turn and its field, for what is neither, an unknown role, or as `text_of` does.
    """
    if not isinstance(turns, list) or not turns:
        raise BadRecord("no messages", f"{place} is {turns!r:.80}; expected a list of messages")
    return without_empty_system([_message(turn, f"{place}[{number}]") for number, turn in enumerate(turns)])


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRecord("no messages", f"{place} is {turn!r:.80}; expected an object with role and content")
    role_field, text_field = ("from", "value") if "from" in turn else ("role", "content")
    role = text_of(turn, role_field, f"{place}.{role_field}")
    if role not in ROLES:
        raise BadRecord("unknown role", f"{place}.{role_field} is {role!r}; allowed: {', '.join(ROLES)}")
    require_read(turn, "turn", f"{place}.")
    message = {"role": ROLES[role], "content": _content(turn, text_field, ROLES[role], f"{place}.{text_field}")}
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise BadRecord("unknown weight", f"{place}.weight is {weight!r:.80}; allowed: 0 (not learned) and 1")
    return message | {"weight": 0} if weight == 0 and message["role"] == "assistant" else message


def _content(turn: dict[str, Any], field: str, role: str, place: str) -> str:
    if field not in turn:
        return text_of(turn, field, place)
    try:
        content = content_text(turn[field], role)
    except BadRecord as error:
        raise BadRecord(error.reason, f"{place}: {error}") from None
    if role == "system" and isinstance(content, str) and not content.strip():
        return ""
    return text_of({field: content}, field, place, when_empty=EMPTY_ANSWER if role == "assistant" else EMPTY_QUESTION)


def require_read(values: Mapping[str, Any], kind: Literal["turn", "record"], place: str) -> None:
    """Raises BadRecord for a field that changes what the chat means and is not read; `place` goes before its name."""
    for field in UNREAD[kind]:
        if values.get(field) not in (None, "", "[]", [], {}):
            raise BadRecord("unread field", f"{place}{field} is {values[field]!r:.80}, which is not read: leave it out")


def with_system(messages: list[Message], values: Mapping[str, Any], place: str = "") -> list[Message]:
    """Returns the chat of a record with what its fields beside it say: `system` (or `system_prompt`) before the chat.

    Raises BadRecord when the chat begins with another message of the system, or another field changes its meaning;
    `place` goes before the names of fields.
    """
    require_read(values, "record", place)
    for field in SYSTEM_FIELDS:
        if content := _content({field: values.get(field)}, field, "system", f"{place}{field}"):
            system: Message = {"role": "system", "content": content}
            if messages[:1] == [system]:
                return messages
            if messages and messages[0]["role"] == "system":
                raise BadRecord("two systems", f"{place}{field} and the first message are different ones of the system")
            return [system, *messages]
    return messages


def spoken(text: str) -> list[Message] | None:
    """Returns the messages of a chat in one text, as in Anthropic's HH: `\\n\\nHuman: ...\\n\\nAssistant: ...`.

    None: it is no such text. What has no words (the place for an answer) is no message.
    """
    if not text.startswith("\n\nHuman:"):
        return None
    parts = _SPOKEN.split(text)[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _SPEAKERS[name], "content": said.strip()} for name, said in turns if said.strip()]


def check_turns(messages: Sequence[Message], place: str, *, last: Literal["user", "assistant"]) -> None:
    """Raises BadRecord unless perhaps a system message, then user and assistant in turn speak, `last` at the end."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[number % 2] for number in range(len(turns))]
    if not turns or turns != expected or turns[-1] != last:
        raise BadRecord(
            "roles out of order",
            f"{place}: the roles are {', '.join(roles[:12]) or 'none'}; allowed: user and assistant in turn, the "
            f"{last} last, and at most one system message, before them",
        )
