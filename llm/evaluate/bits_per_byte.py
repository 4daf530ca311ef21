"""Bits per byte: how many bits a model needs for a byte of text, whatever its tokenizer. Lower is better.

Loss per token cannot be compared between tokenizers; bits per UTF-8 byte can, and with general compressors too.
The unit is the fixed held-out document, never a loader's stream, so packing and batching do not move the number.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence

import numpy as np

from ..documents import Document
from ..model.gpt import GPT
from ..statistics import Estimate
from ..tokenizer.tokenizer import Tokenizer
from .likelihood import Advance, token_log_likelihoods
from .metrics import BITS_PER_BYTE, DOCUMENTS, XZ
from .scores import Score, Units

MAX_SOURCES = 12
"""Sources whose documents are scored by themselves at most, those with the most bytes."""


def document_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Returns each text as the model met documents in training: `<|document|>`, then its tokens."""
    return [[tokenizer.document_token, *tokens] for tokens in tokenizer.encode_batch(list(texts))]


def bits_per_byte(
    model: GPT,
    documents: Sequence[Document],
    tokens: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
    advance: Advance = lambda _: None,
) -> Units:
    """Returns the bits (-log2 p) that `model` spends on each document, and the UTF-8 bytes of its text.

    `tokens` are the `document_tokens`; each is predicted exactly once. Where there are several sources, the documents
    of each are scored by themselves too.
    """
    scores = token_log_likelihoods(model, tokens, batch_tokens=batch_tokens, advance=advance)
    sources = np.array([document.source for document in documents])
    sizes = np.array([len(document.text.encode()) for document in documents], dtype=np.float64)
    names = sorted(set(sources.tolist()), key=lambda name: (-sizes[sources == name].sum(), name))
    parts = {f"source {name or 'unnamed'}": sources == name for name in names[:MAX_SOURCES]}
    return Units(
        benchmark=DOCUMENTS,
        metric=BITS_PER_BYTE,
        ids=[document.id for document in documents],
        values=np.array([-values.sum() / np.log(2) for values in scores]),
        weights=sizes,
        parts=parts if len(names) > 1 else {},
    )


def xz_score(texts: Sequence[str]) -> Score:
    """Returns the bits per byte of `xz -9` on the same texts joined by newlines: what a general compressor needs.

    xz sees nothing but these texts, while the model has read the training documents. It is one number for all texts
    together, so without an interval. Raises ValueError when there is no text.
    """
    content = "\n".join(texts).encode()
    if not content:
        raise ValueError("no bits per byte can be computed: the held-out documents hold no text")
    bits = 8 * len(lzma.compress(content, preset=9)) / len(content)
    return Score(XZ, DOCUMENTS, BITS_PER_BYTE, Estimate(bits, bits, bits, len(texts)), has_interval=False)
