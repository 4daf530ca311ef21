"""DPO against its formula, written down again token by token."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm.files import read_table
from llm.model.files import load_model, save_model
from llm.model.gpt import GPT, GPTConfig
from llm.process import Stopped
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train, train_until
from llm.train.measure import held_out
from llm.train.methods.answers import AnswerObjective, Pairs, rendered
from llm.train.methods.prefer import PreferenceObjective
from tests.llm.train.method_jobs import (
    QUIET,
    SELDOM,
    after_calls,
    make_reference,
    prefer_job,
    reference_job,
    write_pairs,
)
from tests.llm.train.train_materials import WORDS, artifact, write_chats

PAIRS = [([1, 2], [3, 4, 5], [6]), ([7, 8, 9], [2], [3, 4, 4, 1]), ([5], [1], [2])]
"""Prompts with a chosen and a rejected answer."""


@pytest.fixture(scope="module")
def reference_dir(materials, tmp_path_factory):
    """Reference log-probabilities of the untrained model."""
    return make_reference(tmp_path_factory.mktemp("pairs"), materials)


def small_model(seed, **changes):
    torch.manual_seed(seed)
    shape = {"vocab_size": 12, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 16, "init_std": 0.5}
    return GPT(GPTConfig(**shape | changes)).double().eval()


def slow_log_p(model, prompt, answer):
    """ln p of the tokens of an answer, each asked for by itself."""
    total = 0.0
    for place, token in enumerate(answer):
        logits = model(torch.tensor([[*prompt, *answer[:place]]]))[0, -1]
        total += (logits[token] - logits.exp().sum().log()).item()
    return total


def slow_log_ps(model):
    """Of both answers of each pair, (pairs, 2)."""
    return np.array([[slow_log_p(model, prompt, answer) for answer in answers] for prompt, *answers in PAIRS])


def slow_loss(policy, reference, beta, smoothing):
    """Equation 7 of Rafailov et al. (2023), with label smoothing, summed over the pairs."""
    total, margins = 0.0, []
    for ratios in slow_log_ps(policy) - slow_log_ps(reference):
        margin = beta * (ratios[0] - ratios[1])
        good, bad = 1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))
        total -= (1 - smoothing) * math.log(good) + smoothing * math.log(bad)
        margins.append(margin)
    return total, margins


def double_batch(pairs, log_p):
    """All pairs, with the reference in float64."""
    return replace(pairs.batch(np.arange(len(pairs))), reference=torch.from_numpy(log_p.T.flatten()))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_paper(smoothing):
    policy, reference = small_model(0), small_model(1)
    log_p = slow_log_ps(reference)
    objective = PreferenceObjective(policy, torch.float64, 0.3, smoothing)
    loss = objective(double_batch(Pairs(PAIRS, log_p), log_p))
    expected, margins = slow_loss(policy, reference, 0.3, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert objective.metrics.take()["margin"].tolist() == pytest.approx(margins, abs=1e-10)


def test_the_gradient_is_that_of_the_loss():
    """A small step along one weight changes the loss as its gradient says."""
    policy, log_p = small_model(0), np.array([[-3.0, -1.0], [-2.0, -2.0], [-1.0, -4.0]])
    objective = PreferenceObjective(policy, torch.float64, 0.3, 0.1)
    batch = double_batch(Pairs(PAIRS, log_p), log_p)
    objective(batch).backward()
    for weight in (policy.token_embedding.weight, policy.blocks[0].mlp.expand.weight):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[3, 2] += sign * 1e-5
                losses.append(objective(batch).item())
                weight[3, 2] -= sign * 1e-5
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(weight.grad[3, 2].item(), rel=1e-6)


def test_only_the_answers_tokens_count():
    policy = small_model(0)
    batch = Pairs(PAIRS, np.zeros((3, 2))).batch(np.arange(3))
    assert batch.n_learned == 3
    answers = [pair[side] for side in (1, 2) for pair in PAIRS]
    assert batch.learned().tolist() == [token for answer in answers for token in answer]
    found = AnswerObjective(policy, torch.float64).answer_log_p(batch)
    expected = slow_log_ps(policy).T.flatten().tolist()
    assert found.tolist() == pytest.approx(expected, abs=1e-10)


def test_the_reference_is_the_models_own_log_p(materials, reference_dir):
    model, tokenizer = load_model(materials.base_dir).double(), Tokenizer.load(materials.base_dir)
    rows = read_table(reference_dir / "val.parquet").to_pylist()
    assert len(rows) == 12
    for row in rows[:3]:
        prompt, *answers = rendered(row["prompt"], row["chosen"], row["rejected"], tokenizer)
        expected = [slow_log_p(model, prompt, answer) for answer in answers]
        chat = tokenizer.render_chat([*row["prompt"], {"role": "assistant", "content": row["chosen"]}])[0]
        assert prompt + answers[0] == chat
        assert [row["chosen_log_p"], row["rejected_log_p"]] == pytest.approx(expected, abs=1e-4)


def test_no_prompt_is_on_both_sides(reference_dir):
    sides = [
        {json.dumps(row["prompt"]) for row in read_table(reference_dir / name).to_pylist()}
        for name in ("train.parquet", "val.parquet")
    ]
    assert sides[0]
    assert not sides[0] & sides[1]


def test_pairs_that_do_not_fit_are_dropped_and_counted(materials, tmp_path):
    with open(tmp_path / "long.jsonl", "w") as file:
        for number in range(6):
            answer = "flour water salt " * (1 if number < 4 else 9)
            file.write(json.dumps({"prompt": f"{number}", "chosen": answer, "rejected": "no"}) + "\n")
    job = reference_job(tmp_path, materials, tmp_path / "long.jsonl")
    counts = train(job)
    out = Path(job["out_dir"])
    kept = sum(len(read_table(out / f"{name}.parquet")) for name in ("train", "val"))
    assert kept == 4
    assert (counts.n_in, counts.dropped) == (6, {"too long": 2})


def test_a_question_that_the_evaluation_asks_is_not_learned(materials, tmp_path):
    asked = [[{"role": "user", "content": f" {WORDS[0]} {WORDS[6]} "}, {"role": "assistant", "content": "yes"}]]
    (tmp_path / "examples").mkdir()
    write_chats(tmp_path / "examples" / "val.parquet", asked)
    values = reference_job(tmp_path, materials, write_pairs(tmp_path))
    counts = train(values | {"examples_dir": str(tmp_path / "examples")})
    assert counts.dropped == {"held out for the evaluation": 1}
    tables = [read_table(tmp_path / f"reference/out/{name}.parquet") for name in ("train", "val")]
    rows = [row for table in tables for row in table.to_pylist()]
    prompts = {row["prompt"][0]["content"] for row in rows}
    assert (len(rows), f"{WORDS[0]} {WORDS[6]}" in prompts) == (47, False)


def test_training_raises_margins_and_accuracy(materials, reference_dir, tmp_path):
    counts = train(prefer_job(tmp_path, materials, reference_dir, n_steps=40, loop=QUIET | SELDOM))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "at first the model is the reference"
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["margin"] > 0.3
    assert steps[-1]["accuracy"] > 0.8
    assert counts.figures["val_accuracy_low"] > 0.5, "on pairs that it was not trained on"
    assert counts.figures["val_loss"] < math.log(2)


def test_what_is_measured_is_the_mean_over_all_pairs():
    log_p = np.array([[-3.0, -1.0], [-2.0, -2.0], [-1.0, -4.0]])
    pairs = Pairs(PAIRS, log_p)
    objective = PreferenceObjective(small_model(0).float(), torch.float32, 0.3, 0.0)
    figures = [held_out(objective, pairs.batches(np.arange(3), size), torch.zeros(12), lambda: None) for size in (1, 3)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    assert figures[0]["val_accuracy_low"] < figures[0]["val_accuracy"] < figures[0]["val_accuracy_high"]


def test_a_stopped_run_ends_with_the_same_bytes(materials, reference_dir, tmp_path):
    train(prefer_job(tmp_path / "unbroken", materials, reference_dir))
    broken, n_stops = prefer_job(tmp_path / "broken", materials, reference_dir), 0
    while n_stops < 50:
        try:
            train_until(broken, after_calls(11))
            break
        except Stopped:
            n_stops += 1
    assert 2 < n_stops < 50
    assert artifact(tmp_path / "broken") == artifact(tmp_path / "unbroken")


def test_the_reference_of_another_model_is_refused(materials, reference_dir, tmp_path):
    job = prefer_job(tmp_path / "b", materials, reference_dir)
    other = tmp_path / "other"
    other.mkdir()
    Tokenizer.load(materials.base_dir).save(other)
    model = load_model(materials.base_dir)
    with torch.no_grad():
        model.norm.weight += 1
    save_model(model, other, {})
    with pytest.raises(ValueError, match="of another model"):
        train(job | {"model_dir": str(other)})
