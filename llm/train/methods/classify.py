"""Classification: a class head on a trained model, which reads a text and says which label it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from ...counts import Counts
from ...data.user_files.json_records import record_files
from ...data.user_files.labelled import Labelled, LabelledSet, read_labelled
from ...files import write_json, write_table
from ...model.classifier import LABELS_FILE, Classifier, class_probabilities, classifier_tokens
from ...statistics import wilson
from ..loader import IGNORED, Batch, Sequences, files_digest
from ..loop import RunSpec
from ..loss import Objective
from ..order import one_group
from .classification_scores import calibration_table, confusion, confusion_table, scores_table
from .config import ClassifyConfig
from .start import Start


@dataclass(frozen=True, kw_only=True)
class TextBatch(Batch):
    """B texts; no token is predicted."""

    ends: Tensor
    """(B,) int64, the positions of their last tokens among the B * T."""
    labels: Tensor
    """(B,) int64."""

    @property
    def n_tokens(self) -> int:
        """All that is read, padding included."""
        return self.inputs.numel()

    @property
    def n_learned(self) -> int:
        """Texts: the loss is their mean."""
        return len(self.inputs)


class Texts(Sequences):
    """Labelled texts in memory."""

    def __init__(self, tokens: Sequence[np.ndarray], labels: Sequence[int]) -> None:
        """Takes the ids of each text and the number of its label."""
        self.tokens, self.labels = tokens, np.array(labels, np.int64)
        self._lengths = np.array([len(text) for text in tokens], np.int64)
        self.order = one_group(len(tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the tokens in each of the rows."""
        return self._lengths[rows]

    def batch(self, rows: np.ndarray) -> TextBatch:
        """Returns the rows, padded to the longest of them."""
        lengths = self._lengths[rows]
        inputs = np.zeros((len(rows), lengths.max()), np.int64)
        for i, row in enumerate(rows):
            inputs[i, : lengths[i]] = self.tokens[row]
        ends = np.arange(len(rows)) * inputs.shape[1] + lengths - 1
        nothing = torch.empty(0, dtype=torch.int64)
        parts = [torch.from_numpy(part) for part in (inputs, np.full_like(inputs, IGNORED), ends, self.labels[rows])]
        return TextBatch(parts[0], parts[1], nothing, ends=parts[2], labels=parts[3])


class ClassifierObjective(Objective):
    """Cross-entropy of the labels; its metric is which texts are right."""

    def forward(self, batch: Batch) -> Tensor:
        """Returns the sum of -ln p of the labels of a `TextBatch`, in nats."""
        assert isinstance(batch, TextBatch)
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = cast(Classifier, self.model).class_logits(batch.inputs, batch.ends)  # (B, K)
        self.metrics.add(accuracy=(logits.argmax(-1) == batch.labels).float())
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum")

    def held_out_metrics(self, loss: float, n_bytes: int, examples: dict[str, Tensor]) -> dict[str, float]:
        """Returns `val_accuracy`, the share of right texts, with its 95 % interval."""
        share = wilson((examples["accuracy"] > 0).cpu().numpy())
        return {"val_accuracy": share.score, "val_accuracy_low": share.low, "val_accuracy_high": share.high}


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
    optimizer = config.optimizer.resolved(learning_rate=5e-4, warmup_steps=10, weight_decay=0.1)
    config = replace(config, optimizer=optimizer)
    files, held_out = record_files("classify", config.files), config.held_out_files
    val_files = record_files("classify", held_out) if held_out else []
    fields = config.text_field, config.label_field
    data = read_labelled(files, val_files, config.held_out_fraction, *fields, config.bad_examples)
    start = Start.of(model_dir, config.loop)
    start.require_memory(min(config.loop.micro_batch_size, config.batch_size), optimizer)
    if config.trainable_blocks > len(start.model.blocks):
        raise ValueError(
            f"trainable_blocks is {config.trainable_blocks}; the model has {len(start.model.blocks)} blocks"
        )
    train, val = (texts(items, data.labels, start) for items in (data.train, data.val))
    spec = RunSpec(
        train=train,
        val=val,
        n_steps=config.n_steps or math.ceil(config.n_epochs * len(train) / config.batch_size),
        batch_size=config.batch_size,
        optimizer=optimizer,
        loop=config.loop,
        dtype=start.dtype,
        prompts=[],
        identity=start.identity("classify", files_digest([*files, *val_files]), config),
        objective=ClassifierObjective,
    )
    trained = classifier(start, len(data.labels), config, pretrained=True)
    progress = replace(start, model=trained).train(spec, work_dir, out_dir, should_stop)
    at_once = config.loop.micro_batch_size
    probabilities = {
        "trained": class_probabilities(trained.eval(), val.tokens, at_once),
        "majority": majority(train, val),
    }
    if config.random_baseline:
        fresh = classifier(start, len(data.labels), config, pretrained=False)
        folder = work_dir / "random"
        (folder / "out").mkdir(parents=True, exist_ok=True)
        replace(start, model=fresh).train(spec, folder, folder / "out", should_stop)
        probabilities["random"] = class_probabilities(fresh.eval(), val.tokens, at_once)
    scores = write_results(out_dir, data, val.labels, probabilities, config.n_calibration_bins)
    figures = progress.metrics() | {"n_train": len(train), "n_val": len(val), "n_labels": len(data.labels)}
    figures |= {f"{row['model']}_{row['score']}": row["value"] for row in scores.to_pylist()}
    n_kept = len(train) + len(val)
    return Counts("texts", n_kept + sum(data.dropped.values()), n_kept, data.dropped, figures)


def classifier(start: Start, n_classes: int, config: ClassifyConfig, *, pretrained: bool) -> Classifier:
    """Returns a classifier of the model's shape, with its weights or with random ones; its class head is fresh."""
    torch.manual_seed(config.loop.seed)
    made = Classifier(start.model.config, n_classes)
    if pretrained:
        made.load_state_dict(start.model.state_dict(), strict=False)  # all but the class head
    made.let_learn(config.trainable_blocks)
    torch.manual_seed(config.loop.seed)  # training draws the same numbers, however many the weights took
    return made.to(start.world.device)


def texts(items: Sequence[Labelled], labels: tuple[str, ...], start: Start) -> Texts:
    """Tokenizes texts as `classifier_tokens` does."""
    tokens = classifier_tokens([item.text for item in items], start.tokenizer, start.model.config.context_length)
    return Texts([np.array(text, np.int64) for text in tokens], [labels.index(item.label) for item in items])


def majority(train: Texts, val: Texts) -> np.ndarray:
    """Returns the baseline that knows only how frequent each label is among the texts trained on, (texts, labels)."""
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
