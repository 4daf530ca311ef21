"""Encoding by gigatoken: the ids of `tokenizers`, some 50 times faster. It is checked before it is used.

gigatoken splits text with a hand-written matcher of the pattern and remembers the ids of every piece that it has seen
(some 100 bytes each, kept as long as the encoder lives). It is a young library, so `load_fast_encoder` first compares
it with `tokenizers` on texts that are hard to split and on the tokens themselves. Where it is missing (a bare GPU
node), refuses the tokenizer or differs, `tokenizers` is used.
"""

from __future__ import annotations

import functools
import json
import logging
import random
import unicodedata
from collections.abc import Sequence

import numpy as np
import tokenizers

logger = logging.getLogger(__name__)

HARD_TEXTS = (
    "",
    " ",
    "The baker's dough: don't hurry, they'll rise! I'M SURE WE'VE 'Tis 'twas o'clock ''s 's'S '\u017f \u017f \u212a",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Deich. Où est le cœur naïf ? ¿Año? Ångström, İstanbul",
    "Съешь ещё этих мягких булок. Ξεσκεπάζω την ψυχοφθόρα. שפן אכל קצת גזר. نص حكيم له سر قاطع ٣٤٥",
    "我能吞下玻璃而不伤身体。私はガラスを食べられます。나는 유리를 먹을 수 있어요. มนุษย์สุดประเสริฐ. मैं काँच खा सकता हूँ १२३",
    'def f(x: int = 0x1F) -> str:\n    """Doc."""\n\tif x != 1_000:\n        return f"{x:>8}\\n"  # ok\n\n\n}));//-->',
    "1 12 123 1234 12345678901 3.14159 1,000,000 ½ Ⅷ x² 2024-02-29T23:59:59Z 0xdeadbeef v1.2.3-rc4",
    "🍞🥖 👩\u200d👩\u200d👧 👍🏽 🇩🇪 e\u0301 n\u0303 \u200b\ufeff\u00ad \U0001d49c\U00020000 \ufffd \ue000 \U0010ffff",
    "  two   three    \n  \n\n   x\t\ty \t z\r\n\r\n\r \u00a0\u00a0a \u3000b\u2028c\u2029\u0085d\x0b\x0c\x1c\x00\x7f  ",
    "<|document|>a<|pad|> <|system|>\n<|user|>hello<|assistant|><|end|><|end|><|endoftext|><s></s>[INST]<|",
    "a" * 500 + " " * 500 + "x" + "\n" * 300 + "!" * 300 + "7" * 100 + "é" * 200 + "中" * 200 + " \n" * 100 + "   ",
)
"""Where splitters go wrong: contractions, scripts, digits, runs, odd white space, texts that spell special tokens."""

N_SAMPLED_TOKENS = 4096

# All characters below this are assigned, so for them Unicode tables of different years agree.
FIRST_UNASSIGNED = 0x378


class FastEncoder:
    """Text to ids by gigatoken; a text with characters younger than Python's Unicode goes to `tokenizers`."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Loads the tokenizer; raises ImportError without gigatoken, RuntimeError when gigatoken refuses it."""
        import gigatoken

        settings = json.loads(backend.to_str())
        settings["added_tokens"] = []  # else gigatoken takes "<|end|>" in a text for the special token
        self._gigatoken = gigatoken.Tokenizer.from_json(json.dumps(settings))
        self._backend = backend

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, uint32 `(n_tokens,)`."""
        if has_new_characters(text):
            return encode_with_tokenizers(self._backend, [text])[0]
        return self._gigatoken.encode(text)


def load_fast_encoder(backend: tokenizers.Tokenizer) -> FastEncoder | None:
    """Returns a fast encoder that gave the same ids as `backend` on all check texts, or None; why is logged once."""
    try:
        encoder = FastEncoder(backend)
        n_differing = _count_differing(encoder, backend)
    except ImportError:
        _log_once(logging.INFO, "gigatoken is not installed: text is encoded with the slower tokenizers")
        return None
    except Exception as error:  # of another project's code: whatever it is, there is a slower way
        _log_once(logging.WARNING, f"gigatoken failed ({error!r:.200}): text is encoded with the slower tokenizers")
        return None
    if n_differing:
        reason = f"gigatoken's ids differ from those of tokenizers on {n_differing} check texts"
        _log_once(logging.WARNING, f"{reason}: text is encoded with the slower tokenizers")
        return None
    return encoder


def encode_with_tokenizers(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of each text by the `tokenizers` library, uint32 `(n_tokens,)`, encoded in parallel."""
    return [np.array(row.ids, np.uint32) for row in backend.encode_batch_fast(texts, add_special_tokens=False)]


def has_new_characters(text: str) -> bool:
    """Returns whether a text has characters that Python's Unicode tables lack, or halves of surrogate pairs.

    Libraries follow Unicode at their own pace, and a letter that only one of them knows is split differently: gigatoken
    0.10 has Unicode 17, tokenizers 0.23 Unicode 16, which is 4,657 characters. The tables of Python 3.11 to 3.14 are
    no younger than either, so they are all unassigned here.
    """
    if text.isascii():
        return False
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    uncommon = np.unique(codes[codes >= FIRST_UNASSIGNED])
    return any(unicodedata.category(chr(code)) in ("Cn", "Cs") for code in uncommon.tolist())


def check_texts(backend: tokenizers.Tokenizer) -> list[str]:
    """`HARD_TEXTS`, and the words of up to 4,096 tokens in seeded random order, 16 in a row."""
    rng = random.Random(0)
    ids = rng.sample(range(backend.get_vocab_size()), min(N_SAMPLED_TOKENS, backend.get_vocab_size()))
    words = [backend.decode([i], skip_special_tokens=False) for i in ids]
    return [*HARD_TEXTS, *("".join(words[start : start + 16]) for start in range(0, len(words), 16))]


def _count_differing(encoder: FastEncoder, backend: tokenizers.Tokenizer) -> int:
    texts = check_texts(backend)
    expected = encode_with_tokenizers(backend, texts)
    return sum(not np.array_equal(encoder.encode(text), ids) for text, ids in zip(texts, expected, strict=True))


@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)
