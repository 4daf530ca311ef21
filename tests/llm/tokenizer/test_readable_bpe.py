"""Tests of the readable BPE against the `tokenizers` library."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer.readable_bpe import ReadableBPE
from llm.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

PROSE = (
    "The starter rises while flour and water rest; don't hurry, they'll rise. "
    "Kneading, folding, shaping and scoring are the baker's daily work: 1024 loaves a week, they've said!\n"
)
CODE = (
    "def bake(loaf: Loaf) -> Bread:\n    if loaf.minutes >= 45:\n        return Bread(loaf)\n\n    return bake(loaf)\n"
)
UNICODE = (
    "Zwölf Brötchen, ein Kräuterbaguette. 面包师傅在烤面包。Хлеб и вода, хлеб и соль. 🍞🥖🍞 e\u0301e\u0301 ½½ ٣٤٣٤ "
)


def shuffled(text: str, n_texts: int) -> list[str]:
    rng = random.Random(n_texts)
    words = re.split("(?<= )", text)
    return ["".join(rng.choices(words, k=40)) for _ in range(n_texts)]


def train_both(texts: list[str], n_merges: int) -> tuple[ReadableBPE, Tokenizer]:
    """Both trainers' vocabularies, with fewer merges when the texts have repetition for fewer."""
    vocab_size = MIN_VOCAB_SIZE + n_merges
    ours = ReadableBPE.train(texts, vocab_size)
    return ours, Tokenizer.train(texts, len(ours.tokens))


def merges_of(tokenizer: Tokenizer, folder: Path) -> list[tuple[tuple[int, int], int]]:
    """The merges in a tokenizer.json, as pairs of ids and the id of the new token, in order."""
    tokenizer.save(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    ids = model["vocab"]
    return [((ids[first], ids[second]), ids[first + second]) for first, second in model["merges"]]


@pytest.mark.parametrize(
    "text", [PROSE, CODE, UNICODE, PROSE + CODE + UNICODE], ids=["prose", "code", "unicode", "all"]
)
def test_merges_and_ids_are_those_of_tokenizers(tmp_path: Path, text: str) -> None:
    texts = shuffled(text, 30)
    ours, theirs = train_both(texts, 200)
    assert list(ours.merges.items()) == merges_of(theirs, tmp_path)
    for other in [*texts, PROSE, CODE, UNICODE]:
        assert ours.encode(other) == theirs.encode(other)


@pytest.mark.parametrize(
    "text",
    ["ab cd ef gh ij kl ab cd ef gh ij kl", "zy yz zy yz xw wx xw wx", "aaaa aaa aaaaa aaaa", "abc abcabc bcbc abab"],
)
def test_equally_frequent_pairs_are_merged_in_the_same_order(tmp_path: Path, text: str) -> None:
    ours, theirs = train_both([text], 30)
    assert list(ours.merges.items()) == merges_of(theirs, tmp_path)
    assert ours.encode(text + text[::-1]) == theirs.encode(text + text[::-1])


@settings(deadline=None)
@given(st.lists(st.text("ab é中\n1'", max_size=60), min_size=1, max_size=8))
def test_any_texts_give_the_merges_of_tokenizers(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    ours, theirs = train_both(texts, 40)
    assert list(ours.merges.items()) == merges_of(theirs, tmp_path_factory.mktemp("bpe"))
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]


@settings(deadline=None)
@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    bpe = ReadableBPE.train([PROSE], MIN_VOCAB_SIZE + 5)
    assert bpe.decode(bpe.encode(text)) == text


def test_special_tokens_stand_for_no_text() -> None:
    bpe = ReadableBPE.train(["<|end|> " * 20], 300)
    assert bpe.tokens[: len(SPECIAL_TOKENS)] == [b""] * 6
    assert min(bpe.encode("<|end|>")) >= 6


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 261; allowed: 262"):
        ReadableBPE.train(["flour"], 261)
