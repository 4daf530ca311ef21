"""A model that says which label a text has.

The last token of a text has seen all of it, so the class head sits there. Of the rest only the last blocks learn:
they speak of how a text goes on, those below of what is in it.

Letters in shapes: B batch, T time, K classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import from_dict
from ..files import read_json
from .files import CONFIG_FILE, WEIGHTS_FILE, load_tensors
from .gpt import GPT, GPTConfig

LABELS_FILE = "labels.json"
"""The labels in the order of the class head's rows; a model beside this file is a classifier."""


class Classifier(GPT):
    """A model with a class head: a row for each label, at the end of a text."""

    def __init__(self, config: GPTConfig, n_classes: int) -> None:
        """A fresh one; its weights come from torch's global random generator."""
        super().__init__(config)
        self.class_head = nn.Linear(config.d_model, n_classes)
        nn.init.normal_(self.class_head.weight, std=config.init_std)
        nn.init.zeros_(self.class_head.bias)

    def class_logits(self, inputs: Tensor, ends: Tensor) -> Tensor:
        """Returns logits of each class, (B, K), for texts (B, T) whose last tokens are at `ends` (B,) of all B * T."""
        return self.class_head(self.features(inputs).flatten(0, 1).index_select(0, ends))

    def let_learn(self, n_blocks: int) -> None:
        """Only the last `n_blocks` blocks, the norm after them and the class head learn from now on."""
        self.requires_grad_(False)
        learning = [*list(self.blocks)[len(self.blocks) - n_blocks :], self.norm, self.class_head]
        for module in learning:
            module.requires_grad_()


def load_classifier(directory: Path, device: str | torch.device = "cpu") -> tuple[Classifier, list[str]]:
    """Reads a classifier, in evaluation mode, and its labels; raises OSError when a file is missing or damaged."""
    labels = read_json(directory / LABELS_FILE)
    with torch.device("meta"):
        model = Classifier(from_dict(GPTConfig, read_json(directory / CONFIG_FILE)["model"]), len(labels))
    model.load_state_dict(load_tensors(directory / WEIGHTS_FILE), assign=True)
    return model.to(device).eval(), labels
