"""Steps that are not learned from: which, what becomes of them, and that a killed run repeats it all."""

import copy
import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
import torch

from llm.model.gpt import GPT, GPTConfig
from llm.process import Stopped
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.checkpoint import state_tensors
from llm.train.config import GuardConfig, LoopConfig, ResolvedOptimizer
from llm.train.guard import rejection_reason
from llm.train.loader import Batch, Sequences, batch_of
from llm.train.loop import RunSpec, Trainer
from llm.train.shards import read_shards
from llm.train.throughput import TIMED_FIELDS

SHAPE = GPTConfig(vocab_size=310, context_length=16, n_layers=1, n_heads=2, d_model=16, dropout=0.1)
GUARD = GuardConfig(window=8, max_skipped=3, max_rollbacks=2)
BATCH_SIZE = 8


def recent(n=64, loss=2.0, grad_norm=0.5):
    """Loss and gradient norm of some steps, with standard deviations of 0.1 and, of the logarithm, 0.1."""
    return [[loss + 0.1 * (-1) ** i, grad_norm * math.exp(0.1 * (-1) ** i)] for i in range(n)]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((math.nan, 0.5), "loss is nan"),
        ((2.0, math.inf), "gradient norm is inf"),
        ((2.61, 0.5), "loss is 2.61, 6.1 standard deviations above 2, the mean of the last 64 steps"),
        ((2.0, 3.03), "gradient norm is 3.03, 6.1 times 0.5, that of the last 64 steps"),
    ],
)
def test_what_is_objected_to(values, named):
    assert named in rejection_reason(*values, recent(), GuardConfig())
    assert rejection_reason(2.59, 3.02, recent(), GuardConfig()) is None  # 6 * 0.3 is the logarithm of 6.05
    assert rejection_reason(-1e9, 0.0, recent(), GuardConfig()) is None  # only what is too large


def test_the_bounds_are_those_of_mean_and_standard_deviation():
    draw = np.random.default_rng(0)
    losses = draw.normal(3.0, 0.4, 128).tolist()
    norms = draw.lognormal(0.0, 0.5, 128).tolist()
    values = list(zip(losses, norms, strict=True))
    bound = statistics.fmean(losses) + 6 * statistics.pstdev(losses)
    assert rejection_reason(bound - 1e-9, 0.0, values, GuardConfig()) is None
    assert "loss" in rejection_reason(bound + 1e-9, 0.0, values, GuardConfig())
    assert rejection_reason(bound + 1e-9, 0.0, values, GuardConfig(sigma=6.1)) is None
    logarithms = [math.log(norm) for norm in norms]
    bound = math.exp(statistics.fmean(logarithms) + 6 * statistics.pstdev(logarithms))
    assert rejection_reason(0.0, bound * (1 - 1e-9), values, GuardConfig()) is None
    assert "gradient norm" in rejection_reason(0.0, bound * (1 + 1e-9), values, GuardConfig())


def test_outliers_of_the_gradient_that_clipping_makes_harmless_are_learned_from():
    """The four steps of a recorded run that 6 standard deviations of the norm itself would have passed over."""
    norms = np.random.default_rng(0).lognormal(0.0, 0.1, 128)
    values = [[4.0, norm] for norm in norms]
    for norm in (1.94, 2.08, 2.22, 2.74):
        assert norm > norms.mean() + 6 * norms.std()
        assert rejection_reason(4.0, norm, values, GuardConfig()) is None


def test_a_loss_far_above_the_first_is_objected_to_while_there_is_little_to_compare_with():
    assert rejection_reason(1e9, 1.0, [], GuardConfig()) is None
    falling = [[8.3 - 0.1 * i, 1.0] for i in range(63)]
    assert rejection_reason(13.2, 1.0, falling[:1], GuardConfig()) is None
    expected = "loss is 13.31, more than 5 above the first, 8.3"
    assert [rejection_reason(13.31, 1.0, falling[:n], GuardConfig()) for n in (1, 63)] == [expected] * 2
    assert rejection_reason(13.31, 1.0, falling, GuardConfig(sigma=None)) is None


def test_steps_without_a_gradient_are_not_compared_with():
    """As those of reinforcement where all answers of a group are worth the same."""
    silent = [[0.0, 0.0]] * 100
    assert rejection_reason(0.5, 0.7, silent, GuardConfig()) is None
    heard = recent()
    assert rejection_reason(2.59, 3.02, [*heard, *silent], GuardConfig(window=128)) is None
    assert "3.03" in rejection_reason(2.0, 3.03, [*silent, *heard], GuardConfig(window=128))


