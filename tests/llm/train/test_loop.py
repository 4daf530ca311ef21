import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.model.files import load_model
from llm.model.gpt import GPT, GPTConfig
from llm.process import Stopped
from llm.tokenizer import Tokenizer
from llm.train.__main__ import train
from llm.train.config import LoopConfig, OptimizerConfig
from llm.train.loader import read_examples, read_shards, step_rows
from llm.train.loop import Course, Trainer
from llm.train.optimizer import learning_rate
from tests.llm.train.train_materials import artifact, tiny_job

SHAPE = GPTConfig(vocab_size=310, context_length=16, n_layers=2, n_heads=2, d_model=16)


def fresh_model(seed=0):
    torch.manual_seed(seed)
    return GPT(SHAPE)


def make_course(train_set, val_set, **changes):
    values = {
        "n_steps": 6,
        "batch_size": 8,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2, max_grad_norm=0.5),
        "loop": LoopConfig(micro_batch_size=8, n_threads=1, precision="float32"),
        "dtype": torch.float32,
        "prompts": [],
        "identity": {},
    }
    return Course(train=train_set, val=val_set, **(values | changes))


@pytest.fixture
def tokenizer(materials):
    return Tokenizer.load(materials.tokenizer_dir)


@pytest.fixture
def shards(materials):
    return read_shards(materials.shards_dir, materials.tokenizer_dir)


@pytest.fixture
def examples(materials, tokenizer):
    return read_examples(materials.examples_dir / "train.parquet", tokenizer, 16).sequences


def metric_lines(work_dir):
    return [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]


def plain_loss(model, sequences, rows):
    """Mean loss over supervised tokens, one sequence at a time, without padding."""
    total, n = torch.zeros(()), 0
    for row in rows:
        start, end = sequences.starts[row], sequences.starts[row] + sequences.lengths[row]
        tokens = torch.from_numpy(sequences.tokens[start:end].astype(np.int64))
        nll = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="none")
        mask = np.ones(end - start) if sequences.supervised is None else sequences.supervised[start:end]
        total = total + (nll * torch.from_numpy(mask[1:].astype(np.float32))).sum()
        n += int(mask[1:].sum())
    return total / n


@pytest.mark.parametrize("kind", ["shards", "examples"])
def test_training_equals_a_plain_loop(kind, shards, examples, tokenizer, tmp_path):
    """Losses and weights against torch.optim.AdamW on per-sequence losses; micro-batches of 3 in steps of 8."""
    sequences = shards.train if kind == "shards" else examples
    loop = LoopConfig(micro_batch_size=3, seed=5, precision="float32")
    course = make_course(sequences, shards.val, loop=loop)
    trained = fresh_model()
    Trainer(trained, tokenizer, course, tmp_path).run()

    reference, losses = fresh_model(), []
    matrices = [p for p in reference.parameters() if p.ndim == 2]
    others = [p for p in reference.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False)
    for step in range(6):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step, 6, course.optimizer)
        loss = plain_loss(reference, sequences, step_rows(len(sequences), 8, step, 5))
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        adamw.step()
        losses.append(loss.item())
    logged = [line["loss"] for line in metric_lines(tmp_path) if "loss" in line]
    assert logged == pytest.approx(losses, abs=1e-5)
    for ours, theirs in zip(trained.parameters(), reference.parameters(), strict=True):
        # Adam divides by the gradient's size, so rounding in near-zero gradients moves weights by parts of lr = 1e-2
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5])
def test_gradients_do_not_depend_on_micro_batches(micro_batch_size, examples, shards, tokenizer, tmp_path):
    def gradients(size, work_dir):
        work_dir.mkdir()
        model = fresh_model()
        loop = LoopConfig(micro_batch_size=size)
        trainer = Trainer(model, tokenizer, make_course(examples, shards.val, loop=loop), work_dir)
        kept = []
        trainer.optimizer.register_step_pre_hook(lambda *_: kept.extend(p.grad.clone() for p in model.parameters()))
        trainer.step()
        return kept

    whole, parts = gradients(8, tmp_path / "whole"), gradients(micro_batch_size, tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)  # float32 sums in another order


def test_held_out_measures_equal_those_of_single_sequences(shards, tokenizer, tmp_path):
    model = fresh_model().eval()
    trainer = Trainer(model, tokenizer, make_course(shards.train, shards.val), tmp_path)
    rows = np.arange(7)
    loss, bits_per_byte = trainer.held_out(shards.val.batches(rows, 3))
    expected = plain_loss(model, shards.val, rows).item()
    assert loss == pytest.approx(expected, abs=1e-5)
    spans = [
        shards.val.tokens[s + 1 : s + n] for s, n in zip(shards.val.starts[:7], shards.val.lengths[:7], strict=True)
    ]
    n_bytes = sum(len(tokenizer.decode(span.tolist(), skip_special=True).encode()) for span in spans)
    n_tokens = sum(len(span) for span in spans)
    assert bits_per_byte == pytest.approx(expected * n_tokens / math.log(2) / n_bytes, abs=1e-5)


