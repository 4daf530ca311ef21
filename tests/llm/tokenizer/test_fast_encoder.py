"""Tests of the fast encoder: it gives the ids of `tokenizers`, or is not used."""

import json
import logging
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer import fast_encoder
from llm.tokenizer.fast_encoder import (
    FastEncoder,
    check_texts,
    encode_with_tokenizers,
    has_new_characters,
    load_fast_encoder,
)
from llm.tokenizer.readable_bpe import BYTE_ORDER
from llm.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

TEXT = "the starter rises, don't hurry: 1024 loaves!\r\n    naïve 中文 中文 🍞🍞 <|end|>\n\n "
HARD_PIECES = [
    *SPECIAL_TOKENS,
    "'s",
    "'LL",
    "'\u017f",
    "\r\n",
    "   ",
    "\u00a0",
    "\u2028",
    "e\u0301",
    "中文",
    "🍞",
    "٣½",
    "123",
]
TEXTS = st.lists(st.one_of(st.text(), st.sampled_from(HARD_PIECES)), max_size=8).map("".join)

# Put between and beside these, a character shows what it is to the splitter: letter, digit, white space or other.
CONTEXTS = ("a{0}a{0}1{0}", "1{0}{0}{0}{0}1", " {0} {0}\n{0}\r\n  {0}! !{0}!", "a'{0}t'{0} 's{0}")
NEIGHBOURS = "a1 !\n't\rs"
N_CHARACTERS = 0x110000


def backend_of(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizer._backend


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 20], 320)


@pytest.fixture(scope="module")
def splits_show(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer that merges any two bytes where two characters may meet, so that its ids show every split."""
    pairs = [pair for n in map(ord, NEIGHBOURS) for b in range(256) for pair in ((n, b), (b, n))]
    pairs += [(last, first) for last in range(0x80, 0xC0) for first in range(0xC2, 0xF5)]
    settings = json.loads(backend_of(tokenizer).to_str())
    vocab = {name: i for name, i in settings["model"]["vocab"].items() if i < MIN_VOCAB_SIZE}
    names = dict(zip(BYTE_ORDER, sorted(vocab, key=vocab.__getitem__)[len(SPECIAL_TOKENS) :], strict=True))
    merges = []
    for first, second in dict.fromkeys(pairs):
        vocab[names[first] + names[second]] = len(vocab)
        merges.append([names[first], names[second]])
    settings["model"] |= {"vocab": vocab, "merges": merges}
    backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
    backend.encode_special_tokens = True
    return backend


@pytest.fixture(scope="module")
def fast_splits_show(splits_show: tokenizers.Tokenizer) -> FastEncoder:
    encoder = load_fast_encoder(splits_show)
    assert encoder is not None
    return encoder


def differing(encoder: FastEncoder, backend: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    expected = encode_with_tokenizers(backend, texts)
    return [text for text, ids in zip(texts, expected, strict=True) if encoder.encode(text).tolist() != ids.tolist()]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log, as in a process that has said nothing yet."""
    fast_encoder._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "llm.tokenizer.fast_encoder"):
        yield caplog
    fast_encoder._log_once.cache_clear()


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_ids_are_those_of_tokenizers(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert isinstance(tokenizer._fast_encoder, FastEncoder)
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 and ids.ndim == 1 for ids in tokenizer.encode_arrays(texts))
    assert all(type(i) is int for ids in tokenizer.encode_batch(texts) for i in ids)


@settings(deadline=None)
@given(TEXTS)
def test_texts_are_split_as_by_tokenizers(
    fast_splits_show: FastEncoder, splits_show: tokenizers.Tokenizer, text: str
) -> None:
    assert not differing(fast_splits_show, splits_show, [text])


