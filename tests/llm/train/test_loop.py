import dataclasses
import json
import math
import resource

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.model.files import load_model
from llm.model.gpt import GPT, GPTConfig
from llm.process import ProcessLost, Stopped
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train
from llm.train.config import LoopConfig, ResolvedOptimizer
from llm.train.loader import step_rows
from llm.train.loop import RunSpec, Trainer
from llm.train.measure import held_out
from llm.train.methods.examples import read_examples
from llm.train.optimizer import learning_rate
from llm.train.shards import read_shards
from llm.train.throughput import TIMED_FIELDS, Throughput
from tests.llm.train.train_materials import artifact, tiny_job

SHAPE = GPTConfig(vocab_size=310, context_length=16, n_layers=2, n_heads=2, d_model=16)


def fresh_model(seed=0):
    torch.manual_seed(seed)
    return GPT(SHAPE)


def make_spec(train_set, val_set, **changes):
    values = {
        "n_steps": 6,
        "batch_size": 8,
        "optimizer": ResolvedOptimizer(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1, max_grad_norm=0.5),
        "loop": LoopConfig(micro_batch_size=8, n_threads=1, precision="float32"),
        "dtype": torch.float32,
        "prompts": [],
        "identity": {},
    }
    return RunSpec(train=train_set, val=val_set, **(values | changes))


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
        batch = sequences.batch(np.array([row]))
        total = total + F.cross_entropy(model(batch.inputs)[0], batch.targets[0], reduction="sum")  # -100: skipped
        n += int((batch.targets != -100).sum())
    return total / n


@pytest.mark.parametrize("kind", ["shards", "examples"])
def test_training_equals_a_plain_loop(kind, shards, examples, tokenizer, tmp_path):
    """Losses and weights against torch.optim.AdamW on per-sequence losses; micro-batches of 3 in steps of 8."""
    sequences = shards.train if kind == "shards" else examples
    loop = LoopConfig(micro_batch_size=3, seed=5, precision="float32")
    spec = make_spec(sequences, shards.val, loop=loop)
    trained = fresh_model()
    Trainer(trained, tokenizer, spec, tmp_path).run()

    reference, losses = fresh_model(), []
    matrices = [p for p in reference.parameters() if p.ndim == 2]
    others = [p for p in reference.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False)
    for step in range(6):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step, 6, spec.optimizer)
        loss = plain_loss(reference, sequences, step_rows(sequences.order, 8, step, 5))
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
        trainer = Trainer(model, tokenizer, make_spec(examples, shards.val, loop=loop), work_dir)
        kept = []
        trainer.optimizer.parts[0].register_step_pre_hook(
            lambda *_: kept.extend(p.grad.clone() for p in model.parameters())
        )
        trainer.step()
        return kept

    whole, parts = gradients(8, tmp_path / "whole"), gradients(micro_batch_size, tmp_path / "parts")
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)  # float32 sums in another order


def test_held_out_measures_equal_those_of_single_sequences(shards, tokenizer, tmp_path):
    model = fresh_model().eval()
    trainer = Trainer(model, tokenizer, make_spec(shards.train, shards.val), tmp_path)
    rows = np.arange(7)
    batches = shards.val.batches(rows, 3)
    loss, bits_per_byte = held_out(trainer.objective, batches, trainer.token_n_bytes, lambda: None).values()
    expected = plain_loss(model, shards.val, rows).item()
    assert loss == pytest.approx(expected, abs=1e-5)
    targets = [shards.val.batch(rows[i : i + 1]).targets[0] for i in range(len(rows))]
    spans = [target[target != -100].tolist() for target in targets]
    n_bytes = sum(len(tokenizer.decode(span, skip_special=True).encode()) for span in spans)
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
    rows = np.concatenate([step_rows(train_set.order, 8, step, 0) for step in range(12)])
    return int((17 - train_set.lengths(rows)).sum())


def test_metrics_hold_every_step_and_the_last_one(materials, tmp_path):
    train(tiny_job(materials, tmp_path))
    lines = metric_lines(tmp_path / "work")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 5, 10, 12]
    assert {line["of"] for line in lines} == {12}
    assert any("tokens_per_s" in line for line in lines)
    assert metric_lines(tmp_path / "out") == lines


def run_until(trainer, is_time):
    """Runs a trainer that is asked to stop as soon as `is_time(trainer)`."""
    with pytest.raises(Stopped):
        trainer.run(lambda: is_time(trainer))


