"""What the evaluation measures: read without PyTorch, so that a command that scores nothing starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Config, setting


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """What is measured, and on how much."""

    benchmarks: tuple[str, ...] = ()
    """JSONL files of benchmark items: paths, folders, or patterns as "benchmarks/*.jsonl". How items are asked is known
    for the files of CORE; a file benchmarks.yaml beside them may say it for others."""
    n_shots: int | None = setting(None, at_least=0)
    """Solved items put before each item of such a file; empty takes the number that belongs to the benchmark."""
    lm_eval_tasks: tuple[str, ...] = ()
    """Tasks of lm-eval: its names, for which it needs the network, or paths of YAML files, for which it does not."""
    max_documents: int | None = setting(None, at_least=1)
    """Held-out documents to read at most; empty reads all."""
    max_examples: int | None = setting(None, at_least=1)
    """Held-out examples for the answer loss at most; empty takes all."""
    max_items: int | None = setting(None, at_least=1)
    """Items of each benchmark at most; empty takes all."""
    n_answers: int = setting(200, at_least=0)
    """Held-out questions that the chat model answers in its own words."""
    prompts: tuple[str, ...] = ("The ", "For example, ", "What is a list?", "How do I open a file?")
    """Texts that each model goes on from (a chat model: answers), kept to be read."""
    max_new_tokens: int = setting(96, at_least=1)
    """Length limit of what a model writes, in tokens."""
    temperature: float = setting(0.0, at_least=0)
    """Randomness of what a model writes; 0 is greedy decoding."""
    neutral_question: str = "What does this do?"
    """The question that names nothing: under it the log-likelihood of a choice by itself is measured."""
    batch_tokens: int = setting(2048, at_least=1)
    """Tokens scored at once, padding included; bounds the memory. More than 2048 is slower on a CPU."""
    seed: int = setting(0, at_least=0)
    """Decides which documents, examples and items are taken where a limit is set, and what is sampled."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", execution=True)
    """Where the models run; auto takes CUDA when it is there."""
    n_threads: int | None = setting(None, at_least=1, execution=True)
    """CPU threads; empty leaves PyTorch's choice."""
