"""Our evaluator against lm-eval's Hugging Face backend: the same model, the same items, time and answers.

    python -m benchmarks.core_speed --data FOLDER --model FOLDER [--benchmark arc_easy] [--rounds 3] [--threads 2]

FOLDER of the data holds the CORE set's JSONL files, that of the model our model.safetensors. Each round runs both, one
after the other, each in a process of its own, 0-shot. Scoring is rendering, tokenising and the model; the command also
imports and loads. lm-eval gets the batch size of 8, 16, 32 and 64 that is fastest on 200 items. Needs the extra `eval`,
transformers and accelerate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

N_COMPARED = 500
BATCH_SIZES = (8, 16, 32, 64)
N_TRIED = 200
TASK = """
task: speed
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: {text}
doc_to_choice: choices
doc_to_target: gold
target_delimiter: {delimiter}
metric_list: [{{metric: acc}}]
"""


def main() -> None:
    """Runs the rounds and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--benchmark", default="arc_easy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        job = json.loads(options.run)
        result = {"ours": ours, "theirs": theirs}[job["who"]](job)
        Path(job["result"]).write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of scoring and the log-likelihood of each choice, by our evaluator."""
    import torch

    from llm.evaluate.benchmarks import read_benchmarks
    from llm.evaluate.choices import score_prompts
    from llm.evaluate.prompts import few_shot_prompts
    from llm.model.files import load_model
    from llm.tokenizer.tokenizer import Tokenizer

    torch.set_num_threads(job["threads"])
    model, tokenizer = load_model(Path(job["model"])), Tokenizer.load(Path(job["model"]))
    (benchmark,) = read_benchmarks(Path(job["items"]), n_shots=0)
    wall, cpu = time.perf_counter(), time.process_time()
    prompts = few_shot_prompts(benchmark, range(len(benchmark.rows)), tokenizer, model.config.context_length)
    scored = zip(prompts, score_prompts(model, prompts, batch_tokens=2048), strict=True)
    sums = [
        [float(each.log_p[-n:].sum()) for each, n in zip(of_item, item.n_answer, strict=True)]
        for item, of_item in scored
    ]
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "sums": sums}


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    """The same by lm-eval's Hugging Face backend."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(job["threads"])
    lm = HFLM(job["exported"], device="cpu", dtype="float32", batch_size=job["batch_size"])
    seconds = {}
    score = lm.loglikelihood

    def timed(requests: Any, **options: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = score(requests, **options)
        seconds.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
        return found

    lm.loglikelihood = timed  # type: ignore[method-assign]
    manager = TaskManager(include_path=job["tasks"], include_defaults=False)
    found = simple_evaluate(lm, tasks=["speed"], task_manager=manager, limit=job["limit"], bootstrap_iters=0)
    rows = sorted(found["samples"]["speed"], key=lambda row: row["doc_id"])
    return {**seconds, "sums": [[float(answer[0]) for answer in row["filtered_resps"]] for row in rows]}


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Exports the model, finds lm-eval's batch size, runs the rounds in turns."""
    from llm.evaluate.benchmarks import read_benchmarks
    from llm.model.export import to_hf
    from llm.model.files import load_model
    from llm.tokenizer.tokenizer import Tokenizer

    items = options.data.resolve() / f"{options.benchmark}.jsonl"
    (benchmark,) = read_benchmarks(items, n_shots=0)
    to_hf(load_model(options.model), folder / "hf", Tokenizer.load(options.model))
    (folder / "tasks").mkdir()
    prompt = benchmark.rules.delimiter.rstrip()  # lm-eval counts what it takes for a delimiter as part of the answer
    text, delimiter = "<|document|>{{query}}" + prompt, benchmark.rules.delimiter[len(prompt) :]
    task = TASK.format(items=items, text=json.dumps(text), delimiter=json.dumps(delimiter))
    (folder / "tasks" / "speed.yaml").write_text(task)
    job = {
        "model": str(options.model.resolve()),
        "exported": str(folder / "hf"),
        "tasks": str(folder / "tasks"),
        "items": str(items),
        "threads": options.threads,
        "limit": None,
        "result": str(folder / "result.json"),
    }
    tried = {n: run({**job, "who": "theirs", "batch_size": n, "limit": N_TRIED})["cpu"] for n in BATCH_SIZES}
    best = min(tried, key=lambda n: tried[n])
    print(f"lm-eval, CPU seconds for {N_TRIED} items by batch size: {tried}; taken: {best}\n", flush=True)
    rounds = []
    for _ in range(options.rounds):
        rounds.append([run({**job, "who": who, "batch_size": best}) for who in ("ours", "theirs")])
        show(rounds[-1])
    table(rounds, [row.values["gold"] for row in benchmark.rows])


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One process; its result, with the seconds of the whole command."""
    wall = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.core_speed", "--data", ".", "--model", ".", "--run", json.dumps(job)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return {**json.loads(Path(job["result"]).read_text()), "command": time.perf_counter() - wall}


def show(pair: list[dict[str, Any]]) -> None:
    """A round in a line."""
    print(*(f"{name}: {one[name]:.1f} against {other[name]:.1f} s;" for name, one, other in figures(pair)), flush=True)


def figures(pair: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The kinds of seconds with both results."""
    return [(name, pair[0], pair[1]) for name in ("wall", "cpu", "command")]


def table(rounds: list[list[dict[str, Any]]], gold: list[int]) -> None:
    """Medians over the rounds, the median of the ratios, and whether the answers are the same."""
    print("\n| seconds | ours | lm-eval | lm-eval / ours |\n|---|---|---|---|")
    for name in ("wall", "cpu", "command"):
        mine, other = ([pair[side][name] for pair in rounds] for side in (0, 1))
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        print(f"| {name} |", *(f"{statistics.median(values):.1f} |" for values in (mine, other, ratios)))
    one, two = (rounds[0][side]["sums"] for side in (0, 1))
    picks = [[max(range(len(row)), key=row.__getitem__) for row in sums] for sums in (one, two)]
    same = sum(a == b for a, b in zip(*picks, strict=True))
    flat = [itertools.chain.from_iterable(sums[:N_COMPARED]) for sums in (one, two)]
    apart = max(abs(a - b) for a, b in zip(*flat, strict=True))
    accuracy = [sum(a == b for a, b in zip(pick, gold, strict=True)) / len(gold) for pick in picks]
    print(f"\n{same} of {len(gold)} items answered alike; accuracy {accuracy[0]:.4f} and {accuracy[1]:.4f}.")
    print(f"Log-likelihoods of the choices of {min(N_COMPARED, len(one))} items: at most {apart:.1e} apart.")


if __name__ == "__main__":
    main()
