"""Classifiers in use: probabilities in batches, and files that belong together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm.files import write_json
from llm.model.classifier import (
    LABELS_FILE,
    Classifier,
    class_probabilities,
    classifier_tokens,
    load_classifier,
)
from llm.model.files import save_model
from llm.model.gpt import GPT, GPTConfig
from llm.tokenizer.tokenizer import Tokenizer

SHAPE = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 2, "d_model": 16, "init_std": 0.4}


def classifier(architecture: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(GPTConfig(**SHAPE, architecture=architecture), 3).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["gpt2", "modern", "speedrun"])
def test_probabilities_in_batches_are_those_of_each_text_alone(architecture):
    model, draw = classifier(architecture).double(), np.random.default_rng(0)
    texts = [draw.integers(0, 31, length).tolist() for length in (5, 1, 12, 3, 3, 7, 12)]
    found = class_probabilities(model, texts, batch_size=3)
    assert np.abs(found - found[0]).max() > 0.05
    for text, probabilities in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model.features(torch.tensor([text]))[0, -1] @ model.class_head.weight.T
        np.testing.assert_allclose(probabilities, (logits.exp() / logits.exp().sum()).numpy(), rtol=0, atol=1e-12)
    assert class_probabilities(model, [], batch_size=3).shape == (0, 3)


def test_a_text_begins_with_document_and_is_truncated_to_the_context():
    tokenizer = Tokenizer.train(["bread and butter, butter and bread"] * 3, 270)
    short, long = classifier_tokens(["bread", "<|end|>" * 9], tokenizer, 12)
    assert short == [tokenizer.document_token, *tokenizer.encode("bread")]
    assert long == [tokenizer.document_token, *tokenizer.encode("<|end|>" * 9)[:11]]
    assert tokenizer.end_token not in long


def test_only_a_directory_with_labels_is_a_classifier(tmp_path: Path):
    model = classifier("modern")
    save_model(model, tmp_path, {})
    with pytest.raises(ValueError, match=r"is not a classifier: it has no labels.json; the stage classify makes one"):
        load_classifier(tmp_path)
    write_json(tmp_path / LABELS_FILE, ["a", "b", "c"])
    loaded, labels = load_classifier(tmp_path)
    assert labels == ["a", "b", "c"]
    assert not loaded.training
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    write_json(tmp_path / LABELS_FILE, ["a", "b"])
    with pytest.raises(ValueError, match=r"model.safetensors does not fit config.json: (.|\n)*class_head"):
        load_classifier(tmp_path)
    save_model(GPT(model.config), tmp_path, {})
    with pytest.raises(ValueError, match=r"does not fit config.json: (.|\n)*class_head"):
        load_classifier(tmp_path)