def test_characters_are_what_they_are_to_tokenizers(
    fast_splits_show: FastEncoder, splits_show: tokenizers.Tokenizer
) -> None:
    rng = random.Random(0)
    characters = [chr(i) for i in (*range(0x300), *rng.sample(range(0x300, 0xD800), 2500))]
    characters += [chr(i) for i in rng.sample(range(0xE000, 0x20000), 1500)]
    texts = [context.format(character) for character in characters for context in CONTEXTS]
    assert not differing(fast_splits_show, splits_show, texts)


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_character_is_what_it_is_to_tokenizers(
    fast_splits_show: FastEncoder, splits_show: tokenizers.Tokenizer, context: str
) -> None:
    for start in (*range(0, 0x40000, 0x8000), 0xE0000):  # planes 4 to 13 are empty, 15 and 16 private
        characters = [chr(i) for i in range(start, start + 0x8000) if not 0xD800 <= i < 0xE000]
        assert not differing(fast_splits_show, splits_show, [context.format(character) for character in characters])


def test_young_characters_are_known_by_their_absence_from_the_tables() -> None:
    young = next(chr(i) for i in range(0x378, N_CHARACTERS) if unicodedata.category(chr(i)) == "Cn")
    assert has_new_characters(f"flour {young} water")
    assert has_new_characters("\u088f")  # a letter since Unicode 17
    assert not any(has_new_characters(text) for text in ("", "flour", "naïve", "中文 🍞 \ue000"))


@pytest.mark.parametrize("text", ["\ud800", "flour \udc00 中文"])
def test_half_a_surrogate_pair_is_refused_as_by_tokenizers(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(TypeError) as expected:
        encode_with_tokenizers(backend_of(tokenizer), [text])
    with pytest.raises(TypeError) as caught:
        tokenizer.encode_batch(["flour", text])
    assert str(caught.value) == str(expected.value)


def test_text_that_spells_a_special_token_is_text(tokenizer: Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        (ids,) = tokenizer.encode_arrays([f"flour{token} water {token}{token}"])
        assert ids.min() >= len(SPECIAL_TOKENS)
        assert tokenizer.decode(ids.tolist()) == f"flour{token} water {token}{token}"


def test_many_threads_get_the_same_ids(tokenizer: Tokenizer) -> None:
    texts = [f"{TEXT} {i}" for i in range(300)]
    expected = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode_batch, [texts] * 4)) == [expected] * 4


def test_check_texts_hold_every_token_of_a_small_vocabulary(tokenizer: Tokenizer) -> None:
    joined = "\n".join(check_texts(backend_of(tokenizer)))
    assert all(tokenizer.decode([i]) in joined for i in range(tokenizer.vocab_size))
    assert check_texts(backend_of(tokenizer)) == check_texts(backend_of(tokenizer))


def test_an_encoder_that_differs_is_not_used(tokenizer: Tokenizer, log: pytest.LogCaptureFixture) -> None:
    backend = tokenizers.Tokenizer.from_str(backend_of(tokenizer).to_str())
    backend.encode_special_tokens = False  # now "<|end|>" is a special token, which it never is to the fast encoder
    assert load_fast_encoder(backend) is None
    assert load_fast_encoder(backend) is None
    assert [record.levelname for record in log.records] == ["WARNING"]
    assert re.search(r"differ from those of tokenizers on \d+ check texts", log.text)


def test_a_tokenizer_that_gigatoken_refuses_is_encoded_all_the_same(log: pytest.LogCaptureFixture) -> None:
    backend = tokenizers.Tokenizer.from_str(backend_of(Tokenizer.train([TEXT * 20], 320)).to_str())
    pattern = tokenizers.Regex(r"\p{N}{1,2}|\s+|\p{L}+")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(pattern, "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode_batch([TEXT, "1234"]) == [tokenizer.encode(TEXT), tokenizer.encode("1234")]
    assert "gigatoken failed" in log.text


def test_without_gigatoken_ids_are_the_same(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    expected = tokenizer.encode_batch([TEXT, "", "\u088f"])
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    for _ in range(2):
        without = Tokenizer(backend_of(tokenizer))
        assert without._fast_encoder is None
        assert without.encode_batch([TEXT, "", "\u088f"]) == expected
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("INFO", "gigatoken is not installed: text is encoded with the slower tokenizers")
    ]


def test_gigatoken_is_loaded_with_the_first_batch_only() -> None:
    code = (
        "import sys; from llm.tokenizer.tokenizer import Tokenizer; "
        "t = Tokenizer.train(['rye rye'] * 9, 264); t.encode('x'); "
        "assert 'gigatoken' not in sys.modules; t.encode_batch(['x']); assert 'gigatoken' in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
