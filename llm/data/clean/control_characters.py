"""Control characters: what stands in a file that is no text, and is never part of one."""

from __future__ import annotations

import re

MAX_NOISE = 0.01
"""Largest share of control characters (in a page of replacement characters too) in what still counts as text."""

_IN_BOTH = "\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff"  # the white space \t \n \r is none of them

# The two differ in the form feed, which is white space between words to a parser of HTML but only a page break in a
# text, and in C1: in a page they tell of a wrong charset, in a text that is Unicode already U+0085 ends a line.
CONTROL_IN_HTML = re.compile(f"[{_IN_BOTH}\x80-\x9f]")
CONTROL_IN_TEXT = re.compile(f"[{_IN_BOTH}\x0c]")
