"""The way to lm-eval, which is optional: what is needed of it is said before anything is imported."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..model.gpt import GPT
from ..tokenizer import Tokenizer
from .benchmarks import is_local_task

if TYPE_CHECKING:
    from .scores import Score, Units


def require_lm_eval(tasks: Sequence[str]) -> None:
    """Raises ValueError when there are tasks, and lm-eval is not installed."""
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            f"lm_eval_tasks has {', '.join(tasks)}, but lm-eval is not installed: pip install -e '.[eval]', "
            "or leave lm_eval_tasks empty"
        )


def lm_eval_scores(
    name: str, model: GPT, tokenizer: Tokenizer, tasks: Sequence[str], *, batch_tokens: int, limit: int | None
) -> tuple[list[Units], list[Score]]:
    """What the model called `name` scores in tasks of lm-eval; see harness.py. Nothing without tasks."""
    if not tasks:
        return [], []
    quiet_hub(tasks)
    from .harness import measured_by, run_tasks  # five seconds of imports, which must see the environment

    return measured_by(run_tasks(model, tokenizer, tasks, batch_tokens=batch_tokens, limit=limit), name)


def quiet_hub(tasks: Sequence[str]) -> None:
    """Keeps Hugging Face's libraries from calling home, and from the network where all tasks are files."""
    os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})
    if all(is_local_task(task) for task in tasks):
        os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
