"""The rules of C4 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.2): most remove lines, some drop a
page. Its list of bad words is left out: it removes much harmless text (Dodge et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ....config import Config, setting
from .parts import Failure, Measure, first_failure

LINE_ENDS = (".", "?", "!", '"', "'", "”", "’")
ELLIPSES = ("...", "…")
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
# A sentence ends where marks are followed by white space and something that can begin another, or by the line's end.
_SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]?[^\Wa-z_]|\s*$)")


@dataclass(frozen=True, kw_only=True)
class C4(Config):
    """Which lines are removed, and which pages are then dropped (Raffel et al. 2020). None switches a rule off.

    Made for English prose: with `terminal_punctuation` headings, lists, tables and code go. FineWeb leaves it off.
    """

    terminal_punctuation: bool = True
    """Remove lines that do not end with a full stop, a question or exclamation mark or a quotation mark."""

    min_words_per_line: int | None = setting(3, at_least=0)
    """Remove lines of fewer words than this."""

    max_word_chars: int | None = setting(1_000, at_least=1)
    """Remove lines with a word longer than this, in characters."""

    javascript: bool = True
    """Remove lines that mention JavaScript: most ask to switch it on."""

    policies: bool = True
    """Remove lines that mention cookies, terms of use or a privacy policy."""

    citations: bool = True
    """Remove the marks `[1]`, `[edit]` and `[citation needed]` from lines."""

    lorem_ipsum: bool = True
    """Drop a page with the text of a typesetter's dummy, "lorem ipsum"."""

    curly_brackets: bool = True
    """Drop a page with a curly bracket: mostly code."""

    min_sentences: int | None = setting(5, at_least=0)
    """Drop a page if fewer sentences than this are left."""


def c4(text: str, limits: C4) -> tuple[str, Failure | None]:
    """Returns the text without the lines that C4 removes, and why the page is dropped, None for a good one.

    A blank line stays where one stood between two lines that stay.
    """
    lower = text.lower()
    if limits.lorem_ipsum and "lorem ipsum" in lower:
        return text, Failure("C4: lorem ipsum", "the text holds 'lorem ipsum', allowed none")
    if limits.curly_brackets and "{" in text:
        return text, Failure("C4: curly bracket", f"{text.count('{')} curly brackets, allowed none")
    phrases = ("javascript",) * limits.javascript + POLICY_PHRASES * limits.policies
    kept = _kept_lines(text, limits, [phrase for phrase in phrases if phrase in lower])
    if limits.min_sentences is None:
        return kept, None
    n_sentences = 0
    for line in kept.split("\n"):
        n_sentences += n_sentences_in(line)
        if n_sentences >= limits.min_sentences:
            return kept, None
    return kept, first_failure("C4", [Measure("sentences", n_sentences, limits.min_sentences)])


def _kept_lines(text: str, limits: C4, phrases: Sequence[str]) -> str:
    """The lines that stay; a line with one of the `phrases` (in lower case) does not."""
    kept: list[str] = []
    for line in text.split("\n"):
        cleaned = _CITATION.sub("", line).rstrip() if limits.citations and "[" in line else line.rstrip()
        if not cleaned:
            kept += [""] if kept and kept[-1] else []
        elif not (_is_no_sentence(cleaned, limits) or any(phrase in cleaned.lower() for phrase in phrases)):
            kept.append(cleaned)
    return "\n".join(kept).strip("\n")


def _is_no_sentence(line: str, limits: C4) -> bool:
    """Whether a line is too short for a sentence, does not end as one, or has a word that is none."""
    if limits.terminal_punctuation and (not line.endswith(LINE_ENDS) or line.endswith(ELLIPSES)):
        return True
    if limits.min_words_per_line is not None:
        first_words = line.split(None, limits.min_words_per_line)  # no more than it takes to know
        if len(first_words) < limits.min_words_per_line:
            return True
    if limits.max_word_chars is None or len(line) <= limits.max_word_chars:
        return False
    return max(map(len, line.split())) > limits.max_word_chars


def n_sentences_in(line: str) -> int:
    """Returns how many sentences a line holds: at least one if it holds a letter or digit, whatever it ends with."""
    if not any(map(str.isalnum, line)):
        return 0
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    has_rest = not ends or any(map(str.isalnum, line[ends[-1] :]))
    return len(ends) + has_rest
