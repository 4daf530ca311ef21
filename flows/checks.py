"""What can be wrong with the files that a recipe brings, found before anything runs: they are needed hours later."""

from __future__ import annotations

from llm.data.instruct.sources import check_sources
from llm.data.json_records import record_files
from llm.data.labelled import read_labelled
from llm.data.pairs import read_pairs
from llm.data.questions import read_questions
from llm.evaluate.benchmarks import check_benchmarks

from .recipe import Recipe


def check_files(recipe: Recipe) -> None:
    """Reads benchmarks, instruction data, pairs, questions and labelled texts; ValueError with file, line and field."""
    check_benchmarks(recipe.evaluate)
    if recipe.instruct:
        check_sources(recipe.instruct)
    if recipe.reference:
        read_pairs(record_files("reference", recipe.reference.files))
    if recipe.reinforce:
        read_questions(record_files("reinforce", recipe.reinforce.files))
    if recipe.classify:
        config = recipe.classify
        files = record_files("classify", config.files)
        held_out = record_files("classify", config.held_out_files) if config.held_out_files else []
        read_labelled(files, held_out, config.held_out_fraction, config.text_field, config.label_field)
