"""A model that says which label a text has.

The last token of a text has seen all of it, so the class head reads its features. Only the class head and the last
blocks are trained: these hold how a text goes on, those below them what is in it. The head has no bias, like those of
`GPT2ForSequenceClassification` and `Qwen3ForSequenceClassification` of transformers, so that it can be exported.

Letters in shapes: B batch, T time, N texts, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..tokenizer.tokenizer import Tokenizer
from .bounds import read_bounded
from .files import load_weights, read_shape
from .gpt import GPT, GPTConfig

LABELS_FILE = "labels.json"
"""The labels in the order of the class head's rows; a model beside this file is a classifier."""


class Classifier(GPT):
    """A model with a class head: a row for each label, applied to the last token of a text."""

    def __init__(self, config: GPTConfig, n_classes: int) -> None:
        """Makes a fresh one; its weights come from torch's global random generator."""
        super().__init__(config)
        self.class_head = nn.Linear(config.d_model, n_classes, bias=False)
        nn.init.normal_(self.class_head.weight, std=config.init_std)

    def class_logits(self, inputs: Tensor, ends: Tensor) -> Tensor:
        """Returns logits of each class, (B, K), for texts (B, T) whose last tokens are at `ends` (B,) of all B * T."""
        return self.class_head(self.features(inputs).flatten(0, 1).index_select(0, ends))

    def let_learn(self, n_blocks: int) -> None:
        """Freezes all but the last `n_blocks` blocks, the norm after them and the class head."""
        self.requires_grad_(False)
        trained = [*list(self.blocks)[len(self.blocks) - n_blocks :], self.norm, self.class_head]
        for module in trained:
            module.requires_grad_()


def is_classifier(directory: Path) -> bool:
    """Returns whether the model of a directory is a classifier, not a language model."""
    return (directory / LABELS_FILE).is_file()


def load_classifier(directory: Path, device: str | torch.device = "cpu") -> tuple[Classifier, list[str]]:
    """Loads the classifier of a directory, in evaluation mode, with its labels.

    Raises ValueError when it is no classifier or its files do not belong together, OSError when one is damaged.
    """
    if not is_classifier(directory):
        raise ValueError(f"{directory} is not a classifier: it has no {LABELS_FILE}; the stage classify makes one")
    labels, config = read_bounded(directory / LABELS_FILE), read_shape(directory)
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{directory / LABELS_FILE} holds no list of labels, each a text")
    with torch.device("meta"):
        model = Classifier(config, len(labels))
    return load_weights(model, directory).to(device).eval(), labels


def classifier_tokens(texts: Sequence[str], tokenizer: Tokenizer, context_length: int) -> list[list[int]]:
    """Returns the tokens of each text as a classifier reads them: `<|document|>` first, truncated to the context."""
    return [[tokenizer.document_token, *ids][:context_length] for ids in tokenizer.encode_batch(texts)]


@torch.no_grad()
def class_probabilities(model: Classifier, texts: Sequence[Sequence[int] | np.ndarray], batch_size: int) -> np.ndarray:
    """Returns the probability of each label for the tokens of each text, (N, K) float64, computed in float32."""
    device = model.token_embedding.weight.device
    found = np.empty((len(texts), model.class_head.out_features))
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little is padded
    for start in range(0, len(texts), batch_size):
        rows = by_length[start : start + batch_size]
        inputs = pad_sequence([torch.as_tensor(texts[row]) for row in rows], batch_first=True)  # (B, T)
        ends = torch.arange(len(rows)) * inputs.shape[1] + torch.tensor([len(texts[row]) - 1 for row in rows])
        logits = model.class_logits(inputs.to(device), ends.to(device))
        found[rows] = torch.softmax(logits, -1).double().cpu().numpy()
    return found