def test_norms_are_not_compared_with_too_few_steps_and_nothing_without_sigma():
    assert rejection_reason(2.0, 1e9, recent(63), GuardConfig()) is None
    assert rejection_reason(2.0, 1e9, recent(64), GuardConfig()) is not None
    assert rejection_reason(1e9, 1e9, recent(128), GuardConfig(sigma=None)) is None
    assert rejection_reason(math.nan, 1.0, [], GuardConfig(sigma=None)) is not None


def test_values_that_never_differ_leave_room():
    still = [[2.0, 0.5]] * 128
    assert rejection_reason(2.1, 3.0, still, GuardConfig()) is None
    assert "loss" in rejection_reason(2.13, 0.5, still, GuardConfig())
    assert "gradient norm" in rejection_reason(2.0, 3.1, still, GuardConfig())


def test_a_divergence_in_the_first_steps_ends_with_a_remedy(make_trainer):
    """The loss stays finite: 6, 20, 40 and so on."""
    guard = GuardConfig(window=128, max_skipped=3, max_rollbacks=2)
    loop = LoopConfig(micro_batch_size=BATCH_SIZE, eval_every=10, n_eval_sequences=8, precision="float32", guard=guard)
    optimizer = ResolvedOptimizer(learning_rate=30.0, warmup_steps=0, weight_decay=0.1)
    with pytest.raises(
        ValueError, match=r"diverged at step \d .*more than 5 above the first.*lower optimizer.learning_rate"
    ):
        make_trainer("a", optimizer=optimizer, loop=loop).run()


class InTurn:
    """The order 0, 1, 2 and so on."""

    n_groups_open = 1

    def rows(self, start, stop, seed):
        return np.arange(start, stop)


class Spoiled(Sequences):
    """Endless sequences in their order; in the batches `bad` random tokens, which the model has never seen."""

    order = InTurn()

    def __init__(self, good: Sequences, bad: range) -> None:
        self.good, self.bad = good, bad

    def __len__(self) -> int:
        return 10**6

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), 17)

    def batch(self, rows: np.ndarray) -> Batch:
        if rows[0] // BATCH_SIZE in self.bad:
            return batch_of(np.random.default_rng(rows).integers(0, 310, (len(rows), 17)))
        return self.good.batch(rows % len(self.good))


@pytest.fixture
def make_trainer(materials, tmp_path):
    """Makes trainers of 40 steps, measured every 10, in folders of their own."""
    tokenizer = Tokenizer.load(materials.tokenizer_dir)
    shards = read_shards(materials.shards_dir, materials.tokenizer_dir)
    loop = LoopConfig(
        micro_batch_size=BATCH_SIZE,
        eval_every=10,
        checkpoint_every=4,
        n_eval_sequences=8,
        precision="float32",
        guard=GUARD,
    )
    optimizer = ResolvedOptimizer(learning_rate=1e-2, warmup_steps=5, weight_decay=0.1)

    def make(folder, bad=range(0), **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(0)
        values = {
            "train": Spoiled(shards.train, bad),
            "val": shards.val,
            "n_steps": 40,
            "batch_size": BATCH_SIZE,
            "optimizer": optimizer,
            "loop": loop,
            "dtype": torch.float32,
            "prompts": [],
            "identity": {},
        }
        return Trainer(GPT(SHAPE), tokenizer, RunSpec(**(values | changes)), tmp_path / folder)

    return make


def untimed(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED_FIELDS} for line in lines]


def test_a_bad_step_changes_no_weight_and_no_moment(make_trainer, tmp_path):
    trainer = make_trainer("a", bad=range(25, 26))
    before, n_tokens = {}, {}

    def watch():
        tensors = state_tensors(trainer.model, trainer.optimizer)
        before.setdefault(trainer.progress.step, copy.deepcopy(tensors))
        n_tokens[trainer.progress.step] = trainer.progress.n_tokens
        return False

    trainer.run(watch)
    assert all(torch.equal(before[25][name], value) for name, value in before[26].items())
    assert not torch.equal(before[26]["token_embedding.weight"], before[27]["token_embedding.weight"])
    (record,) = trainer.progress.skipped
    assert (record["step"], record["batch"]) == (26, 25)
    assert "standard deviations above" in record["why"]
    assert trainer.progress.metrics()["n_skipped"] == 1
    assert n_tokens[24] < n_tokens[25] == n_tokens[26] < n_tokens[27]
    (line,) = [line for line in untimed(tmp_path / "a") if "skipped" in line]
    assert (line["step"], line["skipped"]) == (26, record["why"])
    assert json.loads((tmp_path / "a" / "skipped.json").read_text()) == [record]


