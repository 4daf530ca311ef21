"""A bit flips in what is kept, and the next run follows: every artifact is that of an unbroken run.

In an artifact of any stage, and in what a killed build of it left: finished partitions, checkpoints, a crawl.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from llm.files import remove
from tasks.core.stage import StageError
from tasks.core.store import Artifact, Store
from tests.flows.runs import TINY_STAGES, Run, run_recipe

log = logging.getLogger(__name__)
RESUMABLE = ("clean", "dedup", "shard", "pretrain", "instruct", "finetune")
"""Stages that go on where a killed build was."""
LEFT_ALONE = {"lock", "log.txt", "job.json", "counts.json"}
"""Files in a work directory that the next build writes anew before it reads them."""


class Stopped(OSError):
    """Stands for the kill that comes when a build has done all its work."""


def leave_partial(workspace: Path, stage: str, artifact: Artifact) -> Path:
    """Removes the artifact of a stage and builds it up to where it would be committed; returns what lets it resume."""
    commit = Store.commit

    def commit_others(self: Store, out_dir: Path, key: object, *rest: object, **options: object) -> Artifact:
        if key.stage == stage:  # type: ignore[attr-defined]
            raise Stopped("stopped by the test")
        return commit(self, out_dir, key, *rest, **options)  # type: ignore[arg-type]

    remove(workspace / "store" / stage / artifact.fingerprint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "commit", commit_others)
        with pytest.raises(StageError, match="stopped by the test"):
            run_recipe(workspace)
    return Store(workspace / "store").work_dir(stage, artifact.fingerprint)


def flip(root: Path, draw: random.Random) -> str:
    """Changes one bit of one file below a directory, keeping its times; returns which."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in LEFT_ALONE and path.stat().st_size]
    path = draw.choice(sorted(files))
    content, times = bytearray(path.read_bytes()), path.stat()
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return str(path.relative_to(root))


@pytest.mark.parametrize(
    ("stages", "resumable", "n"),
    [
        pytest.param(("tokenizer", "shard"), ("clean",), 1, id="some"),
        pytest.param(TINY_STAGES, RESUMABLE, 200, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_a_run_after_a_flipped_bit_makes_the_same(
    tiny: Run, tmp_path: Path, stages: tuple[str, ...], resumable: tuple[str, ...], n: int
) -> None:
    draw, workspace = random.Random(n), tmp_path / "workspace"
    shutil.copytree(tiny.workspace, workspace)
    kept = {}
    for stage in resumable:
        kept[stage] = tmp_path / stage
        shutil.copytree(leave_partial(workspace, stage, tiny.artifacts[stage]), kept[stage])
        assert run_recipe(workspace).digests() == tiny.digests()
    where = [(stage, is_partial) for is_partial, names in ((False, stages), (True, resumable)) for stage in names]
    tried: Counter[str] = Counter()
    for number in range(max(n, len(where))):
        stage, is_partial = where[number % len(where)]
        store, fingerprint = Store(workspace / "store"), tiny.artifacts[stage].fingerprint
        root = store.path(stage, fingerprint)
        if is_partial:
            remove(root)
            root = store.work_dir(stage, fingerprint)
            shutil.copytree(kept[stage], root)
        name = flip(root, draw)
        tried[f"{stage} {'resumed' if is_partial else 'built'}"] += 1
        log.info("%d: a bit in %s of %s", number, name, root)
        assert run_recipe(workspace).digests() == tiny.digests(), (stage, is_partial, name)
        assert [damage for _, _, damage in store.verify() if damage and "provenance" not in damage[0]] == []
    log.info("%s", dict(tried))
