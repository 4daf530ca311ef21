"""Published tokenizers as ours: byte-level BPE of GPT-2, Qwen3 and others, with our special tokens at ids 0 to 5.

A text falls into the same tokens as before; only their ids move, to make room at the front. Special tokens of the
published tokenizer stay in the vocabulary, and like ours no text is encoded to them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from .fast_encoder import HARD_TEXTS
from .tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, Tokenizer

MAX_BYTES = 64 << 20
"""Of a `tokenizer.json`; Qwen3's has 11 MB."""


@dataclass(frozen=True)
class ImportedTokenizer:
    """A published tokenizer in our form."""

    tokenizer: Tokenizer
    published_ids: tuple[int | None, ...]
    """By our id, that of the same token in the published tokenizer; None: the token is new."""

    @property
    def n_published(self) -> int:
        """Number of tokens of the published tokenizer."""
        return sum(published is not None for published in self.published_ids)


def import_tokenizer(directory: Path) -> ImportedTokenizer:
    """Reads the `tokenizer.json` of a directory in Hugging Face's layout and gives it our special tokens.

    Those that it has already are moved, the others are added. Raises ValueError when the file is missing, is no
    byte-level BPE, or some text would fall into other tokens than before.
    """
    path = directory / TOKENIZER_FILE
    try:
        state = path.stat()
    except OSError as error:
        raise ValueError(
            f"{directory} has no {TOKENIZER_FILE}: save the model's tokenizer there too, as transformers' "
            "AutoTokenizer.save_pretrained does"
        ) from error
    return _import(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _import(path: Path, *_state: int) -> ImportedTokenizer:
    """Reads the file; the arguments after the path are there to notice that it has changed."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes, which no tokenizer.json of byte-level BPE needs")
    try:
        published = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises a plain Exception for what it cannot read
        raise ValueError(f"{path} is not a tokenizer of the library tokenizers: {error}") from error
    content = json.loads(
        published.to_str()
    )  # as tokenizers writes it today: old files leave out what goes without saying
    vocabulary = published.get_vocab(with_added_tokens=True)
    _require_byte_level(path, content, vocabulary)
    old_ids = [vocabulary.get(token) for token in SPECIAL_TOKENS]
    old_ids += sorted(set(vocabulary.values()) - set(old_ids))
    tokens = {old_id: token for token, old_id in vocabulary.items()}
    ours = [*SPECIAL_TOKENS, *(tokens[old_id] for old_id in old_ids[len(SPECIAL_TOKENS) :] if old_id is not None)]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(_with_ids(content, ours))))
    published.encode_special_tokens = True
    for text in HARD_TEXTS:
        expected = published.encode(text, add_special_tokens=False).ids
        if [old_ids[token] for token in tokenizer.encode(text)] != expected:
            raise ValueError(
                f"{path} cannot be taken over: {text[:40]!r} would fall into other tokens than it does now"
            )
    return ImportedTokenizer(tokenizer, tuple(old_ids))


def _require_byte_level(path: Path, content: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """Raises ValueError unless a tokenizer is byte-level BPE, with all bytes and without gaps in its ids."""
    kind, decoder = content["model"].get("type"), content.get("decoder") or {}
    decoders = [part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part]
    if kind != "BPE" or "ByteLevel" not in decoders:
        raise ValueError(
            f"{path} is a {kind} tokenizer with decoder {', '.join(decoders) or 'none'}; supported is byte-level BPE, "
            "as GPT-2 and Qwen3 have it"
        )
    missing = [byte for byte in pre_tokenizers.ByteLevel.alphabet() if byte not in vocabulary]
    if missing:
        raise ValueError(f"{path} has no token for {len(missing)} of the 256 bytes, so it cannot encode every text")
    if set(vocabulary.values()) != set(range(len(vocabulary))):
        raise ValueError(f"{path} has {len(vocabulary)} tokens, whose ids are not 0 to {len(vocabulary) - 1}")


def _with_ids(content: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Returns the content of a tokenizer's file in which each token's id is its index in `tokens`."""
    ids = {token: i for i, token in enumerate(tokens)}
    added = {token["content"]: token for token in content["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added |= dict.fromkeys(SPECIAL_TOKENS, plain)
    special = [values | {"content": token, "id": ids[token], "special": True} for token, values in added.items()]
    return {
        **content,
        "model": content["model"] | {"vocab": ids},
        "added_tokens": sorted(special, key=lambda token: token["id"]),
        "post_processor": None,  # `<|document|>` is put before a text by those who encode it
        "truncation": None,
        "padding": None,
    }
