"""Prompts and picks of benchmark items against an independent reading of the reference's rules, one item at a time."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.evaluate.benchmarks import RULES_FILE, Benchmark, read_benchmarks, read_definitions
from llm.evaluate.choices import choice_units, choose, pick, score_prompts, word_overlap
from llm.evaluate.likelihood import Scored
from llm.evaluate.metrics import ACCURACY, FOUR_CHOICE, FOUR_CHOICE_BY_SUM, FOUR_CHOICE_PER_BYTE
from llm.evaluate.prompts import Prompt, few_shot_prompts, few_shot_texts, shot_indices
from llm.model.export import to_hf
from tests.llm.evaluate.conftest import random_model

N_ITEMS = 14
PLAIN = {"as_chat": False, "neutral_question": ""}
WORDS = ["os.path", "join", "returns", "the", "square", "root", "of a", "number", "segments", "strings", "☕", "x"]


def sentence(draw: random.Random, most: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))


def made_up(form: str) -> list[dict[str, Any]]:
    draw = random.Random(form)
    rows = []
    for _ in range(N_ITEMS):
        if form == "multiple choice":
            choices = [sentence(draw, 4) for _ in range(draw.randint(2, 5))]
            choices[1] = choices[0] + " more"  # one is the beginning of another
            rows.append({"query": sentence(draw, 6), "choices": choices, "gold": draw.randrange(len(choices))})
        elif form == "schema":
            options = [f"{sentence(draw, 3)} {name}" for name in ("path", "tail", "pair")]
            rows.append({"context_options": options, "continuation": sentence(draw, 3), "gold": draw.randrange(3)})
        else:
            rows.append({"context": sentence(draw, 6) + " ", "continuation": sentence(draw, 2)})
    return rows


FORMS = ["multiple choice", "schema", "language modelling"]


def benchmark_of(folder: Path, form: str, n_shots: int) -> Benchmark:
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made_up(form)))
    rules = {"n_shots": n_shots, "delimiter": "\nAnswer: "}
    (folder / RULES_FILE).write_text(json.dumps({"mine": rules}))
    return read_benchmarks(folder / "mine.jsonl")[0]


# ---------------------------------------------------------------- the reference, said again


def reference_prompts(rows: list[dict[str, Any]], index: int, n_shots: int) -> list[str]:
    others = [i for i in range(len(rows)) if i != index]
    shots = [rows[i] for i in random.Random(1234 + index).sample(others, n_shots)]
    item, gap, before = rows[index], "\nAnswer: ", ""
    for shot in shots:
        if "choices" in shot:
            before += shot["query"] + gap + shot["choices"][shot["gold"]] + "\n\n"
        elif "context_options" in shot:
            before += shot["context_options"][shot["gold"]] + gap + shot["continuation"] + "\n\n"
        else:
            before += shot["context"].strip() + gap + shot["continuation"] + "\n\n"
    if "choices" in item:
        return [before + item["query"] + gap + choice for choice in item["choices"]]
    if "context_options" in item:
        return [before + option + gap + item["continuation"] for option in item["context_options"]]
    prompt = before + item["context"].strip() + gap
    return [prompt.strip(), prompt + item["continuation"]]


def common(sequences: list[list[int]]) -> int:
    length = 0
    while all(len(s) > length and s[length] == sequences[0][length] for s in sequences):
        length += 1
    return length


def reference_outcome(model, tokenizer, rows: list[dict[str, Any]], index: int, n_shots: int) -> bool:
    sequences = [[tokenizer.document_token, *tokenizer.encode(p)] for p in reference_prompts(rows, index, n_shots)]
    item = rows[index]
    if "choices" not in item and "context_options" not in item:
        starts, sequences = [len(sequences[0])], sequences[1:]
    elif "choices" in item:
        starts = [min(common(sequences), min(map(len, sequences)) - 1)] * len(sequences)
    else:
        n = common([tokens[::-1] for tokens in sequences])
        starts = [len(tokens) - n for tokens in sequences]
    means, greedy = [], []
    for tokens, start in zip(sequences, starts, strict=True):
        cut = max(0, len(tokens) - 1 - model.config.context_length)
        tokens, first = tokens[cut:], max(1, start - cut)
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([tokens[:-1]]))[0].double(), dim=-1)
        places = range(first, len(tokens))
        means.append(np.mean([float(log_p[place - 1, tokens[place]]) for place in places]))
        greedy.append(all(int(log_p[place - 1].argmax()) == tokens[place] for place in places))
    return bool(np.argmax(means) == item["gold"]) if "gold" in item else greedy[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_shots", [0, 3])
def test_prompts_are_those_of_the_reference(tmp_path, form, n_shots):
    benchmark = benchmark_of(tmp_path, form, n_shots)
    for index in range(N_ITEMS):
        expected = reference_prompts(made_up(form), index, n_shots)
        found = few_shot_texts(benchmark, index)
        assert found[1:] == (expected[1:] if form == "language modelling" else expected)
        if form == "language modelling":
            assert found[0] == expected[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_shots", "context_length"), [(0, 200), (3, 200), (3, 24)])
def test_outcomes_are_those_of_the_reference(tmp_path, tokenizer, form, n_shots, context_length):
    """With the shorter context, every prompt loses its beginning."""
    model = random_model(tokenizer, 3, context_length=context_length)
    benchmark = benchmark_of(tmp_path, form, n_shots)
    expected = [reference_outcome(model, tokenizer, made_up(form), index, n_shots) for index in range(N_ITEMS)]
    done: list[int] = []
    found = choose(model, tokenizer, benchmark, range(N_ITEMS), batch_tokens=300, advance=done.append, **PLAIN)
    (units,) = choice_units(benchmark, range(N_ITEMS), found)
    assert (units.values == 1).tolist() == expected
    assert sum(done) == N_ITEMS
    assert (units.chosen is None) == (units.gold is None) == (form == "language modelling")
    some = choose(model, tokenizer, benchmark, [2, 7], batch_tokens=300, **PLAIN)  # the same examples
    assert some[ACCURACY].tolist() == found[ACCURACY][[2, 7]].tolist()


def test_a_greedy_match_needs_the_models_own_words(tmp_path, tokenizer):
    """Continuations of one token that the model itself goes on with are right, the same with one more word are not."""
    model = random_model(tokenizer, 3, context_length=200)
    rows = []
    for i in range(400):
        prompt = tokenizer.encode(f"os.path {i}")
        with torch.no_grad():
            greedy = int(model(torch.tensor([[tokenizer.document_token, *prompt]]))[0, -1].argmax())
        text = tokenizer.decode([greedy])
        if text.startswith(" ") and text.strip() and tokenizer.encode(f"os.path {i}{text}") == [*prompt, greedy]:
            rows.append({"context": f"os.path {i}", "continuation": text[1:]})
    assert len(rows) >= 2
    n, longer = len(rows), [{**row, "continuation": f"{row['continuation']} zq"} for row in rows]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + longer))
    (benchmark,) = read_benchmarks(tmp_path / "mine.jsonl")
    found = choose(model, tokenizer, benchmark, range(2 * n), batch_tokens=300, **PLAIN)
    assert found[ACCURACY].tolist() == [0] * n + [1] * n


@pytest.mark.parametrize(("n_items", "n_shots"), [(2, 1), (14, 13), (14, 5)])
def test_examples_are_others_of_the_file_drawn_by_the_items_own_seed(n_items, n_shots):
    for index in range(n_items):
        others = [i for i in range(n_items) if i != index]
        drawn = shot_indices(index, n_items, n_shots)
        assert drawn == random.Random(1234 + index).sample(others, n_shots)
        assert index not in drawn
        assert len(set(drawn)) == n_shots


def test_what_counts_of_choices_that_begin_alike(tmp_path, tokenizer):
    rows = [{"query": "A number", "choices": ["joins the path", "joins the root", "joins the path of a"], "gold": 0}]
    (tmp_path / "mine.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (benchmark,) = read_benchmarks(tmp_path / "mine.jsonl")
    (item,) = few_shot_prompts(benchmark, [0], tokenizer, 200)
    wholes = [tokenizer.encode(f"A number {choice}") for choice in rows[0]["choices"]]
    n_prompt, n_common = len(tokenizer.encode("A number")), common(wholes)
    assert item.n_answer == [len(whole) - n_prompt for whole in wholes]
    assert item.n_distinct == [len(whole) - n_common for whole in wholes]
    assert n_common > n_prompt
    for continuation, whole in zip(item.continuations, wholes, strict=True):
        assert list(continuation.tokens) == [tokenizer.document_token, *whole]
        assert continuation.start == 1 + n_prompt


def scored(*log_p: list[float]) -> list[Scored]:
    return [Scored(np.array(values), np.zeros(len(values), dtype=bool)) for values in log_p]


@pytest.mark.parametrize(("rule", "expected"), [("mean", 1), ("sum", 0), ("per character", 2)])
def test_each_pick_of_a_file_has_its_own_rule(rule, expected):
    found = scored([-1.0, -4.0], [-1.0, -2.0, -2.0, -2.0], [-1.0, -3.5, -3.5])
    prompt = Prompt(["x" * n for n in (10, 20, 100)], [None] * 3, [2, 4, 3], [1, 3, 2])
    # means after the first token: -4, -2, -3.5; sums: -5, -7, -8; per character: -0.5, -0.35, -0.08
    assert pick(prompt, found, rule) == expected


def picks(given: list[float], alone: list[float], choices: list[str]) -> dict[str, int]:
    """The choice by each metric of the definitions, of an item with these sums of log-likelihoods."""
    prompt = Prompt(choices, [None] * len(given), [1] * len(given), [1] * len(given), [None] * len(given))
    found = scored(*([value] for value in [*given, *alone]))
    rules = Benchmark("d", Path(), "multiple choice", [], None, is_definitions=True).picks
    return {metric: pick(prompt, found, rule) for metric, rule in rules.items()}


def test_each_metric_of_the_definitions_picks_by_its_own_rule():
    choices = ["x" * 10, "ä" * 5 + "x", "☕" * 20, "x" * 10]  # 10, 11, 60 and 10 bytes
    found = picks([-10.0, -12.0, -30.0, -11.0], [-10.0, -13.0, -29.0, -16.0], choices)
    assert found == {FOUR_CHOICE: 3, FOUR_CHOICE_BY_SUM: 0, FOUR_CHOICE_PER_BYTE: 2}


def test_a_model_that_ignores_the_question_is_at_chance_on_the_headline():
    """Choices differ wildly in log-likelihood, yet PMI says nothing when the question changes nothing."""
    random = np.random.default_rng(0)
    alone = random.normal(-50, 30, (2000, 4))
    given = alone + random.normal(0, 1e-3, alone.shape)
    gold = random.integers(0, 4, 2000)
    chosen = [picks(one, other, ["x"] * 4)[FOUR_CHOICE] for one, other in zip(given, alone, strict=True)]
    assert abs((np.array(chosen) == gold).mean() - 0.25) < 0.03  # three standard deviations


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
        choices = np.array([right, *wrong])
        for metric, index in picks(log_p[question][choices], prior[choices], ["x"] * 4).items():
            hits.setdefault(metric, []).append(choices[index] == right)
    assert np.mean(hits[FOUR_CHOICE]) > np.mean(hits[FOUR_CHOICE_BY_SUM]) + 0.01


def test_word_overlap_needs_no_model(tmp_path) -> None:
    items = [
        ("What does os.path.join do?", ["Open a file.", "Joining of path components.", "x", "y"]),
        ("What does Thread.isAlive do?", ["x", "y", "Whether the thread is alive.", "A thread."]),
        ("What does zlib do?", ["x", "y", "z", "w"]),
    ]
    lines = [json.dumps({"id": f"{i}", "query": q, "choices": c, "gold": 1}) for i, (q, c) in enumerate(items)]
    (tmp_path / "benchmark.jsonl").write_text("\n".join(lines))
    benchmark = read_definitions(tmp_path / "benchmark.jsonl")
    assert word_overlap(benchmark, range(3)).tolist() == [1, 2, 0]
    (units,) = choice_units(benchmark, [0, 2], {FOUR_CHOICE: word_overlap(benchmark, [0, 2])})
    assert (units.ids, units.values.tolist(), units.chance) == (["0", "2"], [1.0, 0.0], 0.25)


@pytest.mark.parametrize("architecture", ["gpt2", "modern"])
def test_log_likelihoods_are_those_of_transformers(tmp_path, tokenizer, architecture):
    """The exported model, asked sequence by sequence with the ids of its own tokenizer, says the same of every form."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = random_model(tokenizer, 5, context_length=200, architecture=architecture)
    to_hf(model, tmp_path / "hf", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for form in FORMS:
        benchmark = benchmark_of(tmp_path, form, 3)
        items = few_shot_prompts(benchmark, range(N_ITEMS), tokenizer, model.config.context_length)
        scored = [each for item in score_prompts(model, items, batch_tokens=300) for each in item]
        prompts = [text for index in range(N_ITEMS) for text in few_shot_texts(benchmark, index)[1:]]
        counted = [n for item in items for n in item.n_answer]
        for ours, prompt, n in zip(scored, prompts, counted, strict=True):
            ids = their_tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                log_p = torch.log_softmax(theirs(ids).logits[0, :-1].double(), dim=-1)
            expected = log_p.gather(1, ids[0, 1:, None])[-n:, 0]
            assert ours.log_p[-n:].sum() == pytest.approx(float(expected.sum()), abs=1e-3)
            greedy = log_p.argmax(-1)[-n:] == ids[0, -n:]
            assert ours.is_greedy[-n:].tolist() == greedy.tolist()
