"""What the stages say of themselves: the files that they read, how these are checked, what they make."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import PIPELINE, check_files, stages_by_section, stages_of
from flows.recipe import Recipe, load_recipe
from llm.data.clean.clean import CleanConfig
from llm.data.decontaminate.decontaminate import DecontaminateConfig
from llm.train.methods.config import ClassifyConfig, ReferenceConfig, ReinforceConfig
from tasks.core.stage import training
from tests.tasks.core.toy import make_stage, numbers


def files(stage: str, config: Any) -> list[Path]:
    return list(PIPELINE[stage].options.external_files(config))


def test_every_stage_names_the_files_that_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    assert files("clean", CleanConfig()) == []
    assert files("clean", CleanConfig(blocked_urls_file=str(path))) == [path]
    assert files("decontaminate", DecontaminateConfig(benchmarks=(str(path),))) == [path]
    assert files("reference", ReferenceConfig(files=(str(path),))) == [path]
    assert files("reinforce", ReinforceConfig(files=(str(path),))) == [path]
    assert files("classify", ClassifyConfig(files=(str(path),), held_out_files=(str(path),))) == [path]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clean.blocked_urls_file=none.txt", "blocked_urls_file is 'none.txt', but there is no such file"),
        ("decontaminate.benchmarks=[none.jsonl]", "none.jsonl"),
        ("evaluate.benchmarks=[none.jsonl]", "none.jsonl"),
        ("reference={files: [none.jsonl]}", "reference.files has 'none.jsonl', but there is no such file"),
        ("reinforce={files: [none.jsonl]}", "reinforce.files has 'none.jsonl', but there is no such file"),
        ("classify={files: [none.jsonl]}", "classify.files has 'none.jsonl', but there is no such file"),
    ],
)
def test_files_are_checked_before_anything_runs(override: str, message: str) -> None:
    more = ["prefer={}"] if override.startswith("reference") else []
    with pytest.raises(ValueError, match=message):
        check_files(load_recipe("conf/demo.yaml", [override, *more]))


def test_the_stages_that_make_models_say_so() -> None:
    made = {name: stage.options.makes for name, stage in PIPELINE.items() if stage.options.makes}
    chat = dict.fromkeys(("finetune", "prefer", "reinforce"), "chat")
    assert made.items() >= {"pretrain": "base", **chat, "classify": "classifier"}.items()
    assert all(PIPELINE[name].options.label for name in made)


def test_the_stages_that_read_their_whole_input_say_so() -> None:
    names = ["clean", "dedup", "decontaminate", "tokenizer", "shard"]
    assert [name for name, stage in PIPELINE.items() if stage.options.reads_all] == names


def test_a_stage_without_its_section_in_the_recipe_is_an_error() -> None:
    assert list(stages_by_section(PIPELINE)) == list(PIPELINE)
    with pytest.raises(TypeError, match="stage numbers needs a section numbers: NumbersConfig in Recipe"):
        stages_by_section({"numbers": make_stage(numbers), **PIPELINE})


def test_stages_stand_in_the_order_of_the_pipeline() -> None:
    from flows.pipeline import build_model, new_session
    from tasks.core.session import running

    recipe: Recipe = load_recipe("conf/demo.yaml")
    sections = {name: made.config_class() for name, made in PIPELINE.items() if name not in ("crawl", "ingest")}
    recipe = dataclasses.replace(recipe, **sections)  # type: ignore[arg-type]
    session = new_session(recipe, execute=False)
    session.external_files = lambda stage, states: {}  # type: ignore[method-assign]
    with running(session):
        build_model(recipe)
    assert [outcome.stage for outcome in session.outcomes] == list(stages_of(recipe))
    assert set(PIPELINE) - set(stages_of(recipe)) == {"ingest"}


def test_a_stage_that_trains_has_to_say_what_it_makes() -> None:
    with pytest.raises(TypeError, match="makes"):
        training(version=1)  # type: ignore[call-arg]
    assert PIPELINE["reference"].options.makes is None
