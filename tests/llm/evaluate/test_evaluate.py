from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch

from llm.documents import Document, document_id, documents_table
from llm.evaluate.config import EvaluateConfig
from llm.evaluate.evaluate import evaluate_models
from llm.files import write_table
from llm.model.files import load_model, save_model
from llm.model.gpt import GPT, GPTConfig

N_TRAIN, N_HELD_OUT = 3, 4
QUESTIONS = ["What does os.path.join do?", "What does math.sqrt do?", "What does str.join do?", "What is a path?"]
ANSWERS = ["Joins segments.", "Returns the square root.", "Concatenates the strings.", "The head and tail ☕."]
CONFIG = EvaluateConfig(n_answers=2, max_new_tokens=5, batch_tokens=64, n_threads=1)


def save_random_model(tokenizer, directory: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context_length=120, n_layers=1, n_heads=2, d_model=16))
    for parameter in model.parameters():
        parameter.data.mul_(6)
    directory.mkdir()
    save_model(model, directory, {})
    tokenizer.save(directory)


def document(index: int, held_out: bool) -> Document:
    text = f"Document {index} joins one or more path segments é ☕. " * (index + 1)
    url = f"http://docs/{index}"
    return Document(document_id(url, text), url, "t", text, "en", len(text), held_out)


