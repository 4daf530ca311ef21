"""What is measured of a model, unit by unit: documents, examples, items and answers, as `Units`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.documents import Document
from .answers import AnswerLoss, Example, SampledAnswer
from .bits_per_byte import text_bytes, xz_bits_per_byte
from .multiple_choice import HEADLINE, ChoiceItem, ChoiceScores, word_overlap
from .multiple_choice import METRIC_VERSION as CHOICE_VERSION
from .scores import Score, Units
from .statistics import Estimate

BASE, CHAT, XZ, WORD_OVERLAP = "base", "chat", "xz -9", "word overlap"
DOCUMENTS, EXAMPLES, DEFINITIONS = "held-out documents", "held-out examples", "four-choice definitions"
BITS_PER_BYTE, ANSWER_LOSS = "bits per byte", "answer loss"
ENDED, EXACT_MATCH, TOKEN_F1 = "well-formed ends of turn", "exact match", "token F1"

LOSS_VERSION = 2
"""Of bits per byte and of the answer loss. 1: a window after a text's first did not begin with `<|document|>`."""
ANSWER_VERSION = 1
MAX_SOURCES = 12
"""Sources whose documents are scored by themselves at most, those with the most bytes."""


@dataclass(frozen=True)
class HeldOut:
    """What the models are measured on, beside benchmarks."""

    documents: list[Document]
    examples: list[Example]
    items: list[ChoiceItem]
    questions: list[Example]

    @property
    def texts(self) -> list[str]:
        """The texts of the documents."""
        return [document.text for document in self.documents]

    @property
    def n_items(self) -> int:
        """Documents, examples and questions together."""
        return len(self.documents) + len(self.examples) + len(self.items)


def document_units(documents: Sequence[Document], bits: npt.NDArray[np.float64]) -> Units:
    """Bits per byte, of all documents and, where there are several sources, of those of each."""
    sources = np.array([document.source for document in documents])
    sizes = text_bytes([document.text for document in documents])
    names = sorted(set(sources.tolist()), key=lambda name: (-sizes[sources == name].sum(), name))
    parts = {f"source {name or 'unnamed'}": sources == name for name in names[:MAX_SOURCES]}
    return Units(
        benchmark=DOCUMENTS,
        metric=BITS_PER_BYTE,
        version=LOSS_VERSION,
        ids=[document.id for document in documents],
        values=bits,
        weights=sizes,
        parts=parts if len(names) > 1 else {},
    )


def xz_row(texts: Sequence[str]) -> Score:
    """What xz needs for the texts: one number for all of them together, so without an interval."""
    bits = xz_bits_per_byte(texts)
    return Score(XZ, DOCUMENTS, BITS_PER_BYTE, LOSS_VERSION, Estimate(bits, bits, bits, len(texts)), has_interval=False)


def example_units(examples: Sequence[Example], loss: AnswerLoss) -> Units:
    """Nats per supervised token; the base model is asked in the chat form too, so the tokens are the same."""
    ids = [example.id for example in examples]
    return Units(
        benchmark=EXAMPLES,
        metric=ANSWER_LOSS,
        version=LOSS_VERSION,
        ids=ids,
        values=loss.nats,
        weights=loss.n_tokens,
    )


def answer_units(examples: Sequence[Example], answers: Sequence[SampledAnswer]) -> list[Units]:
    """How many answers close their turn, are the reference, and how many words they share with it."""
    found = {
        ENDED: [answer.ended for answer in answers],
        EXACT_MATCH: [answer.exact for answer in answers],
        TOKEN_F1: [answer.f1 for answer in answers],
    }
    return [
        Units(
            benchmark=EXAMPLES,
            metric=metric,
            version=ANSWER_VERSION,
            ids=[example.id for example in examples],
            values=np.array(values, dtype=np.float64),
            is_share=metric != TOKEN_F1,
        )
        for metric, values in found.items()
    ]


def definition_units(items: Sequence[ChoiceItem], scores: ChoiceScores) -> list[Units]:
    """The four-choice accuracy by each way to pick a choice."""
    return [_choice_units(items, metric, chosen) for metric, chosen in scores.chosen().items()]


def word_overlap_units(items: Sequence[ChoiceItem]) -> Units:
    """The four-choice accuracy of counting shared words."""
    return _choice_units(items, HEADLINE, word_overlap(items))


def _choice_units(items: Sequence[ChoiceItem], metric: str, chosen: npt.NDArray[np.int64]) -> Units:
    gold = np.array([item.gold for item in items])
    return Units(
        benchmark=DEFINITIONS,
        metric=metric,
        version=CHOICE_VERSION,
        ids=[item.id for item in items],
        values=(chosen == gold).astype(np.float64),
        is_share=True,
        chance=1 / len(items[0].choices),
        gold=gold,
        chosen=chosen,
    )
