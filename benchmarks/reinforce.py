"""Whether rewards rise: GRPO on a made task, from a chat model that gets it right now and then.

The question is a list of words, the right answer its last word. A chat model is first fine-tuned on a few such
questions, for so short that it is mostly wrong, and then learns from nothing but 1 or 0 for its own answers. Prints a
line for each measurement: the share of right answers among those drawn in training, and among the greedy answers to
questions with words that were not trained on.

    python -m benchmarks.reinforce --data MODEL [--n-steps 100] [--threads 1]

MODEL is a chat model's directory (a finetune artifact).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm.files import write_table
from llm.process import read_metrics
from llm.train.__main__ import train

WORDS = (
    "list file name value string method class object module function argument type error code text line number path "
    "data time set key index byte stream thread process socket server client request header body field record table "
    "row column page link image sound colour event signal loop test case result report log level message queue task"
)


def task(n_questions: int, seed: int) -> list[dict[str, str]]:
    """Questions with their answers."""
    draw, known = random.Random(seed), WORDS.split()
    lists = [draw.sample(known, 4) for _ in range(n_questions)]
    return [{"prompt": f"Last word of: {' '.join(words)}", "answer": words[-1]} for words in lists]


def run(folder: Path, kind: str, config: dict[str, Any], **folders: Path) -> Path:
    """Runs a job; returns the directory of its model."""
    work, out = folder / kind / "work", folder / kind / "out"
    for path in (work, out):
        path.mkdir(parents=True)
    paths = {name: str(path) for name, path in folders.items()}
    train(
        {"method": f"llm.train.methods.{kind}", "config": config, "work_dir": str(work), "out_dir": str(out), **paths}
    )
    return out


def write_examples(folder: Path, questions: list[dict[str, str]]) -> None:
    """The questions as chats to be fine-tuned on."""
    folder.mkdir()
    chats = [
        [{"role": "user", "content": item["prompt"]}, {"role": "assistant", "content": item["answer"]}]
        for item in questions
    ]
    for name, part in (("train", chats[20:]), ("val", chats[:20])):
        write_table(folder / f"{name}.parquet", pa.table({"messages": part}))


def main() -> None:
    """Fine-tunes, reinforces, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n-steps", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--warm-steps", type=int, default=12)
    options = parser.parse_args()
    loop = {"eval_every": 20, "n_eval_sequences": 200, "n_sample_tokens": 0, "n_threads": options.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_examples(folder / "examples", task(220, seed=1))
        start = run(
            folder,
            "finetune",
            {"n_steps": options.warm_steps, "loop": loop},
            base_dir=options.data,
            examples_dir=folder / "examples",
            tokenizer_dir=options.data,
        )
        questions = folder / "questions.jsonl"
        questions.write_text("".join(json.dumps(item) + "\n" for item in task(1000, seed=2)))
        config = {
            "files": [str(questions)],
            "held_out_fraction": 0.2,
            "max_answer_tokens": 6,
            "n_steps": options.n_steps,
            "batch_size": 8,
            "group_size": 8,
            "loop": loop | {"micro_batch_size": 64},
        }
        started, cpu = time.perf_counter(), time.process_time()
        run(folder, "reinforce", config, model_dir=start)
        lines = read_metrics(folder / "reinforce" / "work" / "metrics.jsonl")
    print("step  drawn answers right (mean of 20 steps)  held-out answers right [95 % interval]")
    for line in lines:
        if "val_reward" in line:
            drawn = [other["reward"] for other in lines if "reward" in other and 0 <= line["step"] - other["step"] < 20]
            mean = f"{sum(drawn) / len(drawn):.3f}" if drawn else "-"
            interval = f"[{line['val_reward_low']:.3f}, {line['val_reward_high']:.3f}]"
            print(f"{line['step']:4}  {mean:>5}  {line['val_reward']:.3f} {interval}")
    print(f"{time.perf_counter() - started:.0f} s, CPU {time.process_time() - cpu:.0f} s")


if __name__ == "__main__":
    main()
