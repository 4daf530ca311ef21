"""The reference of preference training: the chat model's log-likelihood of each answer before it is trained.

The model that DPO starts from stays the reference, so its log-probabilities are computed once, and training never
holds two models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ...counts import Counts
from ...data.user_files.json_records import record_files
from ...data.user_files.pairs import Pair, read_pairs
from ...files import sha256_file, write_json, write_table
from ...model.files import WEIGHTS_FILE, load_model
from ...process import MetricsLog, Stopped
from ...splits import held_out_keys
from ...tokenizer.tokenizer import Tokenizer
from ..config import LoopConfig
from ..device import choose_device, choose_dtype
from .answers import REFERENCE_FILE, AnswerObjective, Pairs, rendered
from .config import ReferenceConfig
from .examples import ASKED_LATER, HeldOutQuestions

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [
        ("prompt", pa.list_(MESSAGE)),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_log_p", pa.float64()),
        ("rejected_log_p", pa.float64()),
    ]
)


def reference(
    model_dir: Path,
    work_dir: Path,
    out_dir: Path,
    config: ReferenceConfig,
    should_stop: Callable[[], bool] = lambda: False,
    examples_dir: Path | None = None,
) -> Counts:
    """Writes `train.parquet` and `val.parquet`: preference pairs with the model's ln p of both answers, in nats.

    A pair that does not fit into the context is dropped, not cut; a question that `examples_dir` holds out as well.
    Raises ValueError for malformed files, and when too few pairs are left; `Stopped` when asked to stop.
    """
    found, dropped = read_pairs(record_files("reference", config.files), config.bad_examples)
    held_out_questions = HeldOutQuestions.of(examples_dir)
    pairs = [pair for pair in found if not held_out_questions.are_in(pair.prompt)]
    loop = LoopConfig(precision=config.precision, device=config.device, n_threads=config.n_threads)
    device = choose_device(loop)
    model, tokenizer, dtype = load_model(model_dir, device), Tokenizer.load(model_dir), choose_dtype(loop, device)
    kept = fitting(pairs, tokenizer, model.config.context_length)
    counted = Counter(dropped) + Counter({ASKED_LATER: len(found) - len(pairs), "too long": len(pairs) - len(kept)})
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} pairs are left, too few to train on ({dict(counted)}); the context is "
            f"{model.config.context_length} tokens: add pairs, or shorter ones"
        )
    held_out = held_out_keys((pair.key for pair in kept), config.held_out_fraction)
    objective = AnswerObjective(model, dtype)
    log_p = answers_log_p(objective, kept, tokenizer, work_dir, config.micro_batch_size, should_stop)
    sides = np.array([pair.key in held_out for pair in kept])
    for name, is_on_side in (("train", ~sides), ("val", sides)):
        write_table(
            out_dir / f"{name}.parquet", table([kept[i] for i in np.flatnonzero(is_on_side)], log_p[is_on_side])
        )
    made_with = {"base": sha256_file(model_dir / WEIGHTS_FILE), "precision": str(dtype)[6:]}
    write_json(out_dir / REFERENCE_FILE, made_with)
    figures = {"n_train": int((~sides).sum()), "n_val": int(sides.sum()), "mean_log_p": float(log_p.mean())}
    return Counts("pairs", len(kept) + counted.total(), len(kept), dict(counted), figures)


def fitting(pairs: Sequence[Pair], tokenizer: Tokenizer, context_length: int) -> list[Pair]:
    """Returns the pairs of which both chats fit into the context."""
    sequences = Pairs([rendered(pair.prompt, pair.chosen, pair.rejected, tokenizer) for pair in pairs], np.zeros(0))
    fits = sequences.lengths(np.arange(len(pairs))) <= context_length + 1
    return [pair for pair, does_fit in zip(pairs, fits, strict=True) if does_fit]


@torch.no_grad()
def answers_log_p(
    objective: AnswerObjective,
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    work_dir: Path,
    micro_batch_size: int,
    should_stop: Callable[[], bool],
) -> np.ndarray:
    """Returns ln p of both answers of each pair, (pairs, 2) float64; progress goes to `metrics.jsonl` in `work_dir`."""
    log_p = np.zeros((len(pairs), 2))
    sequences = Pairs([rendered(pair.prompt, pair.chosen, pair.rejected, tokenizer) for pair in pairs], log_p)
    rows = np.argsort(sequences.lengths(np.arange(len(pairs))), kind="stable")
    metrics = MetricsLog(work_dir, keep=lambda line: False)
    device = objective.model.token_embedding.weight.device
    for start in range(0, len(rows), micro_batch_size):
        if should_stop():
            raise Stopped(f"stopped after {start} of {len(rows)} pairs")
        chosen = rows[start : start + micro_batch_size]
        batch = sequences.batch(chosen).to(device)
        both = objective.answer_log_p(batch)  # (2B,)
        log_p[chosen] = both.view(2, -1).T.double().cpu().numpy()
        metrics.write(start + len(chosen), of=len(rows))
    metrics.close()
    return log_p


def table(pairs: Sequence[Pair], log_p: np.ndarray) -> pa.Table:
    """Returns the rows of a file; `log_p` is (pairs, 2)."""
    rows = [
        {
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "chosen_log_p": float(chosen),
            "rejected_log_p": float(rejected),
        }
        for pair, (chosen, rejected) in zip(pairs, log_p, strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
