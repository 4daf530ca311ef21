"""GRPO: its loss against the formula, its answers against what they should follow from, and that rewards rise."""

import json

import numpy as np
import pytest
import torch

from llm.data.user_files.questions import Question, read_questions
from llm.model.files import load_model
from llm.process import Stopped
from llm.tokenizer.tokenizer import Tokenizer
from llm.train.__main__ import train, train_until
from llm.train.measure import held_out
from llm.train.methods.config import ReinforceConfig
from llm.train.methods.reinforce import (
    PolicyObjective,
    Questions,
    Rollouts,
    Sampler,
    advantages,
    answer_batch,
    warn_unless_rewarded,
)
from tests.llm.train.method_jobs import (
    QUIET,
    SELDOM,
    after_calls,
    reinforce_job,
    write_lines,
    write_questions,
)
from tests.llm.train.train_materials import WORDS, artifact, write_chats

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture
def sampler(materials):
    """Samples from the untrained model."""
    config = ReinforceConfig(match="contains", max_answer_tokens=3, group_size=4)
    return Sampler(load_model(materials.base_dir), Tokenizer.load(materials.base_dir), config)


def test_an_advantage_is_how_much_better_an_answer_is_than_its_group():
    rewards = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    found = advantages(rewards, scale_by_std=False)
    assert found.tolist() == [[0.5, -0.5, -0.5, 0.5], [0] * 4, [0] * 4, [-0.25, -0.25, -0.25, 0.75]]
    scaled = advantages(rewards, scale_by_std=True)
    assert scaled[0].tolist() == pytest.approx([1, -1, -1, 1], abs=1e-3)
    assert scaled[3].tolist() == pytest.approx([-(3**-0.5)] * 3 + [3**0.5], abs=1e-3)
    assert not scaled[1:3].any()


def test_the_loss_is_advantage_times_log_p_of_each_token(sampler):
    model = sampler.model.double()
    prompts, answers = [[0, 3, 9, 5, 4], [0, 3, 7, 4]], [[8, 30, 5], [12, 5]]
    better, rewards = np.array([0.75, -0.25]), np.array([1.0, 0.0])
    expected, n_tokens = 0.0, 0
    for prompt, answer, advantage in zip(prompts, answers, better, strict=True):
        for place, token in enumerate(answer):
            logits = model(torch.tensor([[*prompt, *answer[:place]]]))[0, -1]
            expected -= advantage * (logits[token] - logits.exp().sum().log()).item()
            n_tokens += 1
    batch = answer_batch(prompts, answers, better, rewards)
    objective = PolicyObjective(model, torch.float64, sampler, Questions([], sampler.tokenizer))
    assert batch.n_learned == n_tokens
    assert objective(batch).item() == pytest.approx(expected, abs=1e-8)
    means = {name: values.mean().item() for name, values in objective.metrics.take().items()}
    assert means == {"reward": 0.5, "answer_tokens": 2.5}


def test_what_is_written_follows_from_weights_seed_and_step(sampler, questions):
    asked = Questions(read_questions([questions])[0], sampler.tokenizer)

    def batches(step, seed=0):
        loader = Rollouts(asked, 3, 5, seed, CPU, sampler=sampler)
        return [batch.inputs for batch in loader.batches(step)]

    first = batches(7)
    assert [len(inputs) for inputs in first] == [5, 5, 2], "3 questions with 4 answers each, in micro-batches of 5"
    assert all(map(torch.equal, first, batches(7)))
    assert not all(a.shape == b.shape and a.equal(b) for a, b in zip(first, batches(8), strict=True))
    assert not all(a.shape == b.shape and a.equal(b) for a, b in zip(first, batches(7, seed=1), strict=True))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    batches(7)
    assert torch.get_rng_state().equal(before), "nothing else draws other numbers because of it"


