"""A chat model out of instruction data in a file, by overrides alone; wrong data stops the run before it begins."""

import json
import shutil
from pathlib import Path

import pytest

from llm.files import read_table
from llm.model.lora import ADAPTER_FILE
from tests.flows.runs import Run, run_recipe


def overrides(path: Path, *more: str) -> list[str]:
    return [f"instruct.sources=[{{kind: alpaca, path: {path}}}]", "finetune.n_steps=2", *more]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [{"instruction": f"What is {i}?", "input": "", "output": f"It is {i}."} for i in range(40)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    return tmp_path / "data.json"


def test_a_file_makes_a_chat_model_with_adapters_and_replay(tiny: Run, tmp_path: Path, data: Path) -> None:
    shutil.copytree(tiny.workspace, tmp_path / "workspace")
    changes = overrides(data, "finetune.lora={rank: 2}", "finetune.replay=0.25")
    run = run_recipe(tmp_path / "workspace", *changes, from_stage="instruct")
    examples, chat = run.artifacts["instruct"], run.artifacts["finetune"]
    assert (examples.counts.n_in, examples.counts.n_out) == (40, 40)
    assert list(examples.manifest["external_files"]) == [str(data)]
    assert not (examples.path / "benchmark.jsonl").exists()
    assert chat.counts.n_out == 32  # a fifth is held out
    assert {ADAPTER_FILE, "example.html", "example.txt"} <= {path.name for path in chat.path.iterdir()}
    assert "shard" in {source["stage"] for source in chat.manifest["inputs"]}
    names = {row["benchmark"] for row in read_table(run.artifacts["evaluate"].path / "scores.parquet").to_pylist()}
    assert names == {"held-out documents", "held-out examples"}


def test_wrong_data_stops_a_run_before_it_builds_anything(tmp_path: Path, data: Path) -> None:
    data.write_text('{"instruction": "What is it?", "output": "Rye."}\n{"instruction": "And this?"}\n')
    with pytest.raises(ValueError, match=r"data\.json, line 2: output is missing"):
        run_recipe(tmp_path / "workspace", *overrides(data))
    with pytest.raises(ValueError, match=r"there is no file .*instruct\.sources\.0\.path=FILE"):
        run_recipe(tmp_path / "workspace", *overrides(tmp_path / "gone.json"))
    assert not (tmp_path / "workspace" / "store").exists()
