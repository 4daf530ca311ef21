"""Questions with answers that can be checked, out of files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .json_records import read_records
from .messages import Message


@dataclass(frozen=True)
class Question:
    """A chat that ends with a question, and the right answer to it."""

    prompt: list[Message]
    answer: str

    @property
    def key(self) -> str:
        """What decides whether it is held out."""
        return json.dumps(self.prompt, ensure_ascii=False)


def read_questions(paths: Iterable[Path]) -> tuple[list[Question], dict[str, int]]:
    """Returns the questions of files in their order, each once, and how many were dropped for which reason.

    A record has `prompt` (text or messages), or `instruction` and `input`, and `answer`. Raises ValueError that names
    file, line and field for what is malformed, and for a question with two answers.
    """
    found: dict[str, Question] = {}
    dropped = Counter[str]()
    for record in (record for path in paths for record in read_records(path)):
        value = record.values.get("answer")
        answer = str(value) if isinstance(value, int | float) else record.text("answer").strip()
        question = Question(record.with_system(record.asked()), answer)
        before = found.setdefault(question.key, question)
        if before.answer != answer:
            raise ValueError(f"{record.place}: the same question has another answer before, {before.answer!r}")
        dropped["duplicate"] += before is not question
    return list(found.values()), {reason: n for reason, n in dropped.items() if n}
