"""The artifacts of a whole run in miniature, every text of which a test may choose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from llm.counts import Counts
from llm.data.common.drops import Dropped, write_dropped
from llm.documents import Document, document_id, documents_table
from llm.evaluate.scores import SCORE_SCHEMA
from llm.files import write_json, write_table
from llm.model.files import save_model
from llm.model.gpt import GPT, GPTConfig
from llm.report.report import StageSummary
from llm.tokenizer.tokenizer import Tokenizer

INPUTS = {
    "crawl": (),
    "clean": ("crawl",),
    "dedup": ("clean",),
    "tokenizer": ("dedup",),
    "shard": ("dedup", "tokenizer"),
    "pretrain": ("shard", "tokenizer"),
    "instruct": ("crawl", "dedup"),
    "finetune": ("pretrain", "instruct"),
    "evaluate": ("pretrain", "finetune", "dedup", "instruct"),
}

MAKES = {"pretrain": "base", "finetune": "chat"}

MEASURED = {0: 6.0, 10: 0.125, 30: 0.25}
"""The held-out loss of either model by step."""

MakeRun = Callable[..., list[StageSummary]]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(["What does os.path.join do? Joins one or more path segments."] * 4, 290)


def score_row(model: str, benchmark: str, metric: str, score: float, chance: float | None = None) -> dict:
    """A row of scores.parquet, with an interval of 1/32 on either side."""
    interval = {"low": score - 0.03125, "high": score + 0.03125}
    return {
        "model": model, "benchmark": benchmark, "metric": metric, "metric_version": 1, "score": score, "n": 64,
        "chance": chance, **interval,
    }  # fmt: skip


def _counts(text: str) -> dict[str, Counts]:
    return {
        "crawl": Counts("pages", 1300, 1234, {text: 60, "robots.txt": 6}, {text: 1.5}),
        "clean": Counts("pages", 1234, 1000, {"too short": 200, text: 34}),
        "dedup": Counts("documents", 1000, 900, {"near duplicate": 100}),
        "tokenizer": Counts("documents", 900, 880, {"held out": 20}, {"vocab_size": 290}),
        "shard": Counts("documents", 900, 900),
        "pretrain": Counts("tokens", 1_234_567, 1_234_567, {}, {"n_params": 1_350_400, "val_bpb": 1.987654}),
        "instruct": Counts("definitions", 50, 40, {"too long": 10}),
        "finetune": Counts("examples", 40, 40),
        "evaluate": Counts("items", 64, 64, {}, {"chat_four_choice_accuracy": 0.5}),
    }


@pytest.fixture
def make_run(tiny_tokenizer) -> MakeRun:
    """Writes a run under a directory; `text` stands in every place that pages, models or users fill."""

    def make(root: Path, *, text: str = "plain words", speed: float = 1.0, fingerprint: str = "f" * 64):
        path = {stage: root / stage for stage in INPUTS}
        for directory in path.values():
            directory.mkdir(parents=True)
        _write_pages(path, text)
        _write_documents(path, text)
        token = {"id": 7, "text": text, "n_bytes": 9, "count": 3}
        part = {"n_bytes": 1000, "n_tokens": 300, "bytes_per_token": 10 / 3}
        report = {
            "vocab_size": 290,
            "train": part,
            "held_out": part,
            "longest_tokens": [token],
            "rarest_tokens": [token],
        }
        write_json(path["tokenizer"] / "report.json", report)
        for stage in ("pretrain", "finetune"):
            _write_model(path[stage], tiny_tokenizer, text, speed)
        _write_chats(path["instruct"], text)
        _write_evaluation(path["evaluate"], text)
        return [
            StageSummary(stage, fingerprint, f"{index}" * 64, INPUTS[stage], counts, path[stage], MAKES.get(stage))
            for index, (stage, counts) in enumerate(_counts(text).items())
        ]

    return make


def _write_pages(path: dict[str, Path], text: str) -> None:
    refused = [{"url": f"http://docs/{text}/{i}", "reason": text if i else "robots.txt"} for i in range(5)]
    write_table(path["crawl"] / "refused.parquet", pa.Table.from_pylist(refused))
    write_dropped(
        path["clean"] / "dropped-00000.parquet",
        [
            Dropped.of("", f"http://docs/{text}/dropped", text, text, text),
            Dropped("", "http://docs/short", "too short"),
        ],
    )


def _write_documents(path: dict[str, Path], text: str) -> None:
    documents = []
    for index in range(6):
        body = f"{text} is what document {index} says. " * (index + 1)
        url = f"http://docs/{text}/{index}"
        documents.append(Document(document_id(url, body), url, text, body, "en", len(body), index % 2 == 0))
    for stage in ("clean", "dedup"):
        write_table(path[stage] / "documents-00000.parquet", documents_table(documents))


def _write_model(directory: Path, tokenizer: Tokenizer, text: str, speed: float) -> None:
    torch.manual_seed(0)
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 16}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=32, **shape))
    for block in model.blocks:
        block.attention.query.weight.data.mul_(1000)  # sharp attention: some weights are zero, as in a trained model
    save_model(model, directory, {})
    tokenizer.save(directory)
    lines = [{"step": s, "of": 30, "loss": 6 / s, "tokens_per_s": speed * s, "grad_norm": speed} for s in range(1, 31)]
    lines += [{"step": s, "val_loss": loss, "val_bpb": loss / 2, "seconds": speed} for s, loss in MEASURED.items()]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "samples.md").write_text(f"# step 30\n\n{text}\n", encoding="utf-8")
    write_json(directory / "skipped.json", [{"step": 7, "batch": 6, "why": text}])


def _write_chats(directory: Path, text: str) -> None:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    write_table(directory / "train.parquet", pa.Table.from_pylist([{"messages": messages}]))


def _write_evaluation(directory: Path, text: str) -> None:
    rows = [
        score_row("xz -9", "held-out documents", "bits per byte", 2.5),
        score_row("base", "held-out documents", "bits per byte", 1.75),
        score_row("base", f"held-out documents, source {text}", "bits per byte", 1.5),
        score_row("chat", "four-choice definitions", "accuracy", 0.5, chance=0.25),
        score_row("chat", "four-choice definitions", "accuracy minus base", 0.125),
        score_row("chat", "held-out examples", "well-formed ends of turn", 0.75),
        score_row("base", "arc_easy", "accuracy", 0.5, chance=0.25),
        score_row("base", "arc_easy, clean items", "accuracy", 0.4375, chance=0.25),
        score_row("base", "arc_easy", "centred accuracy", 1 / 3),
        score_row("base", "CORE", "centred accuracy, 1 of 22 tasks", 1 / 3),
        score_row("chat", "CORE", "centred accuracy, 1 of 22 tasks", 0.25),
    ]
    write_table(directory / "scores.parquet", pa.Table.from_pylist(rows, schema=SCORE_SCHEMA))
    answer = {"question": text, "reference": text, "answer": text, "exact": False, "f1": 0.5}
    answers = [answer | {"ended": ended} for ended in (True, False)]
    samples = [{"model": model, "prompt": text, "text": text} for model in ("base", "chat")]
    for name, values in {"answers.jsonl": answers, "samples.jsonl": samples}.items():
        (directory / name).write_text("".join(json.dumps(line) + "\n" for line in values), encoding="utf-8")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
