"""What decides a result, and that methods stand apart from each other."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm.files import read_json, sha256_file
from llm.model.files import WEIGHTS_FILE
from llm.tokenizer.tokenizer import TOKENIZER_FILE
from llm.train.__main__ import train
from llm.train.loader import files_digest
from llm.train.methods.start import samples_page
from tests.llm.train.method_jobs import classify_job, make_reference, prefer_job, write_labelled
from tests.llm.train.train_materials import tiny_job

METHODS = ("pretrain", "finetune", "reference", "prefer", "reinforce", "classify")
FOLDER = Path(__file__).parents[4] / "llm" / "train" / "methods"


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "prefer", "classify"])
def test_the_config_of_a_model_says_what_decided_it(kind, materials, tmp_path):
    if kind == "pretrain":
        job, data = tiny_job(materials, tmp_path, n_steps=1), None
    elif kind == "finetune":
        job = tiny_job(materials, tmp_path, kind, n_steps=1)
        data = files_digest([materials.examples_dir / f"{name}.parquet" for name in ("train", "val")])
    elif kind == "prefer":
        reference = make_reference(tmp_path, materials)
        job = prefer_job(tmp_path, materials, reference, n_steps=1)
        data = files_digest([reference / f"{name}.parquet" for name in ("train", "val")])
    else:
        labelled = write_labelled(tmp_path)
        job = classify_job(tmp_path, materials, labelled, n_steps=1, random_baseline=False)
        data = files_digest([labelled])
    train(job)
    training = read_json(tmp_path / "out" / "config.json")["training"]
    plain = {name: value for name, value in training.items() if "." not in name}
    assert training["kind"] == kind
    assert training["tokenizer"] == sha256_file(materials.tokenizer_dir / TOKENIZER_FILE)
    assert training["loop.precision"] in ("float32", "bfloat16")
    assert training.get("base") == (None if kind == "pretrain" else sha256_file(materials.base_dir / WEIGHTS_FILE))
    assert ("loop.compile" in training, training["loop.compile"]) == (True, False if kind == "pretrain" else None)
    assert data is None or training["data"] == data
    assert not [name for name in plain if name.endswith("_dir")], "no folder of this machine"
    assert training["loop.seed"] == 0
    assert "loop.n_threads" not in training


def test_no_module_of_training_imports_a_method():
    """So that what changes in one method is in no other's closure."""
    users = {}
    for path in [*FOLDER.glob("*.py"), *FOLDER.parent.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in METHODS:
                users.setdefault(node.module, set()).add(path.stem)
    assert all((FOLDER / f"{method}.py").exists() for method in METHODS)
    assert users == {}


def test_configs_are_read_without_torch():
    modules = "llm.train.config, llm.train.methods.config, llm.train.resolve, llm.scaling.config"
    code = f"import sys, json, {modules}; print(json.dumps('torch' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=FOLDER.parents[2])
    assert json.loads(found.stdout) is False


def test_samples_are_shown_as_they_are():
    page = samples_page(
        [
            {"step": 0, "prompt": "# a", "text": "b\n\nc"},
            {"step": 0, "prompt": "d", "text": ""},
            {"step": 5, "prompt": "e", "text": "f"},
        ]
    )
    assert page == (
        "# Samples\n\n## Step 0\n\nPrompt:\n\n    # a\n\nText:\n\n    b\n    \n    c\n\n"
        "Prompt:\n\n    d\n\nText:\n\n    \n\n## Step 5\n\nPrompt:\n\n    e\n\nText:\n\n    f\n"
    )
