"""What the evaluation measures: read without PyTorch, so that a command that scores nothing starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Config, setting


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """What is measured, and on how much."""

    max_documents: int | None = setting(None, at_least=1)
    """Held-out documents to read at most; empty reads all."""
    max_examples: int | None = setting(None, at_least=1)
    """Held-out examples for the answer loss at most; empty takes all."""
    max_items: int | None = setting(None, at_least=1)
    """Questions of the four-choice benchmark at most; empty takes all."""
    n_answers: int = setting(24, at_least=0)
    """Held-out questions that the chat model answers in its own words."""
    max_new_tokens: int = setting(96, at_least=1)
    """Length limit of such an answer, in tokens."""
    temperature: float = setting(0.0, at_least=0)
    """Randomness of such an answer; 0 always takes the likeliest token."""
    neutral_question: str = "What does this do?"
    """The question that names nothing: how likely a choice is by itself is measured under it."""
    batch_tokens: int = setting(2048, at_least=1)
    """Tokens scored at once, padding included; bounds the memory. More than 2048 is slower on a CPU."""
    seed: int = setting(0, at_least=0)
    """Decides which documents, examples and questions are taken where a limit is set, and what is sampled."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", execution=True)
    """Where the models run; auto takes CUDA when it is there."""
    n_threads: int | None = setting(None, at_least=1, execution=True)
    """CPU threads; empty leaves PyTorch's choice."""
