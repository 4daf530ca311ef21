"""Questions with answers that can be checked, out of files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .json_records import BadExamples, BadRecords, Record, one_answer_each, read_examples
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


def read_questions(
    paths: Iterable[Path], bad_examples: BadExamples = "refuse"
) -> tuple[list[Question], dict[str, int]]:
    """Returns the questions of files in their order, each once, and how many were dropped for which reason.

    A record has `prompt` (text or messages), or `instruction` and `input`, and `answer`. Raises ValueError that names
    file, line and field for what is malformed, and for a question with two answers, unless these are to be dropped.
    """
    bad = BadRecords("reinforce", bad_examples)
    read = read_examples(paths, question_of, bad)
    found = one_answer_each(
        read, lambda question: (question.key, question.answer), bad, words="the same question has the answer"
    )
    return list(found.values()), {reason: n for reason, n in bad.dropped.items() if n}


def question_of(record: Record) -> Question:
    """Returns the question of a record; see `read_questions`."""
    value = record.values.get("answer")
    answer = str(value) if isinstance(value, int | float) else record.text("answer").strip()
    return Question(record.with_system(record.asked()), answer)