def write_examples(directory: Path, n: int) -> None:
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("id", pa.string()), ("messages", pa.list_(turn))])
    rows = [
        {
            "id": f"{index}",
            "messages": [
                {"role": "user", "content": QUESTIONS[index]},
                {"role": "assistant", "content": ANSWERS[index]},
            ],
        }
        for index in range(n)
    ]
    write_table(directory / "val.parquet", pa.Table.from_pylist(rows, schema=schema))
    items = [
        {"id": f"{i}", "query": QUESTIONS[i], "choices": ANSWERS[i:] + ANSWERS[:i], "gold": 0, "document_id": "d"}
        for i in range(n)
    ]
    (directory / "benchmark.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, tokenizer) -> Path:
    """Two models, three partitions' worth of documents and a few examples."""
    root = tmp_path_factory.mktemp("run")
    save_random_model(tokenizer, root / "base", 1)
    save_random_model(tokenizer, root / "chat", 2)
    (root / "documents").mkdir()
    documents = [document(index, index >= N_TRAIN) for index in range(N_TRAIN + N_HELD_OUT)]
    for part in range(2):
        write_table(root / "documents" / f"documents-{part:05}.parquet", documents_table(documents[part * 4 :][:4]))
    (root / "examples").mkdir()
    write_examples(root / "examples", 4)
    return root


def evaluate(root: Path, out_dir: Path, config: EvaluateConfig = CONFIG, progress=lambda done, total: None):
    out_dir.mkdir()
    models = {name: root / name for name in ("base", "chat")}
    return evaluate_models(models, root / "documents", root / "examples", out_dir, config, progress)


def test_a_base_model_alone_is_scored_on_documents(run_dir, tmp_path):
    counts = evaluate_models({"base": run_dir / "base"}, run_dir / "documents", None, tmp_path, CONFIG, lambda *_: None)
    assert counts.n_out == N_HELD_OUT
    assert set(scores_of(tmp_path)) == {("xz -9", "bits per byte"), ("base", "bits per byte")}
    evaluate(run_dir, tmp_path / "both")
    both = scores_of(tmp_path / "both")
    assert scores_of(tmp_path)["base", "bits per byte"] == both["base", "bits per byte"]


def scores_of(out_dir: Path) -> dict[tuple[str, str], dict]:
    rows = pq.read_table(out_dir / "scores.parquet").to_pylist()
    return {(row["model"], row["metric"]): row for row in rows}


def log_likelihoods(model, tokens: list[int]) -> list[float]:
    """ln p of each token after the first; the tokens must fit the context."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([tokens[:-1]]))[0].double(), dim=-1)
    return [float(log_p[index, token]) for index, token in enumerate(tokens[1:])]


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_scores_are_those_of_a_computation_one_by_one(run_dir, tokenizer, tmp_path):
    counts = evaluate(run_dir, tmp_path / "out")
    scores = scores_of(tmp_path / "out")
    texts = [document(index, True).text for index in range(N_TRAIN, N_TRAIN + N_HELD_OUT)]
    for name in ("base", "chat"):
        model = load_model(run_dir / name)
        nats = 0.0
        for text in texts:
            tokens = [tokenizer.document_token, *tokenizer.encode(text)]
            nats -= sum(log_likelihoods(model, tokens[:121]))
            for start in range(120, len(tokens) - 1, 119):
                nats -= sum(log_likelihoods(model, [tokens[0], *tokens[start : start + 120]])[1:])
        expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
        assert scores[name, "bits per byte"]["score"] == pytest.approx(expected, abs=2e-5)
        supervised = []
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
            tokens, mask = tokenizer.render_chat(chat(question, answer))
            supervised += [v for v, counts_ in zip(log_likelihoods(model, tokens), mask[1:], strict=True) if counts_]
        assert scores[name, "answer loss"]["score"] == pytest.approx(-np.mean(supervised), abs=2e-5)
    assert counts.n_in == counts.n_out == 4 + 4 + 4
    assert counts.figures["chat_answer_loss"] == scores["chat", "answer loss"]["score"]
    assert counts.figures["xz_bits_per_byte"] == scores["xz -9", "bits per byte"]["score"]
    assert counts.figures["base_four_choice_accuracy"] == scores["base", "accuracy"]["score"]
    difference = scores["chat", "bits per byte"]["score"] - scores["base", "bits per byte"]["score"]
    assert scores["chat", "bits per byte minus base"]["score"] == pytest.approx(difference, abs=3e-5)


def test_items_say_which_choice_was_made_and_the_score_is_their_share(run_dir, tokenizer, tmp_path):
    evaluate(run_dir, tmp_path / "out")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    model = load_model(run_dir / "chat")

    def score(question: str, answer: str) -> float:
        tokens, mask = tokenizer.render_chat(chat(question, answer))
        return sum(log_likelihoods(model, tokens)[mask.index(True) - 1 :])

    picked = [row for row in items if (row["benchmark"], row["metric"]) == ("four-choice definitions", "accuracy")]
    for row in [row for row in picked if row["model"] == "chat"]:
        index = int(row["id"])
        choices = ANSWERS[index:] + ANSWERS[:index]
        pmi = [score(QUESTIONS[index], choice) - score(CONFIG.neutral_question, choice) for choice in choices]
        assert (row["gold"], row["chosen"]) == (0, int(np.argmax(pmi)))
    for name in ("base", "chat"):
        hits = [row["gold"] == row["chosen"] for row in picked if row["model"] == name]
        assert [row["value"] for row in picked if row["model"] == name] == hits
        row = scores_of(tmp_path / "out")[name, "accuracy"]
        expected = scipy.stats.binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        assert (row["score"], row["n"], row["chance"]) == (np.mean(hits), 4, 0.25)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_same_bytes_whatever_the_thread_count(run_dir, tmp_path):
    evaluate(run_dir, tmp_path / "one")
    evaluate(run_dir, tmp_path / "two", replace(CONFIG, n_threads=2))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["answers.jsonl", "items.parquet", "samples.jsonl", "scores.parquet"]
    for name in ("answers.jsonl", "samples.jsonl", "scores.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (pq.read_table(tmp_path / name / "items.parquet") for name in ("one", "two"))
    assert one.drop_columns(["value"]) == two.drop_columns(["value"])
    np.testing.assert_allclose(one["value"], two["value"], rtol=1e-5)  # sums of float32 differ with the threads


def test_partitions_of_the_documents_do_not_matter(run_dir, tmp_path):
    evaluate(run_dir, tmp_path / "two-parts")
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    for path in (other / "documents").iterdir():
        path.unlink()
    documents = [document(index, index >= N_TRAIN) for index in range(N_TRAIN + N_HELD_OUT)]
    write_table(other / "documents" / "documents-00000.parquet", documents_table(documents))
    evaluate(other, tmp_path / "one-part")
    one, two = tmp_path / "one-part" / "scores.parquet", tmp_path / "two-parts" / "scores.parquet"
    assert one.read_bytes() == two.read_bytes()


def test_progress_rises_to_its_total_and_threads_are_put_back(run_dir, tmp_path):
    seen: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    config = replace(CONFIG, n_threads=before + 1)
    evaluate(run_dir, tmp_path / "out", config, progress=lambda done, total: seen.append((done, total)))
    assert torch.get_num_threads() == before
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {seen[-1][0]}
    assert seen[0][0] == 0


def test_limits_are_kept_and_the_choice_depends_on_the_seed(run_dir, tmp_path):
    limits = {"max_documents": 2, "max_examples": 1, "max_items": 3, "n_answers": 1}
    questions = set()
    for seed in range(6):
        out_dir = tmp_path / f"{seed}"
        counts = evaluate(run_dir, out_dir, replace(CONFIG, **limits, seed=seed))
        scores = scores_of(out_dir)
        assert counts.n_in == 6
        assert scores["base", "bits per byte"]["n"] == scores["xz -9", "bits per byte"]["n"] == 2
        assert scores["base", "answer loss"]["n"] == 1
        assert scores["base", "accuracy"]["n"] == 3
        lines = (out_dir / "answers.jsonl").read_text().splitlines()
        assert len(lines) == 1
        questions.add(json.loads(lines[0])["question"])
    assert len(questions) > 1


def test_what_is_not_held_out_is_left_out(run_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    write_examples(other / "examples", 0)
    evaluate(other, tmp_path / "out")
    assert {row["benchmark"] for row in scores_of(tmp_path / "out").values()} == {"held-out documents"}
    for path in (other / "documents").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="held_out_fraction"):
        evaluate(other, tmp_path / "nothing")


@pytest.mark.parametrize("change", [{"n_answers": -1}, {"batch_tokens": 0}, {"max_documents": 0}, {"temperature": -1}])
def test_config_refuses_what_makes_no_sense(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        EvaluateConfig(**change)


# ---------------------------------------------------------------- benchmarks, sources, answers


def rows_of(out_dir: Path, name: str) -> list[dict]:
    return pq.read_table(out_dir / name).to_pylist()


def named_scores(out_dir: Path) -> dict[tuple[str, str, str], dict]:
    rows = rows_of(out_dir, "scores.parquet")
    named = {(row["model"], row["benchmark"], row["metric"]): row for row in rows}
    assert len(named) == len(rows)
    return named


@pytest.fixture
def quiz(tmp_path) -> Path:
    """A benchmark of 12 items, and one of CORE's by its name."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    rows = [{"query": QUESTIONS[i % 4], "choices": ANSWERS, "gold": i % 4} for i in range(12)]
    for name in ("quiz", "arc_easy"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_benchmarks_are_scored_for_both_models_and_compared(run_dir, quiz, tmp_path):
    counts = evaluate(run_dir, tmp_path / "out", replace(CONFIG, benchmarks=(str(quiz),)))
    scores, items = named_scores(tmp_path / "out"), rows_of(tmp_path / "out", "items.parquet")
    assert counts.n_in == 12 + 2 * 12
    for model in ("base", "chat"):
        values = [row["value"] for row in items if (row["model"], row["benchmark"]) == (model, "quiz")]
        row = scores[model, "quiz", "accuracy"]
        assert (row["score"], row["n"], row["chance"]) == (pytest.approx(np.mean(values), abs=1e-5), 12, 0.25)
        centred = scores[model, "quiz", "centred accuracy"]["score"]
        assert centred == pytest.approx((row["score"] - 0.25) / 0.75, abs=1e-5)
        core = scores[model, "CORE", "centred accuracy, 1 of 22 tasks"]["score"]
        assert core == scores[model, "arc_easy", "centred accuracy"]["score"] == counts.figures[f"{model}_core"]
        assert counts.figures[f"{model}_quiz_accuracy"] == row["score"]
    difference = scores["chat", "quiz", "accuracy"]["score"] - scores["base", "quiz", "accuracy"]["score"]
    assert scores["chat", "quiz", "accuracy minus base"]["score"] == pytest.approx(difference, abs=3e-5)
    assert ("chat", "CORE", "centred accuracy, 1 of 22 tasks minus base") in scores


def test_items_of_benchmarks_are_limited_and_examples_are_not(run_dir, quiz, tmp_path):
    evaluate(run_dir, tmp_path / "all", replace(CONFIG, benchmarks=(str(quiz),), n_shots=2))
    evaluate(run_dir, tmp_path / "some", replace(CONFIG, benchmarks=(str(quiz),), n_shots=2, max_items=5))
    answers = {}
    for name in ("all", "some"):
        rows = [row for row in rows_of(tmp_path / name, "items.parquet") if row["benchmark"] == "quiz"]
        answers[name] = {(row["model"], row["id"]): row["chosen"] for row in rows}
    assert len(answers["some"]) == 2 * 5
    assert answers["some"].items() <= answers["all"].items()  # an item has the same examples whatever else is asked
    assert "CORE" not in {row["benchmark"] for row in rows_of(tmp_path / "all", "scores.parquet")}  # asked otherwise


def test_items_that_stand_in_the_training_documents_are_told_apart(run_dir, quiz, tmp_path):
    import pyarrow as pa

    from llm.data.decontaminate.decontaminate import HIT_SCHEMA

    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    hit = {"id": "d", "url": "u", "benchmark": "quiz", "ngram": "x", "n_ngrams": 1, "held_out": False}
    hits = [{**hit, "item": item, "dropped": item == 9} for item in (0, 4, 9)]
    write_table(other / "documents" / "hits.parquet", pa.Table.from_pylist(hits, schema=HIT_SCHEMA))
    evaluate(other, tmp_path / "out", replace(CONFIG, benchmarks=(str(quiz),)))
    scores = named_scores(tmp_path / "out")
    assert [scores["base", name, "accuracy"]["n"] for name in ("quiz", "quiz, clean items")] == [12, 10]
    assert scores["base", "quiz, contaminated items", "accuracy"]["n"] == 2
    assert ("chat", "quiz, clean items", "accuracy minus base") in scores
    assert ("base", "arc_easy, clean items", "accuracy") not in scores
    marked = {row["id"] for row in rows_of(tmp_path / "out", "items.parquet") if row["contaminated"]}
    assert marked == {"0", "4"}


def test_bits_per_byte_by_source_and_the_bytes_are_those_of_the_files(run_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "texts").mkdir()
    documents = []
    for index, source in enumerate(["wiki", "wiki", "code"]):
        path = other / "texts" / f"{index}.txt"
        path.write_text(f"Naïve café ☕ 日本語 {index}\r\n\n" * (index + 1), encoding="utf-8", newline="")
        text = path.read_bytes().decode()
        documents.append(Document(f"{index:032}", str(path), "", text, "en", len(text), True, source))
    for path in (other / "documents").iterdir():
        path.unlink()
    write_table(other / "documents" / "documents-00000.parquet", documents_table(documents))
    evaluate(other, tmp_path / "out")
    items = [row for row in rows_of(tmp_path / "out", "items.parquet") if row["metric"] == "bits per byte"]
    sizes = [path.stat().st_size for path in sorted((other / "texts").iterdir())]
    for model in ("base", "chat"):
        mine = {row["id"]: row for row in items if row["model"] == model}
        assert [mine[document.id]["weight"] for document in documents] == sizes
        scores = named_scores(tmp_path / "out")
        for source, chosen in (("wiki", documents[:2]), ("code", documents[2:])):
            row = scores[model, f"held-out documents, source {source}", "bits per byte"]
            bits = sum(mine[document.id]["value"] for document in chosen)
            n_bytes = sum(mine[document.id]["weight"] for document in chosen)
            assert row["score"] == pytest.approx(bits / n_bytes, abs=1e-4)
            assert row["n"] == len(chosen)


def test_answers_and_texts_of_the_models_own(run_dir, tmp_path):
    config = replace(CONFIG, n_answers=4, prompts=("The ", "What?"))
    counts = evaluate(run_dir, tmp_path / "out", config)
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    scores = named_scores(tmp_path / "out")
    for metric, key, figure in (
        ("well-formed ends of turn", "ended", "chat_ended_share"),
        ("exact match", "exact", "chat_exact_match"),
        ("token F1", "f1", "chat_token_f1"),
    ):
        row = scores["chat", "held-out examples", metric]
        assert row["score"] == pytest.approx(np.mean([line[key] for line in lines]), abs=2e-5)
        assert counts.figures[figure] == row["score"]
        assert row["n"] == 4
    written = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [(row["model"], row["prompt"]) for row in written] == [
        (model, prompt) for model in ("base", "chat") for prompt in ("The ", "What?")
    ]
    assert all(isinstance(row["text"], str) for row in written)


def test_without_a_four_choice_file_the_rest_is_scored(run_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "examples" / "benchmark.jsonl").unlink()
    evaluate(other, tmp_path / "out")
    assert {row["benchmark"] for row in rows_of(tmp_path / "out", "scores.parquet")} == {
        "held-out documents",
        "held-out examples",
    }


def test_lm_eval_is_asked_for_by_name_when_it_is_missing(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lm_eval_tasks has hellaswag, but lm-eval is not installed: pip install"):
        evaluate(run_dir, tmp_path / "out", replace(CONFIG, lm_eval_tasks=("hellaswag",)))


def test_tasks_of_lm_eval_are_rows_like_all_others(run_dir, quiz, tmp_path):
    task = f"""
task: quiz_of_lm_eval
dataset_path: json
dataset_kwargs: {{data_files: {{test: {quiz}/quiz.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
    (quiz / "quiz.yaml").write_text(task)
    (quiz / "benchmarks.yaml").write_text("quiz: {pick: sum}\n")
    config = replace(CONFIG, benchmarks=(str(quiz / "quiz.jsonl"),), lm_eval_tasks=(str(quiz / "quiz.yaml"),))
    evaluate(run_dir, tmp_path / "out", config)
    items = rows_of(tmp_path / "out", "items.parquet")
    for model in ("base", "chat"):
        ours, theirs = (
            [row["value"] for row in items if (row["model"], row["benchmark"]) == (model, name)]
            for name in ("quiz", "lm-eval quiz_of_lm_eval")
        )
        assert ours == theirs
        assert len(ours) == 12
    scores = named_scores(tmp_path / "out")
    assert scores["chat", "lm-eval quiz_of_lm_eval", "acc"]["chance"] == 0.25
    assert ("chat", "lm-eval quiz_of_lm_eval", "acc minus base") in scores
