"""Mojibake: UTF-8 that somebody read as windows-1252 ("Ã©" for "é", "â€™" for "’"), once or several times.

Only what nobody can have meant is changed. A whole run of characters above ASCII must turn back into valid UTF-8, and
it must be no accented letter with the punctuation that may follow one: in "MAÇÃ”" a quotation ends, in "Ã©" nothing.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

MAX_ROUNDS = 4
"""How many times a text may have been read wrongly; every round undoes one."""

# The characters that windows-1252 shows for the bytes 0x80 to 0xff; where it has none, control characters stand.
_CHARS = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0x100))
_BYTES = {ord(char): 0x80 + index for index, char in enumerate(_CHARS)}
_LATER = re.escape(_CHARS[:0x40] + "".join(map(chr, range(0x80, 0xA0))))  # bytes after the first of a sequence
_RUN = re.compile(f"[{_LATER}À-ÿ]+")
_SEQUENCE = re.compile(f"[Â-ô][{_LATER}](?:(?<=[Â-ß].)|[{_LATER}])")

# What may follow an accented letter: the end of a quotation or a sentence, a mark, a power.
_FOLLOWERS = frozenset("‘’“”‹›«»…–—•™®©°\u00a0¡¿²³¹±")
_ALONE = frozenset(["Ã\u00a0", *(f"Â{char}" for char in "\u00a0°©®«»")])  # "à", and signs that stand by themselves
# The last byte of ” has no character in windows-1252 and gets lost.
_CUT_QUOTE = re.compile(f"â€\ufffd?(?![{_LATER}])")
_LEFT_OVER = re.compile("[ÂÃâð\ufffd](?:(?<=[ÂÃ])[€‚ƒ„†‡ˆ‰¢£¤¥¦§¨¬¯´¶¸¼½¾©\u00ad]|(?<=â)€|(?<=ð)Ÿ|(?<=\ufffd))")

_LATER_IN_UTF8 = rb"(?:\xc2[\x80-\xbf]|[\xc5\xc6\xcb][\x80-\xbf]|\xe2[\x80\x82\x84][\x80-\xbf])"
SUSPECT_BYTES = re.compile(
    rb"\xc3(?:[\x82-\x9f]" + _LATER_IN_UTF8 + rb"|[\xa0-\xb4]" + _LATER_IN_UTF8 + _LATER_IN_UTF8 + rb")"
)
"""Found in a page in UTF-8 that has mojibake, and in few others: so that most need not be decoded to know."""


def repair_mojibake(text: str) -> tuple[str, int]:
    """Returns the text with mojibake decoded, and how many runs of characters that were.

    A correct text stays as it is.
    """
    n_repaired = 0
    for _ in range(MAX_ROUNDS):
        text, n = _repair_once(text)
        if not n:
            break
        n_repaired += n
    text, n = _CUT_QUOTE.subn("”", text)
    return text, n_repaired + n


def mojibake_share(text: str) -> float:
    """Returns the share of characters that tell of a wrong charset: replacement characters, pairs as "Ã©" left over."""
    return len(_LEFT_OVER.findall(text)) / len(text) if text and not text.isascii() else 0.0


def _repair_once(text: str) -> tuple[str, int]:
    if text.isascii() or not _SEQUENCE.search(text):
        return text, 0
    runs = list(_RUN.finditer(text))
    meant = [_meant(run[0]) for run in runs]
    certain = [bool(new) and _is_certain(run, new) for run, new in zip(runs, meant, strict=True)]
    if any(certain) and all(meant) and max(text) <= "\u2122":
        certain = [True] * len(runs)  # no run contradicts that the whole text was read wrongly
    pieces, end = [], 0
    for run, new in itertools.compress(zip(runs, meant, strict=True), certain):
        pieces += [text[end : run.start()], new]
        end = run.end()
    return "".join([*pieces, text[end:]]), sum(certain)


def _meant(run: str) -> str:
    """Returns what the bytes behind `run` say as UTF-8; "" where they are not valid or no character that is in use."""
    try:
        meant = bytes(_BYTES.get(ord(char), ord(char)) for char in run).decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if any(unicodedata.category(char) in ("Cn", "Co") for char in meant) else meant


def _is_certain(run: re.Match[str], meant: str) -> bool:
    """Returns whether nobody can have written this run, which would decode to `meant`."""
    if len(run[0]) == 2:
        return _is_certain_pair(run)
    is_natural = all(char in _FOLLOWERS or char.isalpha() for char in run[0])
    return len(meant) > 2 or not is_natural


def _is_certain_pair(run: re.Match[str]) -> bool:
    """Returns the same for two characters. The first is a capital letter: European, or for Cyrillic."""
    lead, later = run[0][0], run[0][1]
    before, after = run.string[: run.start()][-1:], run.string[run.end() :][:1]
    if lead not in "ÂÃÄÅÐÑ":
        return False
    if before.islower() or after.islower():
        return True  # a capital letter inside of a word in small ones
    if later in _FOLLOWERS:  # as in "MAÇÃ”"; but "20 Â°C", "Ã  part"
        return lead + later in _ALONE and not before.isalpha()
    return not later.isalpha() or not (before.isupper() or after.isupper())
