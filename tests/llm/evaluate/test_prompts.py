"""Closed-book prompts against each choice alone; those with examples are in test_choices.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm.evaluate.benchmarks import Benchmark, read_definitions
from llm.evaluate.choices import score_prompts
from llm.evaluate.prompts import closed_book_prompts
from tests.llm.evaluate.conftest import random_model

NEUTRAL = "What does this do?"
CHOICES = ["Joins paths.", "Returns the square root of a number.", "Splits.", "naïve ☕"]
ITEMS = [
    {"id": "a", "query": "What does os.path.join do?", "choices": CHOICES, "gold": 0},
    {"id": "b", "query": "What does math.sqrt do?", "choices": CHOICES[::-1], "gold": 2},
    {
        "id": "c",
        "query": "What?",
        "choices": [*CHOICES[:3], "os.path.split returns the pair of head and tail of a path. " * 3],
        "gold": 1,
    },
]


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    (tmp_path / "benchmark.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return read_definitions(tmp_path / "benchmark.jsonl")


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


@pytest.mark.parametrize(("as_chat", "alone"), [(True, chat_score), (False, plain_score)])
def test_scores_are_those_of_each_choice_alone(benchmark, tokenizer, as_chat, alone):
    model = random_model(tokenizer, 1, context_length=200, n_layers=1)  # so that nothing is cut
    prompts = closed_book_prompts(benchmark, range(3), tokenizer, 200, as_chat=as_chat, neutral_question=NEUTRAL)
    for item, prompt, scored in zip(ITEMS, prompts, score_prompts(model, prompts, batch_tokens=150), strict=True):
        assert (prompt.choices, len(scored)) == (item["choices"], 8)
        for i, choice in enumerate(item["choices"]):
            assert len(scored[i].log_p) == prompt.n_answer[i]
            assert scored[i].log_p.sum() == pytest.approx(alone(model, tokenizer, item["query"], choice), rel=1e-4)
            assert scored[4 + i].log_p.sum() == pytest.approx(alone(model, tokenizer, NEUTRAL, choice), rel=1e-4)


def test_what_several_items_share_is_read_once(benchmark, tokenizer, monkeypatch):
    asked: list[int] = []

    def counting(model, continuations, **options):
        asked.append(len(continuations))
        return range(len(continuations))

    monkeypatch.setattr("llm.evaluate.choices.score", counting)
    prompts = closed_book_prompts(benchmark, range(3), tokenizer, 200, as_chat=True, neutral_question=NEUTRAL)
    first, second, _ = score_prompts(None, prompts, batch_tokens=150)
    assert asked == [12 + len({choice for item in ITEMS for choice in item["choices"]})]
    assert first[4:] == second[4:][::-1]


def test_a_choice_that_is_too_long_loses_the_beginning_of_its_prompt(benchmark, tokenizer, model):
    prompts = closed_book_prompts(benchmark, range(3), tokenizer, 24, as_chat=True, neutral_question=NEUTRAL)
    cut = prompts[2].continuations[3]
    assert (len(cut.tokens), cut.start, prompts[2].n_answer[3]) == (25, 1, 24)
