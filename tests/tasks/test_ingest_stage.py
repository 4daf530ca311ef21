"""The ingest stage's partitions in a real build: a kill costs the partition it hit, workers never change a byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.engine import Partition
from tasks.core.workspace import REPOSITORY

N_FILES = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSONL files that take a while to read."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(N_FILES):
        lines = [json.dumps({"text": f"{number} {line} " + "bread " * 40}) for line in range(6000)]
        (folder / f"{number}.jsonl").write_text("\n".join([*lines, "broken"]))
    return folder


def start(data: Path, root: Path, n_workers: int = 1) -> subprocess.Popen[bytes]:
    """The build as a process of its own."""
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.tasks.ingest_job", str(data), str(root), str(n_workers)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)


def finish(data: Path, root: Path, n_workers: int = 1) -> dict[str, bytes]:
    """The files of the artifact after a build that ran to its end."""
    output, _ = start(data, root, n_workers).communicate(timeout=60)
    assert output == b"48000\n"
    return {path.name: path.read_bytes() for path in sorted((root / "out").iterdir())}


def finished(root: Path) -> dict[str, int]:
    """The finished partitions, each with the inode of its text file."""
    folders = [Partition.read(winner).folder for winner in root.glob("work/*/0*.json")]
    return {folder.name: (folder / "texts.parquet").stat().st_ino for folder in folders}


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The artifact of a build that nobody disturbed."""
    return finish(data, tmp_path_factory.mktemp("unbroken"))


def test_a_killed_build_goes_on_with_the_partition_it_was_in(
    data: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    child = start(data, tmp_path)
    while len(finished(tmp_path)) < 2 and child.poll() is None:
        time.sleep(0.002)
    child.kill()
    child.communicate()
    before = finished(tmp_path)
    assert 2 <= len(before) < N_FILES
    os.rmdir(tmp_path / "out")
    assert finish(data, tmp_path) == unbroken
    after = finished(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == N_FILES


def test_more_workers_give_the_same_bytes(data: Path, tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    assert finish(data, tmp_path, n_workers=2) == unbroken