def test_the_model_learns(materials, tmp_path):
    """12 words at random, 6 in a sentence: well below the loss of guessing, and held-out text follows."""
    changes = {"n_steps": 60, "optimizer": {"learning_rate": 2e-2, "warmup_steps": 5}}
    counts = train(tiny_job(materials, tmp_path, **changes))
    lines = [line for line in metric_lines(tmp_path / "out") if "val_loss" in line]
    assert lines[0]["val_loss"] == pytest.approx(math.log(310), rel=0.05)
    assert counts.figures["val_loss"] == lines[-1]["val_loss"] < 0.6 * lines[0]["val_loss"]
    assert counts.figures["val_bpb"] < 0.6 * lines[0]["val_bpb"]


def test_a_fine_tuned_model_answers_and_ends_its_turn(materials, tmp_path):
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 5}
    counts = train(tiny_job(materials, tmp_path, "finetune", n_steps=None, n_epochs=8, optimizer=optimizer))
    assert (counts.unit, counts.n_in, counts.n_out) == ("examples", 50, 50)
    assert counts.figures["n_steps"] == 50
    assert counts.figures["final_loss"] < 2.5 < math.log(310)
    assert (tmp_path / "out" / "samples.md").read_text().count("<|end|>") >= 2


def test_the_artifact_is_complete_and_repeatable(materials, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    counts = train(tiny_job(materials, first))
    job = tiny_job(materials, second)
    job["config"]["loop"] = job["config"]["loop"] | {"log_every": 1}  # how a run is shown changes no byte
    assert train(job) == counts
    assert list(artifact(first)) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "samples.md",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert artifact(first) == artifact(second)
    assert load_model(first / "out").config.vocab_size == 310
    assert counts.n_in == 12 * 8 * 16 - counts_of_pads(materials, counts)


def counts_of_pads(materials, counts):
    """Targets that are pads, in the sequences that the run of 12 steps saw."""
    train_set = read_shards(materials.shards_dir, materials.tokenizer_dir).train
    rows = np.concatenate([step_rows(len(train_set), 8, step, 0) for step in range(12)])
    return int((17 - train_set.lengths[rows]).sum())


def test_metrics_hold_every_step_and_the_last_one(materials, tmp_path):
    train(tiny_job(materials, tmp_path))
    lines = metric_lines(tmp_path / "work")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 5, 10, 12]
    assert {line["of"] for line in lines} == {12}
    assert any("tokens_per_s" in line for line in lines)
    assert metric_lines(tmp_path / "out") == lines


def test_a_loss_that_is_not_finite_names_step_and_remedy(shards, tokenizer, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e30, warmup_steps=0)
    trainer = Trainer(fresh_model(), tokenizer, make_course(shards.train, shards.val, optimizer=optimizer), tmp_path)
    message = r"diverged at step [123] .*lower optimizer.learning_rate, which is 1e\+30"
    with pytest.raises(ValueError, match=message):
        trainer.run()
    assert not list(tmp_path.glob("checkpoints/*"))


def test_stops_on_request_and_goes_on_later(shards, tokenizer, tmp_path):
    def course():
        return make_course(shards.train, shards.val)

    unbroken = fresh_model()
    (tmp_path / "a").mkdir()
    Trainer(unbroken, tokenizer, course(), tmp_path / "a").run()
    answers = iter([False, False, True])
    (tmp_path / "b").mkdir()
    with pytest.raises(Stopped, match="stopped at step 2 of 6"):
        Trainer(fresh_model(), tokenizer, course(), tmp_path / "b").run(lambda: next(answers))
    resumed = fresh_model(seed=9)  # its weights come from the checkpoint
    Trainer(resumed, tokenizer, course(), tmp_path / "b").run()
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bfloat16_is_near_float32(shards, tokenizer, tmp_path):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        trainer = Trainer(fresh_model(), tokenizer, make_course(shards.train, shards.val, dtype=dtype), tmp_path)
        losses[dtype] = trainer.held_out(shards.val.batches(np.arange(5), 5))[0]
    assert losses[torch.bfloat16] != losses[torch.float32]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], abs=0.02)  # 8 bits of mantissa


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("pretrain", {"batch_tokens": 100}, "batch_tokens is 100; .* context_length, 16: try 96 or 112"),
        ("pretrain", {"batch_tokens": 3}, "try 16"),
        ("distil", {}, "kind is 'distil'; allowed: 'pretrain', 'finetune'"),
    ],
)
def test_wrong_jobs_say_what_to_do(kind, changes, message, materials, tmp_path):
    job = tiny_job(materials, tmp_path, **changes) | {"kind": kind}
    with pytest.raises(ValueError, match=message):
        train(job)


def test_fine_tuning_with_another_tokenizer_is_refused(materials, tmp_path):
    Tokenizer.train(["flour water flour water"], 263).save(tmp_path)
    job = tiny_job(materials, tmp_path / "run", "finetune") | {"tokenizer_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="another tokenizer"):
        train(job)


def test_no_sample_tokens_mean_no_samples(shards, tokenizer, tmp_path):
    def samples(n_sample_tokens, work_dir):
        work_dir.mkdir()
        loop = LoopConfig(n_sample_tokens=n_sample_tokens, eval_every=3)
        course = make_course(shards.train, shards.val, loop=loop, prompts=[[0, 7]])
        return Trainer(fresh_model(), tokenizer, course, work_dir).run().samples

    assert samples(0, tmp_path / "without") == []
    assert [sample["step"] for sample in samples(2, tmp_path / "with")] == [0, 3, 6]
