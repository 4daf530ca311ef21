"""Tasks of lm-eval, which is optional: what is wrong with them is said before any model is trained.

Reads neither PyTorch nor lm-eval until it has to.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path


def is_local(task: str) -> bool:
    """Returns whether a task is given by a YAML file; else it is a name that lm-eval knows."""
    return task.endswith((".yaml", ".yml"))


def task_name(path: Path) -> str:
    """Returns the name that a task's YAML file gives it; ValueError when there is no such file or no name in it."""
    if not path.is_file():
        raise ValueError(
            f"lm_eval_tasks has {str(path)!r}, but there is no such file; give a YAML file or a task's name"
        )
    found = re.search(r"^task:\s*[\"']?([^\s\"']+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"{path}: there is no line `task: NAME`, which lm-eval needs")
    return found[1]


def task_files(tasks: Sequence[str]) -> list[Path]:
    """Returns the files of tasks that are files, and what lies beside them: their data, if it is theirs."""
    folders = dict.fromkeys(Path(task).parent for task in tasks if is_local(task))
    return [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ValueError for tasks that cannot be run, naming the task and why.

    A file is not there or has no name in it, lm-eval does not know a name, or it is not installed. To list the names it
    knows takes lm-eval some seconds.
    """
    for task in tasks:
        if is_local(task):
            task_name(Path(task))
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            f"lm_eval_tasks has {', '.join(tasks)}, but lm-eval is not installed: pip install -e '.[eval]', "
            "or leave lm_eval_tasks empty"
        )
    for task in tasks:
        if not is_local(task) and task not in _known_names():
            near = "".join(f"; did you mean {match}?" for match in difflib.get_close_matches(task, _known_names(), n=1))
            raise ValueError(f"lm_eval_tasks has {task!r}, which lm-eval does not know{near}")


@functools.cache
def _known_names() -> frozenset[str]:
    quiet_hub([""])
    from lm_eval.tasks import TaskManager

    return frozenset(TaskManager().all_tasks)


def quiet_hub(tasks: Sequence[str]) -> None:
    """Keeps Hugging Face's libraries from calling home, and from the network where all tasks are files."""
    os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})
    if all(is_local(task) for task in tasks):
        os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
