"""Which data module reaches which: what a change of one can run again."""

from __future__ import annotations

import functools

import grimp
import pytest


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("llm", include_external_packages=False)  # also imports in functions and for types only


def closure(*modules: str) -> set[str]:
    found = set(modules)
    return found.union(*(graph().find_upstream_modules(module) for module in modules))


def test_no_data_modules_import_each_other_in_a_circle() -> None:
    modules = [name for name in graph().modules if name.startswith("llm.data.")]
    assert len(modules) > 50
    assert [name for name in modules if name in graph().find_upstream_modules(name)] == []
    assert "llm.data.web.config" in closure("llm.data.web.spider")


@pytest.mark.parametrize(
    ("stage", "foreign"),
    [
        ("web.crawl", {"clean.language", "html.mojibake", "clean.extract", "clean.clean", "common.texts"}),
        ("sources.ingest", {"common.warc_read", "clean.clean", "clean.language"}),
        ("clean.clean", {"common.warc_write", "web.crawl", "dedup.dedup"}),
        ("instruct.split", {"common.warc_write", "clean.language", "dedup.minhash", "clean.clean"}),
        ("instruct.definitions", {"common.warc_write", "clean.language", "clean.extract", "clean.clean"}),
    ],
)
def test_a_stage_does_not_reach_the_code_of_another(stage: str, foreign: set[str]) -> None:
    names = {f"llm.data.{name}" for name in foreign}
    assert names <= graph().modules, "a name is out of date"
    assert names.isdisjoint(closure(f"llm.data.{stage}"))
