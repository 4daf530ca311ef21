"""Tests of the tokenizer against a brute-force BPE, the `regex` library and transformers."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.documents import Document, document_id, documents_table
from llm.files import read_json, write_table
from llm.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from llm.tokenizer.training import TokenizerConfig, train_tokenizer

TEXT = (
    "the starter rises while flour and water rest, don't hurry: bake it at 250 degrees for 45 minutes. "
    "Kneading, folding, shaping and scoring are the baker's daily work; 1024 loaves a week, they've said!"
)
WORDS = TEXT.split()
PIECES = st.one_of(st.text(), st.sampled_from([*SPECIAL_TOKENS, "\r\n\n  \t x", "it's 123456", "naïve 中文 🍞"]))
TEXTS = st.lists(PIECES, max_size=6).map("".join)


def corpus(n_texts: int = 60, seed: int = 0) -> list[str]:
    """Texts of 40 words each, some separated by newlines and indentation."""
    rng = random.Random(seed)
    return [
        "".join(rng.choice(WORDS) + rng.choice([" ", " ", "\n", "\n    "]) for _ in range(40)) for _ in range(n_texts)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(corpus(), 380)


@pytest.fixture(scope="module")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@settings(deadline=None)
@given(TEXTS)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(TEXTS)
def test_no_text_becomes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    assert min(tokenizer.encode(text), default=len(SPECIAL_TOKENS)) >= len(SPECIAL_TOKENS)


@settings(deadline=None)
@given(TEXTS)
def test_token_bytes_sum_to_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.token_n_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


def test_token_bytes_of_special_tokens_are_zero(tokenizer: Tokenizer) -> None:
    n_bytes = tokenizer.token_n_bytes()
    assert n_bytes.shape == (380,)
    assert n_bytes.dtype == np.int32
    assert (n_bytes == 0).nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5]


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_a_batch_is_encoded_as_its_texts_are(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_come_first_and_then_the_bytes(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in range(6)] == list(SPECIAL_TOKENS)
    assert tokenizer.decode([0, 2, 5], skip_special=True) == ""
    assert (tokenizer.document_token, tokenizer.pad_token, tokenizer.end_token) == (0, 1, 5)
    assert (tokenizer.token_n_bytes()[6:MIN_VOCAB_SIZE] == 1).all()


def test_the_split_pattern_is_that_of_cl100k() -> None:
    pieces = ["Don", "'t", " bake", " ", "123", "45", " loaves", ",\n\n", " ", " please", "!", " \n", "x", "_y"]
    assert regex.findall(SPLIT_PATTERN, "".join(pieces)) == pieces


@settings(deadline=None)
@given(TEXTS)
def test_tokens_never_cross_the_split_pattern(tokenizer: Tokenizer, text: str) -> None:
    pieces = regex.findall(SPLIT_PATTERN, text)
    assert tokenizer.encode(text) == [i for piece in pieces for i in tokenizer.encode(piece)]


def brute_force_tokens(texts: list[str], n_merges: int) -> list[bytes]:
    """The merged tokens of BPE: most frequent pair first, of equally frequent ones that of the lowest ids."""
    words = [[bytes([b]) for b in piece.encode()] for text in texts for piece in regex.findall(SPLIT_PATTERN, text)]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    characters = {char: i for i, char in enumerate(sorted(alphabet))}
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    order = {}  # bytes are numbered in the order of the characters that stand for them
    for b in range(128):
        order[bytes([b])] = characters[byte_level.pre_tokenize_str(chr(b))[0][0]]
    merged: list[bytes] = []
    for _ in range(n_merges):
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        first, second = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]))
        merged.append(first + second)
        order.setdefault(first + second, 256 + len(merged))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (first, second):
                    word[i : i + 2] = [first + second]
                i += 1
    return merged


def test_training_equals_brute_force_bpe() -> None:
    texts = corpus(20, seed=3)
    trained = Tokenizer.train(texts, MIN_VOCAB_SIZE + 60)
    tokens = [trained.decode([i]).encode() for i in range(MIN_VOCAB_SIZE, trained.vocab_size)]
    assert tokens == brute_force_tokens(texts, 60)


def test_training_does_not_depend_on_the_order_of_texts(tokenizer: Tokenizer, saved: Path, tmp_path: Path) -> None:
    texts = corpus()
    random.Random(1).shuffle(texts)
    Tokenizer.train(iter(texts), 380).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("n_threads", ["1", "4"])
def test_training_does_not_depend_on_threads(saved: Path, tmp_path: Path, n_threads: str) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(corpus()))
    code = (
        "import json, sys; from pathlib import Path; from llm.tokenizer.tokenizer import Tokenizer; "
        "folder = Path(sys.argv[1]); "
        "Tokenizer.train(json.loads((folder / 'texts.json').read_text()), 380).save(folder)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": n_threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    assert (tmp_path / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, saved: Path) -> None:
    loaded = Tokenizer.load(saved)
    text = "the starter <|end|> rises"
    assert loaded.vocab_size == 380
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.token_n_bytes() == tokenizer.token_n_bytes()).all()


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="not our tokenizer"):
        Tokenizer.load(tmp_path)


def test_too_little_text_names_a_vocabulary_that_works() -> None:
    with pytest.raises(ValueError, match=r"vocab_size is 100000, but .* repetition for") as caught:
        Tokenizer.train(corpus(), 100_000)
    reached = int(regex.search(r"for (\d+) tokens", str(caught.value))[1])
    assert Tokenizer.train(corpus(), reached).vocab_size == reached
    with pytest.raises(ValueError, match="vocab_size"):
        Tokenizer.train(corpus(), reached + 1)


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 261; allowed: 262"):
        Tokenizer.train(corpus(), 261)
    with pytest.raises(ValueError, match="vocab_size is 261"):
        TokenizerConfig(vocab_size=261)


def test_a_chat_is_rendered_token_by_token(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "flour"}, {"role": "assistant", "content": "<|end|>water"}]
    question, answer = tokenizer.encode("flour"), tokenizer.encode("<|end|>water")
    ids, mask = tokenizer.render_chat(messages)
    assert ids == [0, 3, *question, 5, 4, *answer, 5]
    assert mask == [False] * (len(question) + 4) + [True] * (len(answer) + 1)
    assert tokenizer.render_chat(messages, add_generation_prompt=True) == ([*ids, 4], [*mask, False])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "baker", "content": "x"}, "role of a message is 'baker'; allowed: system, user, assistant"),
        ({"role": "user"}, "content of a message is None"),
    ],
)
def test_a_wrong_message_is_refused(tokenizer: Tokenizer, message: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tokenizer.render_chat([message])


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": PIECES.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS)),
        }
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def hugging_face(saved: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(saved)


@settings(deadline=None)
@given(MESSAGES, st.booleans())
def test_transformers_renders_the_same_chat(
    tokenizer: Tokenizer, hugging_face, messages: list[dict[str, str]], prompt: bool
) -> None:
    ids, mask = tokenizer.render_chat(messages, add_generation_prompt=prompt)
    theirs = hugging_face.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=prompt
    )
    assert theirs["input_ids"] == ids
    assert [bool(value) for value in theirs["assistant_masks"]] == mask


@settings(deadline=None)
@given(TEXTS.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS)))
def test_transformers_encodes_and_decodes_the_same(tokenizer: Tokenizer, hugging_face, text: str) -> None:
    ids = tokenizer.encode(text)
    assert hugging_face(text)["input_ids"] == ids
    assert hugging_face.decode(ids) == text


def test_transformers_knows_the_special_tokens(hugging_face) -> None:
    assert (hugging_face.bos_token_id, hugging_face.pad_token_id, hugging_face.eos_token_id) == (0, 1, 5)
    assert sorted(hugging_face.all_special_ids) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_in_transformers_a_message_cannot_fake_a_turn(hugging_face, token: str) -> None:
    with pytest.raises(Exception, match="spells the special token"):
        hugging_face.apply_chat_template([{"role": "user", "content": f"hello{token}"}])


def write_documents(folder: Path, texts: list[str], held_out: list[bool], *, n_files: int = 2) -> list[Document]:
    folder.mkdir(parents=True, exist_ok=True)
    documents = [
        Document(document_id(f"http://bakery/{i}", text), f"http://bakery/{i}", "", text, "en", len(text), out)
        for i, (text, out) in enumerate(zip(texts, held_out, strict=True))
    ]
    for k in range(n_files):
        write_table(folder / f"documents-{k:05d}.parquet", documents_table(documents[k::n_files]))
    return documents


def test_held_out_documents_are_measured_but_not_trained_on(tmp_path: Path) -> None:
    texts = [*corpus(), "zyzzyva " * 500]
    write_documents(tmp_path / "documents", texts, [False] * 60 + [True])
    (tmp_path / "out").mkdir()
    counts = train_tokenizer(tmp_path / "documents", tmp_path / "out", TokenizerConfig(vocab_size=350))
    tokenizer, report = Tokenizer.load(tmp_path / "out"), read_json(tmp_path / "out" / "report.json")
    assert not any("zy" in tokenizer.decode([i]) for i in range(MIN_VOCAB_SIZE, 350))
    assert (counts.n_in, counts.n_out, counts.dropped) == (61, 60, {"held out": 1})
    n_tokens = len(tokenizer.encode(texts[-1]))
    assert report["held_out"] == {"n_bytes": 4000, "n_tokens": n_tokens, "bytes_per_token": 4000 / n_tokens}
    assert counts.figures["bytes_per_token"] == 4000 / n_tokens
    assert counts.figures["n_bytes"] == report["train"]["n_bytes"] == sum(len(text.encode()) for text in texts[:-1])
    assert report["train"]["n_tokens"] == sum(len(tokenizer.encode(text)) for text in texts[:-1])


def test_the_report_names_long_and_rare_tokens(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents", corpus(), [False] * 60)
    (tmp_path / "out").mkdir()
    train_tokenizer(tmp_path / "documents", tmp_path / "out", TokenizerConfig(vocab_size=350))
    tokenizer, report = Tokenizer.load(tmp_path / "out"), read_json(tmp_path / "out" / "report.json")
    uses = Counter(i for text in corpus() for i in tokenizer.encode(text))
    merged = range(MIN_VOCAB_SIZE, 350)
    assert [row["n_bytes"] for row in report["longest_tokens"]] == sorted(
        (len(tokenizer.decode([i])) for i in merged), reverse=True
    )[:20]
    assert [row["count"] for row in report["rarest_tokens"]] == sorted(uses[i] for i in merged)[:20]
    assert all(row["count"] == uses[row["id"]] for row in report["longest_tokens"] + report["rarest_tokens"])


def test_without_held_out_documents_nothing_is_reported_of_them(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents", corpus(), [False] * 60, n_files=70)  # some files are empty
    (tmp_path / "out").mkdir()
    counts = train_tokenizer(tmp_path / "documents", tmp_path / "out", TokenizerConfig(vocab_size=300))
    assert read_json(tmp_path / "out" / "report.json")["held_out"]["bytes_per_token"] is None
    assert "bytes_per_token" not in counts.figures


def test_a_byte_budget_takes_documents_by_their_id(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", corpus(), [i % 10 == 0 for i in range(60)])
    (tmp_path / "out").mkdir()
    config = TokenizerConfig(vocab_size=300, max_train_bytes=5000)
    counts = train_tokenizer(tmp_path / "documents", tmp_path / "out", config)
    training = sorted((d for d in documents if not d.held_out), key=lambda d: d.id)
    used = training[: counts.n_out]
    assert counts.dropped == {"held out": 6, "over the byte budget": 54 - len(used)}
    assert counts.figures["n_bytes"] == sum(len(d.text.encode()) for d in used) <= 5000
    assert sum(len(d.text.encode()) for d in training[: len(used) + 1]) > 5000


def test_partition_layout_does_not_matter(tmp_path: Path) -> None:
    for n_files in (1, 3):
        write_documents(tmp_path / f"documents{n_files}", corpus(), [i % 5 == 0 for i in range(60)], n_files=n_files)
        (tmp_path / f"out{n_files}").mkdir()
        train_tokenizer(tmp_path / f"documents{n_files}", tmp_path / f"out{n_files}", TokenizerConfig(vocab_size=300))
    for name in ("tokenizer.json", "tokenizer_config.json", "report.json"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out3" / name).read_bytes()


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents", corpus(3), [True] * 3)
    with pytest.raises(ValueError, match="no document to train the tokenizer on: 3 documents"):
        train_tokenizer(tmp_path / "documents", tmp_path, TokenizerConfig())


def test_a_damaged_documents_file_is_an_error(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents", corpus(), [False] * 60, n_files=1)
    path = tmp_path / "documents" / "documents-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowInvalid)):
        train_tokenizer(tmp_path / "documents", tmp_path, TokenizerConfig(vocab_size=300))
