"""How near an answer is to the reference: exact match and token F1, as SQuAD counts them.

Rajpurkar et al. (2016), "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1: both texts are
compared in lower case, without punctuation and the articles a, an, the, with single spaces.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """The words that are compared."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def is_exact(answer: str, reference: str) -> bool:
    """Whether the two are the same once normalised."""
    return normalised(answer) == normalised(reference)


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the answer's words, 0 to 1; two empty texts are equal."""
    found, wanted = normalised(answer), normalised(reference)
    n_common = (Counter(found) & Counter(wanted)).total()
    return 2 * n_common / (len(found) + len(wanted)) if found or wanted else 1.0
