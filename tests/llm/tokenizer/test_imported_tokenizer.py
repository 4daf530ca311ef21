"""Published tokenizers with our special tokens: the same pieces of text, other ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.published_models import SPECIAL, TEXTS, published_tokenizer

KINDS = ["gpt2", "qwen3"]


def saved(folder: Path, tokenizer: tokenizers.Tokenizer) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp(kind), published_tokenizer(kind))


def test_special_tokens_come_first_and_the_others_keep_their_order(folder: Path, kind: str) -> None:
    imported, published = import_tokenizer(folder), published_tokenizer(kind)
    n = published.get_vocab_size()
    assert imported.n_published == n
    assert imported.tokenizer.vocab_size == n + 6
    assert imported.published_ids == (None,) * 6 + tuple(range(n))
    for ours, theirs in enumerate(imported.published_ids[6:], start=6):
        assert theirs is not None
        assert imported.tokenizer.decode([ours]) == published.decode([theirs], skip_special_tokens=False)


@given(st.text() | st.sampled_from([*SPECIAL_TOKENS, *SPECIAL["qwen3"], *TEXTS]))
def test_a_text_falls_into_the_same_tokens(text: str) -> None:
    for kind in KINDS:
        imported, published = IMPORTED[kind]
        ours = imported.tokenizer.encode(text)
        expected = published.encode(text, add_special_tokens=False).ids
        assert [imported.published_ids[token] for token in ours] == expected
        assert imported.tokenizer.encode_batch([text]) == [ours]
        assert not set(ours) & set(range(6))


def _imported(kind: str) -> tuple[Any, tokenizers.Tokenizer]:
    import tempfile

    published = published_tokenizer(kind)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_tokenizer(saved(Path(folder), published))
    published.encode_special_tokens = True
    return imported, published


IMPORTED = {kind: _imported(kind) for kind in KINDS}


def test_chats_and_files_are_those_of_any_of_our_tokenizers(folder: Path, tmp_path: Path) -> None:
    tokenizer = import_tokenizer(folder).tokenizer
    ids, mask = tokenizer.render_chat(
        [{"role": "user", "content": "bread <|end|>"}, {"role": "assistant", "content": "dough"}]
    )
    assert [SPECIAL_TOKENS[token] for token in ids if token < 6] == [
        "<|document|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>",
    ]  # fmt: skip
    assert mask[-1]
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).to_json() == tokenizer.to_json()
    again = import_tokenizer(tmp_path)
    assert again.published_ids == tuple(range(tokenizer.vocab_size))
    assert again.tokenizer.to_json() == tokenizer.to_json()


def test_transformers_reads_it_as_we_do(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = import_tokenizer(folder).tokenizer
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    messages = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == tokenizer.render_chat(messages, add_generation_prompt=True)[0]


def test_a_special_token_that_is_there_is_moved(tmp_path: Path) -> None:
    published = published_tokenizer("qwen3")
    published.add_special_tokens(["<|user|>", "<|end|>"])
    published.add_tokens([AddedToken("<think>", normalized=False)])
    n = published.get_vocab_size()
    imported = import_tokenizer(saved(tmp_path, published))
    user, end = published.token_to_id("<|user|>"), published.token_to_id("<|end|>")
    assert imported.published_ids[:6] == (None, None, None, user, None, end)
    assert sorted(token for token in imported.published_ids if token is not None) == list(range(n))
    assert imported.tokenizer.vocab_size == n + 4
    text = "<think> <|user|>"
    assert imported.tokenizer.decode(imported.tokenizer.encode(text)) == text
    assert imported.published_ids.index(n - 1) not in imported.tokenizer.encode(text), "no text spells an added token"


def test_a_file_of_the_first_tokenizers_is_read(tmp_path: Path) -> None:
    """That of GPT-2 on the hub: no type of model, merges as text, the special token in the vocabulary."""
    expected = import_tokenizer(saved(tmp_path, published_tokenizer()))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    model = {name: value for name, value in content["model"].items() if name != "type"}
    model["vocab"] = model["vocab"] | {"<|endoftext|>": expected.n_published - 1}
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    changed(tmp_path, model=model)
    assert import_tokenizer(tmp_path).tokenizer.to_json() == expected.tokenizer.to_json()


def changed(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))


def test_what_is_no_byte_level_bpe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokenizer.json: save the model's tokenizer there too"):
        import_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer of the library tokenizers"):
        import_tokenizer(tmp_path)
    saved(tmp_path, tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match=r"is a WordLevel tokenizer with decoder none; supported is byte-level BPE"):
        import_tokenizer(tmp_path)
    published = published_tokenizer()
    saved(tmp_path, published)
    changed(tmp_path, decoder=None)
    with pytest.raises(ValueError, match=r"is a BPE tokenizer with decoder none"):
        import_tokenizer(tmp_path)
    saved(tmp_path, tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, [])))
    changed(tmp_path, decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})
    with pytest.raises(ValueError, match=r"has no token for 254 of the 256 bytes"):
        import_tokenizer(tmp_path)
    saved(tmp_path, published)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["zzz"] = 999
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has 302 tokens, whose ids are not 0 to 301"):
        import_tokenizer(tmp_path)
