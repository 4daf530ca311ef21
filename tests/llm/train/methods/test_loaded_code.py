"""What a training process has loaded by its end is in the key of its stage: nothing that it runs hides."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from llm.files import read_json, write_json
from tasks.core.fingerprint import code_closure, module_path
from tasks.core.workspace import REPOSITORY
from tests.llm.train.method_jobs import (
    classify_job,
    make_reference,
    prefer_job,
    reference_job,
    reinforce_job,
    write_labelled,
    write_pairs,
    write_questions,
)
from tests.llm.train.train_materials import Materials, tiny_job

RUN = """
import json, runpy, sys
try:
    runpy.run_module("llm.train", run_name="__main__", alter_sys=True)
finally:
    loaded = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
    with open(sys.argv[2], "w") as file:
        json.dump([name for name in loaded if name.split(".")[0] == "llm"], file)
"""
KINDS = ("pretrain", "finetune", "reference", "prefer", "reinforce", "classify")


def loaded_by(job: dict[str, object], folder: Path) -> set[str]:
    """Runs a job as a process of its own; returns the modules of `llm` that it has loaded and that hold code."""
    write_json(folder / "job.json", job)
    command = [sys.executable, "-c", RUN, str(folder / "job.json"), str(folder / "loaded.json")]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return {name for name in read_json(folder / "loaded.json") if holds_code(name)}


def holds_code(module: str) -> bool:
    path = module_path(module)
    return path is not None and len(ast.parse(path.read_text()).body) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_method_loads_is_in_its_key(kind: str, materials: Materials, tmp_path: Path) -> None:
    def job_of(kind: str) -> dict[str, object]:
        if kind in ("pretrain", "finetune"):
            return tiny_job(materials, tmp_path, kind, n_steps=2)
        if kind == "classify":
            return classify_job(tmp_path, materials, write_labelled(tmp_path), n_steps=2)
        if kind == "reinforce":
            return reinforce_job(tmp_path, materials, write_questions(tmp_path), n_steps=2)
        if kind == "reference":
            return reference_job(tmp_path, materials, write_pairs(tmp_path))
        return prefer_job(tmp_path, materials, make_reference(tmp_path, materials), n_steps=2)

    method = f"llm.train.methods.{kind}"
    key = set(code_closure(["llm.train", "llm.train.__main__", method]).modules)
    loaded = loaded_by(job_of(kind), tmp_path)
    assert {method, "llm.train.loop" if kind != "reference" else "llm.model.gpt"} <= loaded
    assert loaded <= key
    others = {f"llm.train.methods.{other}" for other in KINDS if other != kind}
    assert not others & loaded
