"""Bits per byte: how many bits a model needs for a byte of text, whatever its tokenizer. Lower is better.

Loss per token cannot be compared between tokenizers; bits per UTF-8 byte can, and with general compressors too.
The unit is the fixed held-out document, never a loader's stream, so packing and batching do not move the number.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .likelihood import Advance, token_log_likelihoods


def document_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Each text as the model met documents in training: `<|document|>`, then its tokens."""
    return [[tokenizer.document_token, *tokens] for tokens in tokenizer.encode_batch(list(texts))]


def text_bytes(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """The UTF-8 bytes of each text itself, whatever tokens stand for it."""
    return np.array([len(text.encode()) for text in texts], dtype=np.float64)


def text_bits(
    model: GPT, documents: Sequence[Sequence[int]], *, batch_tokens: int, advance: Advance = lambda _: None
) -> npt.NDArray[np.float64]:
    """The bits (-log2 p) that `model` spends on each of `document_tokens`; every token is predicted exactly once."""
    scores = token_log_likelihoods(model, documents, batch_tokens=batch_tokens, advance=advance)
    return np.array([-values.sum() / np.log(2) for values in scores])


def xz_bits_per_byte(texts: Sequence[str]) -> float:
    """Bits per byte of `xz -9` on the same texts joined by newlines: what a general compressor makes of them.

    xz sees nothing but these texts, while the model has read the training documents.
    """
    content = "\n".join(texts).encode()
    if not content:
        raise ValueError("no bits per byte can be computed: the held-out documents hold no text")
    return 8 * len(lzma.compress(content, preset=9)) / len(content)