def test_the_sequences_of_a_bad_step_can_be_looked_at(make_trainer, tmp_path):
    trainer = make_trainer("a", bad=range(25, 26))
    trainer.run()
    path = tmp_path / "a" / "skipped" / "step-00000026-batch-00000025.jsonl"
    first, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert first == trainer.progress.skipped[0]
    rows = np.arange(25 * BATCH_SIZE, 26 * BATCH_SIZE)
    assert [line["row"] for line in lines] == rows.tolist()
    assert lines[3]["tokens"] == np.random.default_rng(rows[3:4]).integers(0, 310, (1, 17))[0].tolist()
    assert lines[3]["text"] == trainer.tokenizer.decode(lines[3]["tokens"])


def test_after_several_bad_steps_the_run_goes_back_and_past_them(make_trainer, tmp_path):
    """Batches 25 to 30 are bad: back from step 28 to 20, on with batch 28; back again, on with batch 31."""
    trainer = make_trainer("a", bad=range(25, 31))
    progress = trainer.run()
    assert [(record["step"], record["batch"]) for record in progress.skipped] == [
        *((26, 25), (27, 26), (28, 27)),
        *((21, 28), (22, 29), (23, 30)),
    ]
    assert (progress.n_rollbacks, progress.n_batches_ahead, progress.step) == (2, 11, 40)
    assert progress.metrics()["n_rollbacks"] == 2
    assert progress.val["val_loss"] < 4.0
    steps = [line["step"] for line in untimed(tmp_path / "a") if "loss" in line]
    assert steps == list(range(1, 41))  # those that were undone are gone


@pytest.mark.parametrize("stop_at", [[20], [27, 21, 22], [25, 27, 22, 23, 24, 39]])
def test_a_run_stopped_anywhere_goes_back_in_the_same_way(stop_at, make_trainer, tmp_path):
    unbroken = make_trainer("a", bad=range(25, 31))
    expected = unbroken.run()
    for step in stop_at:
        trainer = make_trainer("b", bad=range(25, 31))
        with pytest.raises(Stopped, match=f"stopped at step {step} of 40"):
            trainer.run(lambda trainer=trainer, step=step: trainer.progress.step == step)
    trainer = make_trainer("b", bad=range(25, 31))
    assert trainer.run() == expected
    for a, b in zip(unbroken.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")


def test_when_going_back_does_not_help_training_stops_and_the_good_checkpoint_is_there(make_trainer, tmp_path):
    trainer = make_trainer("a", bad=range(25, 1000))
    message = (
        r"diverged at step 23 \(loss is .* standard deviations .*\) after 2 times back to step 20: "
        r"lower optimizer.learning_rate, which is 0.01, or raise optimizer.warmup_steps"
    )
    with pytest.raises(ValueError, match=message):
        trainer.run()
    again = make_trainer("a", bad=range(25, 1000))
    assert again.progress.step == 20
    assert all(value.isfinite().all() for value in again.model.state_dict().values())
    with pytest.raises(ValueError, match="after 2 times back to step 20"):
        again.run()


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_real_divergence_ends_with_a_remedy_and_a_model_that_is_finite(rate, make_trainer):
    optimizer = ResolvedOptimizer(learning_rate=rate, warmup_steps=0, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"diverged at step .*lower optimizer.learning_rate, which is 1(000|e\+30)"):
        make_trainer("a", optimizer=optimizer).run()
    again = make_trainer("a", optimizer=optimizer)
    assert again.progress.step == 0
    assert all(value.isfinite().all() for value in again.model.state_dict().values())


def break_last_steps(trainer, n_times):
    """Makes the last step spoil the weights: only the measurement after it can see that."""
    n_done = 0

    def break_weights(*_):
        nonlocal n_done
        if trainer.progress.step == 39 and n_done < n_times:
            n_done += 1
            trainer.model.norm.weight.data.fill_(math.inf)

    trainer.optimizer.parts[0].register_step_post_hook(break_weights)


def test_a_held_out_loss_that_is_not_finite_counts_too(make_trainer):
    mended = make_trainer("a")
    break_last_steps(mended, 2)
    progress = mended.run()
    assert (progress.step, progress.n_rollbacks) == (40, 2)
    assert math.isfinite(progress.val["val_loss"])
    broken = make_trainer("b")
    break_last_steps(broken, 3)
    with pytest.raises(ValueError, match=r"diverged at step 40 \(val_loss nan\) after 2 times back to step 30"):
        broken.run()


def test_a_base_model_that_is_broken_is_not_trained(make_trainer):
    trainer = make_trainer("a")
    trainer.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"diverged at step 0 \(val_loss nan\)"):
        trainer.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.5}, "sigma is 0.5; allowed: 1 or more"),
        ({"window": 4}, "window is 4; allowed: 8 or more"),
        ({"max_skipped": 0}, "max_skipped is 0; allowed: 1 or more"),
        ({"max_rollbacks": -1}, "max_rollbacks is -1; allowed: 0 or more"),
    ],
)
def test_wrong_settings_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GUARD, **changes)
