"""Published weights with our vocabulary, against transformers; what is refused before they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.model.export import to_hf
from llm.model.hf_import import published_model
from llm.model.published import published_files, published_shape
from llm.tokenizer.imported_tokenizer import import_tokenizer
from llm.tokenizer.tokenizer import Tokenizer
from tests.published_models import SPECIAL, TEXTS, publish, published_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

TOLERANCE = 1e-5
"""Of float32 logits of size about 1, computed in another order."""


def loaded(folder: Path) -> tuple[Any, Any]:
    imported = import_tokenizer(folder)
    return imported, published_model(folder, imported.tokenizer)


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("n_padded", [0, 13])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_logits_are_those_of_transformers(kind: str, n_padded: int, settings: dict[str, Any], tmp_path: Path) -> None:
    reference = publish(tmp_path, kind, n_padded=n_padded, **settings)
    imported, model = loaded(tmp_path)
    assert model.config == published_shape(tmp_path)
    text = " ".join(TEXTS[:2])[:80]
    theirs = published_tokenizer(kind).encode(text, add_special_tokens=False).ids[:60]
    ours = imported.tokenizer.encode(text)[:60]
    with torch.no_grad():
        expected, found = reference(torch.tensor([theirs])).logits, model(torch.tensor([ours]))
    assert expected.std() > 0.3
    assert (found[..., 6:] - expected[..., : len(imported.published_ids) - 6]).abs().max() < TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_new_tokens_begin_as_those_that_begin_and_end_a_text_or_as_the_mean(
    kind: str, tied: bool, tmp_path: Path
) -> None:
    reference = publish(tmp_path, kind, n_padded=13, tie_word_embeddings=tied)
    imported, model = loaded(tmp_path)
    tokens = published_tokenizer(kind)
    start, end = (tokens.token_to_id(SPECIAL[kind][i]) for i in (0, -1))
    pairs = [(model.token_embedding.weight, reference.get_input_embeddings().weight)]
    pairs += [(model.head_weight, reference.get_output_embeddings().weight)]
    for ours, theirs in pairs:
        assert len(ours) == tokens.get_vocab_size() + 6
        assert torch.equal(ours[6:], theirs[: tokens.get_vocab_size()])
        assert torch.equal(ours[imported.tokenizer.document_token], theirs[start])
        assert torch.equal(ours[imported.tokenizer.end_token], theirs[end])
        mean = theirs[: tokens.get_vocab_size()].double().mean(0).float()
        for new in (1, 2, 3, 4):
            torch.testing.assert_close(ours[new], mean, rtol=0, atol=1e-7)
    assert (model.config.tied_head, model.config.dropout) == (tied, 0.0)


def test_our_own_export_comes_back_as_it_was(tmp_path: Path) -> None:
    publish(tmp_path / "published", "qwen3")
    imported, model = loaded(tmp_path / "published")
    to_hf(model, tmp_path / "ours", imported.tokenizer)
    again, back = loaded(tmp_path / "ours")
    assert again.tokenizer.to_json() == imported.tokenizer.to_json()
    weights = model.state_dict()
    assert weights.keys() == back.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in back.state_dict().items())


def test_weights_in_several_files(tmp_path: Path) -> None:
    reference = publish(tmp_path)
    reference.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    (tmp_path / "tokenizer.json").rename(tmp_path / "split" / "tokenizer.json")
    files = published_files(tmp_path / "split")
    assert [path.name for path in files[:2]] == ["config.json", "model.safetensors.index.json"]
    assert len(files) > 4
    imported, model = loaded(tmp_path / "split")
    tokens = torch.arange(6, 40)[None]
    with torch.no_grad():
        assert (model(tokens)[..., 6:] - reference(tokens - 6).logits).abs().max() < TOLERANCE
    files[-1].unlink()
    with pytest.raises(ValueError, match=r"model-.*safetensors is missing; pickled weights"):
        published_shape(tmp_path / "split")
    assert imported.n_published == 301


def test_what_cannot_be_a_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no model in Hugging Face's layout: it has no config.json"):
        published_shape(tmp_path)
    publish(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"model_type is 'llama'; supported are 'gpt2' .* and 'qwen3'"):
        published_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content | {"vocab_size": 290}))
    with pytest.raises(ValueError, match=r"the tokenizer has 301 tokens, but the model only 290"):
        published_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer.json: save the model's tokenizer there too"):
        published_shape(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing; pickled weights .* are not read"):
        published_shape(tmp_path)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    with pytest.raises(
        ValueError, match=r"the tokenizer is not that of start_from, .*give tokenizer.start_from the same"
    ):
        published_model(tmp_path, Tokenizer.train(TEXTS, 280))
