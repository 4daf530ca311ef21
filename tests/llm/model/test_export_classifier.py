"""A classifier as plain transformers loads it: its logits, padded batches, its pipeline, its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.model.classifier import Classifier, class_probabilities, classifier_tokens
from llm.model.export import classifier_to_hf, to_gguf
from llm.model.gpt import GPTConfig
from llm.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of transformers' own imports

LABELS = [f"label {i}" for i in range(11)]  # more than ten, which sort otherwise as text
TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "naïve café <|end|> of a text <|document|> that spells <|pad|> special tokens",
    "the cat's mats, the dog's 12 mats; " * 20,
]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-untied": {"tied_head": False},
    "modern": {"architecture": "modern", "n_kv_heads": 2, "rope_theta": 100.0},
    "modern-untied": {"architecture": "modern", "tied_head": False, "head_dim": 6},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat, the dog ate 12 of the cat's mats "] * 20, 280)


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    shape = {"vocab_size": 284, "context_length": 48, "n_layers": 2, "n_heads": 4, "d_model": 32, "init_std": 0.3}
    made = Classifier(GPTConfig(**shape | SHAPES[request.param]), len(LABELS)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def our_logits(model: Classifier, tokenizer: Tokenizer) -> torch.Tensor:
    """Of each of `TEXTS` by itself, without padding."""
    rows = classifier_tokens(TEXTS, tokenizer, model.config.context_length)
    with torch.no_grad():
        return torch.cat([model.class_logits(torch.tensor([row]), torch.tensor([len(row) - 1])) for row in rows])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batches_have_our_logits(model: Classifier, tokenizer: Tokenizer, side: str, tmp_path: Path) -> None:
    classifier_to_hf(model, LABELS, tmp_path / "hf", tokenizer)
    theirs, their_tokenizer = loaded(tmp_path / "hf")
    kind = "Qwen3" if model.config.is_modern else "GPT2"
    assert type(theirs).__name__ == f"{kind}ForSequenceClassification"
    assert theirs.config.num_labels == len(LABELS)
    assert [theirs.config.id2label[i] for i in range(len(LABELS))] == LABELS
    assert their_tokenizer.padding_side == "right"
    their_tokenizer.padding_side = side
    batch = their_tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    if side == "left" and kind == "GPT2":
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # GPT-2 counts the padding
    with torch.no_grad():
        found = theirs(**batch).logits
    expected = our_logits(model, tokenizer)
    assert expected.std() > 0.3
    assert (found - expected).abs().max() < 1e-5  # of float32 logits of size about 1, computed in another order


def exact_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """`Qwen3RMSNorm.forward` in x's precision."""
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def exact_rope(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`Qwen3RotaryEmbedding.forward` in x's precision."""
    theta, width = self.config.rope_parameters["rope_theta"], self.config.head_dim
    angles = position_ids[..., None].to(x.dtype) / theta ** (torch.arange(0, width, 2, dtype=x.dtype) / width)
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


def test_in_float64_the_logits_are_ours_to_nine_digits(
    model: Classifier, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen3 import modeling_qwen3

    # Qwen3's norms and angles are computed in float32 by transformers, whatever precision the model has.
    monkeypatch.setattr(modeling_qwen3.Qwen3RMSNorm, "forward", exact_norm)
    monkeypatch.setattr(modeling_qwen3.Qwen3RotaryEmbedding, "forward", exact_rope)
    classifier_to_hf(model, LABELS, tmp_path / "hf", tokenizer)
    theirs, their_tokenizer = loaded(tmp_path / "hf", torch.float64)
    batch = their_tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = theirs(**batch).logits
    assert (found - our_logits(model.double(), tokenizer)).abs().max() < 1e-9


def test_the_pipeline_gives_our_probabilities(model: Classifier, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import pipeline

    classifier_to_hf(model, LABELS, tmp_path / "hf", tokenizer)
    ask = pipeline("text-classification", model=str(tmp_path / "hf"), device="cpu")
    rows = class_probabilities(model, classifier_tokens(TEXTS, tokenizer, 48), batch_size=2)
    for batch_size in (1, 4):
        answers = ask(TEXTS, top_k=None, truncation=True, batch_size=batch_size)
        for answer, row in zip(answers, rows, strict=True):
            assert {item["label"]: item["score"] for item in answer} == pytest.approx(
                dict(zip(LABELS, row, strict=True)), abs=1e-5
            )
            assert answer[0]["label"] == LABELS[int(np.argmax(row))]


def test_transformers_encodes_a_text_as_we_do(model: Classifier, tokenizer: Tokenizer, tmp_path: Path) -> None:
    classifier_to_hf(model, LABELS, tmp_path / "hf", tokenizer)
    _, their_tokenizer = loaded(tmp_path / "hf")
    assert their_tokenizer(TEXTS, truncation=True).input_ids == classifier_tokens(TEXTS, tokenizer, 48)
    assert their_tokenizer.pad_token_id == tokenizer.pad_token
    assert their_tokenizer.chat_template is None


def test_no_other_weights_are_in_the_file(model: Classifier, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    classifier_to_hf(model, LABELS, tmp_path / "hf", tokenizer)
    _, about = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    names = sorted(path.name for path in (tmp_path / "hf").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_what_cannot_be_exported_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"context_length": 8, "n_layers": 1, "n_heads": 1, "d_model": 8}
    model = Classifier(GPTConfig(vocab_size=284, **shape), 2)
    with pytest.raises(ValueError, match=r"a classifier cannot be written as GGUF, .*: export it as hf"):
        to_gguf(model, tmp_path / "model.gguf", tokenizer)
    with pytest.raises(ValueError, match="'speedrun' cannot be exported"):
        classifier_to_hf(
            Classifier(GPTConfig(vocab_size=284, architecture="speedrun", **shape), 2),
            ["a", "b"],
            tmp_path / "hf",
            tokenizer,
        )
    with pytest.raises(ValueError, match="the tokenizer has 280 tokens, the model 270"):
        classifier_to_hf(Classifier(GPTConfig(vocab_size=270, **shape), 2), ["a", "b"], tmp_path / "hf", tokenizer)
    assert list(tmp_path.iterdir()) == []
