"""lm-eval asks our models through the adapter: the same items get the same answers as from our own evaluator.

lm-eval is among the development tools, so a test fails, and is not skipped, where it is missing.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from llm.evaluate.benchmarks import RULES_FILE, read_benchmarks
from llm.evaluate.choices import choice_units, choose
from llm.evaluate.lm_eval_tasks import check_tasks, quiet_hub
from llm.model.generate import Sampling, generate
from tests.llm.evaluate.conftest import random_model

WORDS = ["os.path", "join", "returns", "the", "square", "root", "of a", "number", "segments", "strings"]
TASKS = {
    "quiz": """
task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/quiz.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 2.0}}
""",
    "cloze": """
task: cloze
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/cloze.jsonl}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_target: " {{{{continuation}}}}"
metric_list: [{{metric: acc}}, {{metric: perplexity}}]
""",
    "text": """
task: text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
""",
    "write": """
task: write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/write.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["{until}"], max_gen_toks: 9, do_sample: false}}
metric_list: [{{metric: exact_match}}]
""",
}


@pytest.fixture(scope="module")
def roomy_model(tokenizer):
    return random_model(tokenizer, 0, context_length=64)


def sentence(random: np.random.Generator, n: int) -> str:
    return " ".join(random.choice(WORDS, n))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, roomy_model, tokenizer) -> Path:
    """Four local tasks, of each kind one; what the model writes is the right answer to every second question."""
    folder, random = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    quiz = [
        {
            "query": sentence(random, random.integers(1, 9)) + "?",
            "choices": [sentence(random, random.integers(1, 5)) for _ in range(4)],
            "gold": int(random.integers(4)),
        }
        for _ in range(30)
    ]
    cloze = [{"context": sentence(random, 6), "continuation": sentence(random, 1)} for _ in range(20)]
    questions = [sentence(random, 3) for _ in range(6)]
    texts = [written(roomy_model, tokenizer, question) for question in questions]
    until = texts[0][3:5]
    answers = [text.split(until)[0] if i % 2 == 0 else "no" for i, text in enumerate(texts)]
    files = {
        "quiz": quiz,
        "cloze": cloze,
        "text": [{"text": sentence(random, n)} for n in (3, 40, 90)],
        "write": [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        escaped = json.dumps(until)[1:-1]
        (folder / f"{name}.yaml").write_text(TASKS[name].format(folder=folder, until=escaped))
    (folder / RULES_FILE).write_text("quiz: {pick: sum}\n")
    return folder


def written(model, tokenizer, prompt: str) -> str:
    tokens = [tokenizer.document_token, *tokenizer.encode(prompt)]
    made = generate(model, tokens, max_new_tokens=9, sampling=Sampling(temperature=0), stop={0, 1, 2, 3, 4, 5})
    return tokenizer.decode([token for token in made if token > 5])


@pytest.fixture(scope="module")
def results(folder, roomy_model, tokenizer) -> dict:
    """What lm-eval says of the four tasks, with the network forbidden."""
    quiet_hub([str(folder / "quiz.yaml")])
    from llm.evaluate.lm_eval_model import run_tasks

    def forbidden(*_):
        raise AssertionError("the network was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", forbidden)
        paths = [str(folder / f"{name}.yaml") for name in TASKS]
        return run_tasks(roomy_model, tokenizer, paths, batch_tokens=256)


def samples(results: dict, task: str) -> list[dict]:
    return sorted(results["samples"][task], key=lambda row: row["doc_id"])


def log_likelihood(model, tokens: list[int], start: int) -> tuple[float, bool]:
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([tokens[:-1]]))[0].double(), dim=-1)
    places = range(start, len(tokens))
    greedy = all(int(log_p[place - 1].argmax()) == tokens[place] for place in places)
    return sum(float(log_p[place - 1, tokens[place]]) for place in places), greedy


@pytest.mark.parametrize(("metric", "pick"), [("acc", "sum"), ("acc_norm", "per character")])
def test_choices_are_those_of_our_evaluator_item_by_item(
    results, folder, roomy_model, tokenizer, monkeypatch, metric, pick
):
    (folder / RULES_FILE).write_text(f"quiz: {{pick: {pick}}}\n")
    (benchmark,) = read_benchmarks(folder / "quiz.jsonl")
    chosen = choose(roomy_model, tokenizer, benchmark, range(30), as_chat=False, neutral_question="", batch_tokens=256)
    (ours,) = choice_units(benchmark, range(30), chosen)
    theirs = [row[metric] for row in samples(results, "quiz")]
    assert ours.values.tolist() == theirs
    assert 0 < sum(theirs) < 30
    assert results["results"]["quiz"][f"{metric},none"] == pytest.approx(ours.values.mean())


def test_log_likelihoods_are_those_of_a_plain_forward_pass(results, roomy_model, tokenizer):
    for row in samples(results, "cloze"):
        prompt = [tokenizer.document_token, *tokenizer.encode(row["doc"]["context"])]
        whole = [tokenizer.document_token, *tokenizer.encode(f"{row['doc']['context']} {row['doc']['continuation']}")]
        log_p, greedy = log_likelihood(roomy_model, whole, len(prompt))
        (found, is_greedy) = row["filtered_resps"][0]
        assert float(found) == pytest.approx(log_p, abs=1e-3)
        assert str(is_greedy) == str(greedy)


def test_rolling_windows_predict_each_token_once(results, roomy_model, tokenizer):
    for row in samples(results, "text"):
        tokens = [tokenizer.document_token, *tokenizer.encode(row["doc"]["text"])]
        length, expected = 64, 0.0
        n = len(tokens) - 1
        for start in range(0, n, length):  # the last window is moved back, so that it is full
            end = min(start + length, n)
            first = start if start == 0 else end - length
            expected += log_likelihood(roomy_model, tokens[first : end + 1], start - first + 1)[0]
        assert float(row["filtered_resps"][0]) == pytest.approx(expected, abs=1e-3)


def test_generation_stops_at_the_text_that_ends_it(results, folder):
    rows = samples(results, "write")
    assert [row["exact_match"] for row in rows][::2] == [1.0] * 3
    assert [row["exact_match"] for row in rows][1::2] == [0.0] * 3


def test_results_become_scores_with_intervals_and_chance_levels(results):
    from llm.evaluate.lm_eval_model import measured_by

    units, bare = measured_by(results, "base")
    by_name = {(each.benchmark, each.metric.name): each for each in units}
    quiz = by_name["lm-eval quiz", "acc"]
    assert (quiz.metric.version, quiz.chance, len(quiz.ids), quiz.is_share) == (2, 0.25, 30, True)
    assert quiz.estimate().score == pytest.approx(results["results"]["quiz"]["acc,none"])
    assert by_name["lm-eval cloze", "acc"].chance is None
    assert by_name["lm-eval write", "exact_match"].estimate().score == 0.5
    assert {(row.benchmark, row.metric.name) for row in bare} == {
        ("lm-eval cloze", "perplexity"),
        ("lm-eval text", "bits_per_byte"),
    }


def test_tasks_that_lm_eval_cannot_run_are_named_at_once(tmp_path):
    (tmp_path / "odd.yaml").write_text("dataset_path: json\n")
    with pytest.raises(ValueError, match=r"odd\.yaml: there is no line `task: NAME`"):
        check_tasks([str(tmp_path / "odd.yaml")])
    with pytest.raises(ValueError, match=r"lm_eval_tasks has '.*none\.yaml', but there is no such file"):
        check_tasks([str(tmp_path / "none.yaml")])


@pytest.mark.slow
def test_names_of_tasks_are_those_that_lm_eval_knows():
    check_tasks(["hellaswag", "arc_easy", "mmlu"])
    with pytest.raises(ValueError, match=r"'helaswag', which lm-eval does not know; did you mean hellaswag\?"):
        check_tasks(["helaswag"])