def require_same_weights(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("in_background", [False, True])
def test_stops_on_request_and_goes_on_later(in_background, shards, tokenizer, tmp_path):
    def trainer(folder, seed):
        (tmp_path / folder).mkdir(exist_ok=True)
        loop = LoopConfig(micro_batch_size=8, precision="float32", checkpoint_in_background=in_background)
        return Trainer(fresh_model(seed), tokenizer, make_spec(shards.train, shards.val, loop=loop), tmp_path / folder)

    unbroken = trainer("a", 0)
    unbroken.run()
    run_until(trainer("b", 0), lambda it: it.progress.step == 2)
    resumed = trainer("b", 9)  # its weights come from the checkpoint
    assert resumed.progress.step == 2
    resumed.run()
    require_same_weights(unbroken.model, resumed.model)


class Counter:
    """Says yes at the n-th question."""

    def __init__(self, n):
        self.n_left = n

    def __call__(self):
        self.n_left -= 1
        return self.n_left <= 0


@pytest.mark.parametrize("n_questions", [1, 2, 3, 8, 12, 15, 20, 22, 26, 33, 40])
def test_a_stop_in_the_middle_of_a_step_or_a_measurement_changes_nothing(n_questions, materials, tmp_path):
    """Dropout too: the random numbers of a step that was thrown away are drawn again."""
    loop = LoopConfig(micro_batch_size=2, eval_every=2, n_eval_sequences=6, n_sample_tokens=3, precision="float32")
    tokenizer, shards = (
        Tokenizer.load(materials.tokenizer_dir),
        read_shards(materials.shards_dir, materials.tokenizer_dir),
    )

    def trainer(folder):
        torch.manual_seed(0)
        model = GPT(dataclasses.replace(SHAPE, dropout=0.3))
        (tmp_path / folder).mkdir(exist_ok=True)
        spec = make_spec(shards.train, shards.val, n_steps=3, loop=loop, prompts=[[0, 7], [0, 9]])
        return Trainer(model, tokenizer, spec, tmp_path / folder)

    unbroken = trainer("a")
    unbroken.run()
    with pytest.raises(Stopped, match="stopped at step"):
        trainer("b").run(Counter(n_questions))
    resumed = trainer("b")
    resumed.run()
    require_same_weights(unbroken.model, resumed.model)
    assert resumed.progress == unbroken.progress
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")


def untimed(work_dir):
    """The lines of metrics without times and speeds."""
    return [{name: line[name] for name in line if name not in TIMED_FIELDS} for line in metric_lines(work_dir)]


def test_lines_say_how_fast_and_how_long_it_goes_on(shards, tokenizer, tmp_path):
    loop = LoopConfig(micro_batch_size=4, log_every=2, precision="float32")
    Trainer(fresh_model(), tokenizer, make_spec(shards.train, shards.val, loop=loop), tmp_path).run()
    lines = [line for line in metric_lines(tmp_path) if line["step"] in (2, 4, 6) and "loss" in line]
    assert all(line["tokens_per_s"] > 0 and line["memory_bytes"] > 1e7 for line in lines)
    assert [line.get("seconds_left", -1) >= 0 for line in lines] == [False, True, True]
    assert lines[-1]["seconds_left"] == 0
    assert "mfu" not in lines[0]  # nobody knows this CPU's peak


def test_mfu_is_the_share_of_the_peak(monkeypatch):
    monkeypatch.setattr("llm.train.throughput.peak_flops", lambda device: 1e12)
    now = iter([0.0, 2.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr("llm.train.throughput.time.monotonic", lambda: next(now))
    throughput = Throughput(torch.device("cpu"), 10, 1e6)
    throughput.count(500_000)
    metrics = throughput.metrics(1, n_processes=1)
    assert metrics["tokens_per_s"] == 250_000
    assert metrics["mfu"] == 0.25
    throughput.count(500_000)
    metrics = throughput.metrics(3, n_processes=2)
    assert metrics["mfu"] == 0.125
    assert metrics["seconds_left"] == 7  # two steps in two seconds, seven steps to go


def test_the_best_weights_are_found_again(shards, tokenizer, tmp_path):
    """A learning rate that rises makes the last step worse than an earlier one."""
    optimizer = ResolvedOptimizer(learning_rate=0.3, warmup_steps=12, weight_decay=0.0)
    models, progresses = {}, {}
    for keep in ("last", "best"):
        (tmp_path / keep).mkdir()
        loop = LoopConfig(micro_batch_size=8, eval_every=2, n_checkpoints=1, precision="float32", keep=keep)
        spec = make_spec(shards.train, shards.val, n_steps=12, loop=loop, optimizer=optimizer)
        trainer = Trainer(fresh_model(), tokenizer, spec, tmp_path / keep)
        progresses[keep], models[keep] = trainer.run(), trainer
    figures = progresses["best"].metrics()
    lines = [line for line in metric_lines(tmp_path / "best") if "val_loss" in line]
    best = min(lines, key=lambda line: line["val_loss"])
    assert best["step"] < 12
    assert (figures["best_step"], figures["best_val_loss"]) == (best["step"], best["val_loss"])
    assert figures["val_loss"] == best["val_loss"] < progresses["last"].val["val_loss"]
    trainer = models["best"]
    batches = shards.val.batches(np.arange(len(shards.val)), 8)
    found = held_out(trainer.objective, batches, trainer.token_n_bytes, lambda: None)["val_loss"]
    assert found == pytest.approx(best["val_loss"], rel=0.02)
    kept = sorted(path.name for path in (tmp_path / "best" / "checkpoints").iterdir())
    assert kept == [f"step-{best['step']:08d}", "step-00000012"]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_damaged_best_checkpoint_costs_the_steps_after_it(shards, tokenizer, tmp_path, keep):
    """It is read at the end only: the next try after that goes on before it, and ends as an unbroken run."""
    optimizer = ResolvedOptimizer(learning_rate=0.3, warmup_steps=12, weight_decay=0.0)

    def trainer():
        loop = LoopConfig(micro_batch_size=8, eval_every=2, n_checkpoints=1, precision="float32", keep=keep)
        spec = make_spec(shards.train, shards.val, n_steps=12, loop=loop, optimizer=optimizer)
        return Trainer(fresh_model(), tokenizer, spec, tmp_path)

    unbroken = trainer()
    best = unbroken.run().best["step"]
    assert best < 12
    path = tmp_path / "checkpoints" / f"step-{best:08d}" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if keep == "best":
        with pytest.raises(ProcessLost, match=rf"step-{best:08d} is damaged.*model\.safetensors is damaged"):
            trainer().run()
    again = trainer()
    assert (again.progress.step < best) == (keep == "best")
    assert again.run() == unbroken.progress
    expected = unbroken.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())


def test_every_measured_step_is_saved(shards, tokenizer, tmp_path):
    loop = LoopConfig(micro_batch_size=8, eval_every=2, checkpoint_every=3, n_checkpoints=10, precision="float32")
    Trainer(fresh_model(), tokenizer, make_spec(shards.train, shards.val, loop=loop), tmp_path).run()
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir())
    assert steps == [0, 2, 3, 4, 6]


def test_a_full_disk_ends_training_and_a_new_run_goes_on(shards, tokenizer, tmp_path):
    def trainer(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        loop = LoopConfig(micro_batch_size=8, checkpoint_every=2, precision="float32")
        spec = make_spec(shards.train, shards.val, loop=loop)
        return Trainer(fresh_model(), tokenizer, spec, tmp_path / folder)

    unbroken, full = trainer("a"), trainer("b")
    unbroken.run()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    full.optimizer.parts[0].register_step_post_hook(
        lambda *_: full.progress.step == 3 and resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limit[1]))
    )
    try:
        with pytest.raises(OSError, match=r"no checkpoint could be written .*step-00000002 is whole"):
            full.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    resumed = trainer("b")
    assert resumed.progress.step == 2
    resumed.run()
    require_same_weights(unbroken.model, resumed.model)


def test_bfloat16_is_near_float32(shards, tokenizer, tmp_path):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        trainer = Trainer(fresh_model(), tokenizer, make_spec(shards.train, shards.val, dtype=dtype), tmp_path)
        batches = shards.val.batches(np.arange(5), 5)
        losses[dtype] = held_out(trainer.objective, batches, trainer.token_n_bytes, lambda: None)["val_loss"]
    assert losses[torch.bfloat16] != losses[torch.float32]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], abs=0.02)  # 8 bits of mantissa


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 100}, "batch_tokens is 100; .* context_length, 16: try 96 or 112"),
        ({"batch_tokens": 3}, "try 16"),
    ],
)
def test_wrong_jobs_say_what_to_do(changes, message, materials, tmp_path):
    job = tiny_job(materials, tmp_path, **changes)
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
        spec = make_spec(shards.train, shards.val, loop=loop, prompts=[[0, 7]])
        return Trainer(fresh_model(), tokenizer, spec, work_dir).run().samples

    assert samples(0, tmp_path / "without") == []
    assert [sample["step"] for sample in samples(2, tmp_path / "with")] == [0, 3, 6]
