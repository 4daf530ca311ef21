"""Byte-level BPE tokenizer: encoding and the chat format.

Text is split with the cl100k pattern (words, numbers of up to three digits, punctuation, white space), each piece is
written as bytes, and byte pairs that occur often are merged into tokens (Sennrich et al. 2016; bytes: Radford et al.
2019). All 256 bytes are tokens, so every text can be encoded and `decode(encode(text)) == text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ..files import write_json, write_text
from .fast_encoder import FastEncoder, encode_with_tokenizers, load_fast_encoder

DOCUMENT, PAD, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = (
    "<|document|>",
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
"""Tokens that no text is ever encoded to, ids 0 to 5: `<|document|>` starts a document, `<|end|>` ends a turn."""

N_BYTES = 256
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + N_BYTES
MIN_PAIR_COUNT = 2
"""A byte pair seen only once makes no token."""

# The pattern of OpenAI's cl100k_base. On 60 MB of web text 4.68 bytes per token against 4.52 with GPT-2's pattern.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


class Tokenizer:
    """Text to token ids and back. Ids are ints from 0 to `vocab_size - 1`."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wraps a trained tokenizer of the `tokenizers` library; use `train` or `load`."""
        found = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
        if found != list(range(len(SPECIAL_TOKENS))):
            raise ValueError(
                f"special tokens {SPECIAL_TOKENS} have the ids {found}, expected 0 to 5: not our tokenizer"
            )
        backend.post_processor = None  # of a tokenizer that was exported: who encodes a text puts `<|document|>` there
        backend.encode_special_tokens = True  # "<|end|>" inside a text is seven characters, never the special token
        self._backend = backend

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Returns a tokenizer of `vocab_size` tokens learnt from `texts`.

        The same texts always give the same tokenizer.

        Raises ValueError when `vocab_size` is below 262 or the texts repeat themselves too little to fill it.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(f"vocab_size is {vocab_size}; allowed: {MIN_VOCAB_SIZE} (special tokens, bytes) or more")
        backend = _untrained()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_PAIR_COUNT,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        reached = backend.get_vocab_size()
        if reached < vocab_size:
            raise ValueError(
                f"vocab_size is {vocab_size}, but the text has repetition for {reached} tokens only: "
                f"set vocab_size to {reached} or less, or add documents"
            )
        return Tokenizer(backend)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Returns the tokenizer saved in `folder`."""
        text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        return Tokenizer(tokenizers.Tokenizer.from_str(text))

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`; equal tokenizers have the same."""
        return self._backend.to_str(pretty=True) + "\n"

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, as Hugging Face transformers reads them."""
        write_text(folder / TOKENIZER_FILE, self.to_json())
        write_json(folder / CONFIG_FILE, _hugging_face_config())

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._backend.get_vocab_size()

    @property
    def document_token(self) -> int:
        """Id of `<|document|>`, with which every document and every chat starts."""
        return SPECIAL_TOKENS.index(DOCUMENT)

    @property
    def pad_token(self) -> int:
        """Id of `<|pad|>`, which fills what is left of a sequence."""
        return SPECIAL_TOKENS.index(PAD)

    @property
    def end_token(self) -> int:
        """Id of `<|end|>`, with which every turn of a chat ends."""
        return SPECIAL_TOKENS.index(END)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; never a special token, whatever the text says."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, as lists."""
        return [self._integers.take(ids).tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, uint32 `(n_tokens,)`: for many texts the fast way."""
        if self._fast_encoder is None:
            return encode_with_tokenizers(self._backend, texts)
        return [self._fast_encoder.encode(text) for text in texts]

    @cached_property
    def _integers(self) -> np.ndarray:
        """A Python integer for each id, shared by all lists: 3 times faster than a new one for each token."""
        return np.arange(self.vocab_size).astype(object)

    @cached_property
    def _fast_encoder(self) -> FastEncoder | None:
        """Loaded and checked (0.1 s) when the first batch comes: a chat never needs it."""
        return load_fast_encoder(self._backend)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Returns the text of ids; bytes that are not UTF-8 (half a character) become U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def token_n_bytes(self) -> np.ndarray:
        """Returns the UTF-8 bytes that each id stands for, int32 `(vocab_size,)`; 0 for special tokens."""
        return self._n_bytes.copy()

    @cached_property
    def _n_bytes(self) -> np.ndarray:
        """Byte-level BPE spells a token with one character a byte, so its length is its number of bytes."""
        n_bytes = np.zeros(self.vocab_size, np.int32)
        for token, token_id in self._backend.get_vocab().items():
            n_bytes[token_id] = 0 if token in SPECIAL_TOKENS else len(token)
        return n_bytes

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Returns the ids of a chat and its loss mask: True for the assistant's words and the end of its turn.

        `<|document|>`, then for each message `<|role|>`, content, `<|end|>`. With `add_generation_prompt` a final
        `<|assistant|>` asks for an answer. `CHAT_TEMPLATE` says the same in Jinja. A turn with `weight` 0 is context
        only.
        """
        ids, mask = [self.document_token], [False]
        for message in messages:
            role, content = _role_and_content(message)
            turn = [*self.encode(content), self.end_token]
            ids += [SPECIAL_TOKENS.index(ROLES[role]), *turn]
            mask += [False] + [role == "assistant" and message.get("weight") != 0] * len(turn)
        if add_generation_prompt:
            ids.append(SPECIAL_TOKENS.index(ASSISTANT))
            mask.append(False)
        return ids, mask


def _untrained() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _role_and_content(message: Mapping[str, Any]) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"role of a message is {role!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"content of a message is {content!r}; expected text")
    return role, content


# transformers finds special tokens anywhere in the rendered text, so a content that spells one could fake a turn: the
# template refuses it. `render_chat` encodes each content apart and has no such limit.
CHAT_TEMPLATE = """\
{{- '<|document|>' -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('role of a message: allowed are system, user, assistant') -}}
{%- endif -%}
{%- for token in SPECIAL -%}
{%- if token in message['content'] -%}
{{- raise_exception('content of a message spells the special token ' + token) -}}
{%- endif -%}
{%- endfor -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
""".replace("SPECIAL", str(list(SPECIAL_TOKENS)))
"""The chat format for transformers' `apply_chat_template`; `generation` marks what the assistant mask covers."""


def _hugging_face_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": DOCUMENT,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def batched(texts: Iterable[str], max_chars: int = 1 << 21) -> Iterator[list[str]]:
    """Yields the texts in lists of about `max_chars` characters, which bounds the memory that encoding needs."""
    batch, n_chars = [], 0
    for text in texts:
        batch.append(text)
        n_chars += len(text)
        if n_chars >= max_chars:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch
