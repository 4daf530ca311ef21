"""Classification: a class head on a trained model, which reads a text and says which label it has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from ..counts import Counts
from ..data.json_records import record_files
from ..data.labelled import Labelled, LabelledSet, read_labelled
from ..evaluate.classification import calibration_table, confusion, confusion_table, scores_table
from ..evaluate.statistics import wilson
from ..files import write_json, write_table
from ..model.classifier import LABELS_FILE, Classifier, class_probabilities, classifier_tokens
from .loader import IGNORED, Batch, Sequences
from .loop import Course
from .loss import Objective
from .method import Start, with_rates
from .method_configs import ClassifyConfig
from .noting import NotingObjective
from .order import one_group


@dataclass(frozen=True)
class TextBatch(Batch):
    """B texts; no token is predicted, `positions` are the places of their last tokens."""

    labels: Tensor | None = None
    """(B,) int64."""

    @property
    def n_tokens(self) -> int:
        """All that is read, padding included."""
        return self.inputs.numel()

    @property
    def n_learned(self) -> int:
        """Texts: the loss is their mean."""
        return len(self.inputs)

    def arguments(self) -> tuple[Any, ...]:
        """What `ClassifierObjective` is called with."""
        return self.inputs, self.positions, self.labels


class Texts(Sequences):
    """Labelled texts in memory."""

    def __init__(self, tokens: Sequence[np.ndarray], labels: Sequence[int]) -> None:
        """The ids of each text and the number of its label."""
        self.tokens, self.labels = tokens, np.array(labels, np.int64)
        self._lengths = np.array([len(text) for text in tokens], np.int64)
        self.order = one_group(len(tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The tokens in each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> TextBatch:
        """The rows, filled up to the longest of them."""
        lengths = self._lengths[rows]
        inputs = np.zeros((len(rows), lengths.max()), np.int64)
        for i, row in enumerate(rows):
            inputs[i, : lengths[i]] = self.tokens[row]
        ends = np.arange(len(rows)) * inputs.shape[1] + lengths - 1
        parts = [torch.from_numpy(part) for part in (inputs, np.full_like(inputs, IGNORED), ends, self.labels[rows])]
        return TextBatch(*parts)


class ClassifierObjective(NotingObjective):
    """Cross-entropy of the labels; notes which texts are right (accuracy)."""

    def forward(self, inputs: Tensor, ends: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Sum of -ln p of the labels, in nats; arguments as a `TextBatch` gives them."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = cast(Classifier, self.model).class_logits(inputs, ends)  # (B, K)
        self.note(accuracy=(logits.argmax(-1) == labels).float())
        return F.cross_entropy(logits.float(), labels, reduction="sum")


@torch.no_grad()
def held_out_texts(
    objective: Objective, batches: Iterable[Batch], token_n_bytes: Tensor, check_stop: Callable[[], None]
) -> dict[str, float]:
    """`val_loss` in nats a text, `val_accuracy` with its 95 % interval."""
    noting, total = cast(ClassifierObjective, objective), 0.0
    noting.taken()
    for batch in batches:
        check_stop()
        total += noting(*batch.arguments()).item()
    share = wilson((noting.taken()["accuracy"] > 0).cpu().numpy())
    figures = {"val_accuracy": share.score, "val_accuracy_low": share.low, "val_accuracy_high": share.high}
    return {"val_loss": total / share.n, **figures}


def classify(
    model_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: ClassifyConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Trains a classifier on labelled texts and writes its artifact with scores and predictions; counts the texts.

    Goes on from the checkpoints in `work_dir`. Raises ValueError for malformed files, a label that training has not
    seen, or when the loss diverges; `Stopped` when asked to stop.
    """
    rates = with_rates(config.optimizer, learning_rate=5e-4, warmup_steps=10, weight_decay=0.1)
    config = replace(config, optimizer=rates)
    files, held_out = record_files("classify", config.files), config.held_out_files
    val_files = record_files("classify", held_out) if held_out else []
    fields = config.text_field, config.label_field
    data = read_labelled(files, val_files, config.held_out_fraction, *fields)
    start = Start.of(model_dir, config.loop, config.optimizer, min(config.loop.micro_batch_size, config.batch_size))
    if config.trainable_blocks > len(start.model.blocks):
        raise ValueError(
            f"trainable_blocks is {config.trainable_blocks}; the model has {len(start.model.blocks)} blocks"
        )
    train, val = (texts(items, data.labels, start) for items in (data.train, data.val))
    identity = start.identity("classify", [*files, *val_files], config)
    course = Course(
        train=train,
        val=val,
        n_steps=config.n_steps or math.ceil(config.n_epochs * len(train) / config.batch_size),
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[],
        identity=identity,
        objective=ClassifierObjective,
        measure=held_out_texts,
    )
    trained = classifier(start, len(data.labels), config, pretrained=True)
    progress = dataclasses.replace(start, model=trained).train(course, work_dir, out_dir, should_stop)
    at_once = config.loop.micro_batch_size
    probabilities = {
        "trained": class_probabilities(trained.eval(), val.tokens, at_once),
        "majority": majority(train, val),
    }
    if config.random_baseline:
        fresh = classifier(start, len(data.labels), config, pretrained=False)
        folder = work_dir / "random"
        (folder / "out").mkdir(parents=True, exist_ok=True)
        dataclasses.replace(start, model=fresh).train(course, folder, folder / "out", should_stop)
        probabilities["random"] = class_probabilities(fresh.eval(), val.tokens, at_once)
    scores = write_results(out_dir, data, val.labels, probabilities, config.n_calibration_bins)
    figures = progress.figures() | {"n_train": len(train), "n_val": len(val), "n_labels": len(data.labels)}
    figures |= {f"{row['model']}_{row['score']}": row["value"] for row in scores.to_pylist()}
    n_kept = len(train) + len(val)
    return Counts("texts", n_kept + sum(data.dropped.values()), n_kept, data.dropped, figures)


def classifier(start: Start, n_classes: int, config: ClassifyConfig, *, pretrained: bool) -> Classifier:
    """A classifier of the model's shape, with its weights or with random ones; its class head is fresh."""
    torch.manual_seed(config.loop.seed)
    made = Classifier(start.model.config, n_classes)
    if pretrained:
        made.load_state_dict(start.model.state_dict(), strict=False)  # all but the class head
    made.let_learn(config.trainable_blocks)
    return made.to(start.world.device)


def texts(items: Sequence[Labelled], labels: tuple[str, ...], start: Start) -> Texts:
    """Returns texts as the model reads them; see `classifier_tokens`."""
    tokens = classifier_tokens([item.text for item in items], start.tokenizer, start.model.config.context_length)
    return Texts([np.array(text, np.int64) for text in tokens], [labels.index(item.label) for item in items])


def majority(train: Texts, val: Texts) -> np.ndarray:
    """The baseline that knows only how frequent each label is among the texts trained on, (texts, labels)."""
    shares = np.bincount(train.labels) / len(train)
    return np.tile(shares, (len(val), 1))


def write_results(
    out_dir: Path, data: LabelledSet, truth: np.ndarray, probabilities: dict[str, np.ndarray], n_bins: int
) -> pa.Table:
    """Writes the labels and tables of scores, predictions, confusion and calibration; returns the scores.

    The scores are those of the classifier and its baselines, the other tables are the classifier's.
    """
    found = probabilities["trained"]  # (texts, labels)
    predicted = found.argmax(1)
    predictions = {
        "text": [item.text for item in data.val],
        "label": [item.label for item in data.val],
        "predicted": [data.labels[number] for number in predicted],
        "confidence": found.max(1),
        "probabilities": list(found),
    }
    scores = pa.concat_tables(scores_table(name, truth, some, n_bins) for name, some in probabilities.items())
    matrix = confusion(truth, predicted, len(data.labels))
    write_json(out_dir / LABELS_FILE, list(data.labels))
    write_table(out_dir / "scores.parquet", scores)
    write_table(out_dir / "predictions.parquet", pa.table(predictions))
    write_table(out_dir / "confusion.parquet", confusion_table(matrix, data.labels))
    write_table(out_dir / "calibration.parquet", calibration_table(truth, found, n_bins))
    return scores
