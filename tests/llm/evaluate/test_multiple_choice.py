from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from llm.evaluate.multiple_choice import (
    ChoiceItem,
    ChoiceScores,
    choice_prompts,
    read_benchmark,
    score_choices,
    word_overlap,
)

NEUTRAL = "What does this do?"
CHOICES = ("Joins paths.", "Returns the square root of a number.", "Splits.", "naïve ☕")
ITEMS = [
    ChoiceItem("a", "What does os.path.join do?", CHOICES, 0),
    ChoiceItem("b", "What does math.sqrt do?", CHOICES[::-1], 2),
    ChoiceItem("c", "What?", (*CHOICES[:3], "os.path.split returns the pair of head and tail of a path. " * 3), 1),
]


def log_likelihood(model, prefix: list[int], continuation: list[int]) -> float:
    """ln p of the continuation, by the chain rule, without batching; both must fit the context."""
    total, tokens = 0.0, list(prefix)
    with torch.no_grad():
        for token in continuation:
            total += float(torch.log_softmax(model(torch.tensor([tokens]))[0, -1].double(), dim=0)[token])
            tokens.append(token)
    return total


def chat_score(model, tokenizer, question: str, choice: str) -> float:
    prefix, _ = tokenizer.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
    return log_likelihood(model, prefix, [*tokenizer.encode(choice), tokenizer.end_token])


def plain_score(model, tokenizer, question: str, choice: str) -> float:
    prefix = [tokenizer.document_token, *tokenizer.encode(question + "\n")]
    return log_likelihood(model, prefix, tokenizer.encode(choice))


@pytest.fixture
def roomy_model(tokenizer):
    """A model whose context holds every prompt, so that nothing is read in windows."""
    from llm.model.gpt import GPT, GPTConfig

    torch.manual_seed(1)
    model = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=200, n_layers=1, n_heads=2, d_model=16)
    ).eval()
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model


@pytest.mark.parametrize(("as_chat", "score"), [(True, chat_score), (False, plain_score)])
def test_scores_are_those_of_each_choice_alone(roomy_model, tokenizer, as_chat, score):
    prompts = choice_prompts(tokenizer, ITEMS, as_chat=as_chat, neutral_question=NEUTRAL)
    scores = score_choices(roomy_model, prompts, batch_tokens=150)
    for row, item in enumerate(ITEMS):
        for column, choice in enumerate(item.choices):
            given = score(roomy_model, tokenizer, item.query, choice)
            alone = score(roomy_model, tokenizer, NEUTRAL, choice)
            assert scores.given_question[row, column] == pytest.approx(given, rel=1e-4)
            assert scores.given_nothing[row, column] == pytest.approx(alone, rel=1e-4)
            assert scores.n_bytes[row, column] == len(choice.encode())


def test_a_shared_choice_is_read_once_under_the_neutral_question(tokenizer):
    prompts = choice_prompts(tokenizer, ITEMS, as_chat=True, neutral_question=NEUTRAL)
    n_distinct_choices = len({choice for item in ITEMS for choice in item.choices})
    assert len(prompts.continuations) == 12 + n_distinct_choices
    np.testing.assert_array_equal(prompts.given_nothing[0], prompts.given_nothing[1][::-1])


def test_each_metric_picks_by_its_own_rule():
    scores = ChoiceScores(
        given_question=np.array([[-10.0, -12.0, -30.0, -11.0]]),
        given_nothing=np.array([[-10.0, -13.0, -29.0, -16.0]]),
        n_bytes=np.array([[10.0, 11.0, 60.0, 10.0]]),
    )
    chosen = {metric: int(index[0]) for metric, index in scores.chosen().items()}
    assert chosen == {"accuracy": 3, "accuracy by likelihood": 0, "accuracy per byte": 2}


def test_a_model_that_ignores_the_question_is_at_chance_on_the_headline(tokenizer):
    """Choices differ wildly in likelihood, yet PMI says nothing when the question changes nothing."""
    random = np.random.default_rng(0)
    alone = random.normal(-50, 30, (2000, 4))
    scores = ChoiceScores(alone + random.normal(0, 1e-3, alone.shape), alone, np.ones_like(alone))
    gold = random.integers(0, 4, 2000)
    share = (scores.chosen()["accuracy"] == gold).mean()
    assert abs(share - 0.25) < 0.03  # three standard deviations


def test_pmi_is_the_best_pick_when_wrong_choices_are_others_right_answers():
    """A world with known p(choice | question), in which some answers are common everywhere (a skewed prior)."""
    random = np.random.default_rng(0)
    n = 60
    p = random.dirichlet(np.full(n, 0.3), size=n) * random.lognormal(0, 1.5, n)  # question x answer
    log_p = np.log(p / p.sum(axis=1, keepdims=True) + 1e-9)
    prior = np.log(np.exp(log_p).mean(axis=0))
    hits: dict[str, list[bool]] = {}
    for _ in range(3000):
        question = random.integers(n)
        right = random.choice(n, p=np.exp(log_p[question]) / np.exp(log_p[question]).sum())
        wrong = random.choice(n, size=3, p=np.exp(prior) / np.exp(prior).sum())
        choices = np.array([[right, *wrong]])
        scores = ChoiceScores(log_p[question][choices], prior[choices], np.ones((1, 4)))
        for metric, index in scores.chosen().items():
            hits.setdefault(metric, []).append(choices[0, index[0]] == right)
    assert np.mean(hits["accuracy"]) > np.mean(hits["accuracy by likelihood"]) + 0.01


def test_benchmark_file_is_read_and_uneven_choices_are_refused(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    lines = [{"id": i.id, "query": i.query, "choices": list(i.choices), "gold": i.gold} for i in ITEMS]
    path.write_text("".join(json.dumps({**line, "document_id": "d"}) + "\n" for line in lines))
    assert read_benchmark(path) == ITEMS
    lines[0]["choices"] = ["one", "two"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"benchmark\.jsonl: every item"):
        read_benchmark(path)


def test_word_overlap_needs_no_model() -> None:
    items = [
        ChoiceItem("1", "What does os.path.join do?", ("Open a file.", "Joining of path components.", "x", "y"), 1),
        ChoiceItem("2", "What does Thread.isAlive do?", ("x", "y", "Whether the thread is alive.", "A thread."), 2),
        ChoiceItem("3", "What does zlib do?", ("x", "y", "z", "w"), 3),
    ]
    assert word_overlap(items).tolist() == [1, 2, 0]
