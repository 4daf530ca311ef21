"""Why a stage would run, when it has many inputs of one kind."""

from __future__ import annotations

from pathlib import Path

from llm.counts import Counts
from tasks.core.fingerprint import Code, Key
from tasks.core.session import differences
from tasks.core.store import Store


def key(*digests: str) -> Key:
    inputs = [{"stage": "pretrain", "fingerprint": f"f{digest}", "digest": digest} for digest in digests]
    return Key("scaling", 1, {"seed": 0}, inputs, Code("", {}))


def test_inputs_of_one_stage_are_compared_as_a_set(tmp_path: Path) -> None:
    store, before = Store(tmp_path), key("a", "b", "c")
    made = store.commit(store.new_out_dir("scaling", before.fingerprint), before, Counts("runs", 3, 3), provenance={})
    assert differences(before, made) == []
    assert differences(key("a", "x", "y"), made) == ["input pretrain has changed"]