def test_the_answers_of_a_group_belong_to_one_question(sampler, questions):
    asked = Questions(read_questions([questions])[0], sampler.tokenizer)
    (batch,) = Rollouts(asked, 3, 100, 0, CPU, sampler=sampler).batches(0)
    texts = [sampler.tokenizer.decode(row.tolist(), skip_special=True).split("?")[0] for row in batch.inputs]
    assert [len(set(texts[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert len(set(texts)) == 3
    groups = batch.advantages.view(3, 4)
    assert groups.sum(1).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert ((batch.rewards == 0) | (batch.rewards == 1)).all()


@pytest.mark.parametrize(
    ("match", "text", "has_ended", "expected"),
    [
        ("exact", "rye", True, 1),
        ("exact", " rye ", True, 1),
        ("exact", "rye", False, 0),
        ("exact", "rye bread", True, 0),
        ("contains", "the rye bread", False, 1),
        ("contains", "oven", True, 0),
    ],
)
def test_rewards(match, text, has_ended, expected, materials):
    tokenizer = Tokenizer.load(materials.base_dir)
    sampler = Sampler(load_model(materials.base_dir), tokenizer, ReinforceConfig(match=match))
    answer = tokenizer.encode(text) + [tokenizer.end_token] * has_ended
    assert sampler.reward(Question([], "rye"), answer) == expected


def greedy_answer(sampler, prompt):
    """Three tokens, or fewer up to the end of the turn, each the argmax."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + 3 and tokens[-1] != sampler.tokenizer.end_token:
        tokens.append(int(sampler.model(torch.tensor([tokens]))[0, -1].argmax()))
    return sampler.tokenizer.decode(tokens[len(prompt) :], skip_special=True)


def test_held_out_reward_is_the_share_of_right_greedy_answers(sampler, questions):
    asked = read_questions([questions])[0]
    texts = [greedy_answer(sampler, prompt) for prompt in Questions(asked, sampler.tokenizer).prompts]
    answers = [text if number % 4 else text + "?" for number, text in enumerate(texts)]
    answered = [Question(item.prompt, answer) for item, answer in zip(asked, answers, strict=True)]
    val, n_bytes = Questions(answered, sampler.tokenizer), torch.zeros(sampler.tokenizer.vocab_size)
    objective = PolicyObjective(sampler.model, torch.float32, sampler, val)
    found = held_out(objective, val.batches(np.arange(len(val)), 7), n_bytes, lambda: None)
    assert (found["val_reward"], found["val_loss"]) == (0.75, 0.25)
    assert found["val_reward_low"] < 0.75 < found["val_reward_high"]


def test_rewards_rise(materials, questions, tmp_path):
    changes = {"n_steps": 50, "optimizer": {"learning_rate": 1e-2}, "loop": QUIET | SELDOM}
    counts = train(reinforce_job(tmp_path, materials, questions, **changes))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert np.mean(rewards[:3]) < 0.5
    assert np.mean(rewards[-3:]) > 0.8
    assert counts.figures["val_reward_low"] > next(line["val_reward"] for line in lines if "val_reward" in line)
    assert (counts.n_in, counts.unit) == (40, "questions")


def test_a_stopped_run_ends_with_the_same_bytes(materials, questions, tmp_path):
    train(reinforce_job(tmp_path / "unbroken", materials, questions))
    broken, n_stops = reinforce_job(tmp_path / "broken", materials, questions), 0
    while n_stops < 50:
        try:
            train_until(broken, after_calls(20))
            break
        except Stopped:
            n_stops += 1
    assert 1 < n_stops < 50
    assert artifact(tmp_path / "broken") == artifact(tmp_path / "unbroken")


def test_a_question_that_the_evaluation_asks_is_not_trained_on(materials, questions, tmp_path):
    said = [f"{a} {b}?" for a in WORDS[:8] for b in WORDS[:2]]
    asked = [[{"role": "user", "content": text}, {"role": "assistant", "content": "a"}] for text in said]
    (tmp_path / "examples").mkdir()
    write_chats(tmp_path / "examples" / "val.parquet", asked)
    values = reinforce_job(tmp_path, materials, questions, n_steps=1)
    counts = train(values | {"examples_dir": str(tmp_path / "examples")})
    assert counts.dropped == {"held out for the evaluation": 16}


def test_questions_without_room_for_an_answer_are_dropped(materials, tmp_path):
    records = [{"prompt": "rye " * (12 if number == 0 else 1) + str(number), "answer": "a"} for number in range(12)]
    path = write_lines(tmp_path / "questions.jsonl", [*records, records[1]])
    counts = train(reinforce_job(tmp_path, materials, path, n_steps=1))
    assert counts.dropped == {"duplicate": 1, "no room for an answer": 1}
    assert (counts.n_in, counts.n_out) == (13, 11)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, r"line 2: field 'answer' is missing"),
        ({"answer": "a"}, r"line 2: field 'instruction' is missing"),
        ({"prompt": "rye", "answer": "c"}, r"line 2: the same question has the answer 'b' in .*line 1"),
    ],
)
def test_malformed_questions_are_named(record, message, tmp_path):
    path = write_lines(tmp_path / "questions.jsonl", [{"prompt": "rye", "answer": "b"}, record])
    with pytest.raises(ValueError, match=message):
        read_questions([path])


def test_malformed_questions_are_dropped_and_counted_on_request(tmp_path):
    records = [{"prompt": word, "answer": "b"} for word in ("rye", "oven", "rye", "salt", "salt")]
    records += [{"prompt": "a"}, {"prompt": "oven", "answer": "c"}, {"prompt": "fold", "answer": "d"}]
    questions, dropped = read_questions([write_lines(tmp_path / "questions.jsonl", records)], "drop")
    assert [(question.prompt[0]["content"], question.answer) for question in questions] == [
        ("rye", "b"),
        ("salt", "b"),
        ("fold", "d"),
    ]
    assert dropped == {"missing field": 1, "two answers": 2, "duplicate": 2}


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (
            [{"reward": 0, "loss": 0}, {"reward": 0, "loss": -0.0}, {"val_reward": 1}],
            "no answer earned a reward in 2 st",
        ),
        ([{"reward": 0, "loss": 0}, {"reward": 0.5, "loss": 0}], "to each question all answers earned the same reward"),
        ([{"reward": 0, "loss": 0}, {"reward": 0.5, "loss": 0.1}], None),
    ],
)
def test_what_taught_nothing_is_said(lines, warning, tmp_path, caplog):
    numbered = [{"step": i, **line} for i, line in enumerate(lines)]
    warn_unless_rewarded(write_lines(tmp_path / "metrics.jsonl", numbered))
    assert (warning in caplog.text) if warning else not caplog.records


@pytest.mark.parametrize(("answer", "is_said"), [("zqxjkv", True), ("a", False)])
def test_training_without_a_single_reward_ends_with_a_warning(answer, is_said, materials, tmp_path, caplog):
    questions = write_lines(tmp_path / "q.jsonl", [{"prompt": word, "answer": answer} for word in WORDS[:8]])
    train(reinforce_job(tmp_path, materials, questions, n_steps=3, max_answer_tokens=8, loop=QUIET | SELDOM))
    assert ("no answer earned a reward in 3 steps" in caplog.text) == is_said


def test_numbers_are_answers_too(tmp_path):
    path = write_lines(tmp_path / "questions.jsonl", [{"instruction": "Add.", "input": "1 + 1", "answer": 2}])
    assert read_questions([path])[0] == [Question([{"role": "user", "content": "Add.\n\n1 + 1"}], "2")]
