"""Partitions: same bytes however many workers, whole or absent, not done twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from llm.counts import Counts
from tasks.core.build import Build, WorkerLost
from tasks.core.engine import EngineConfig


def nothing(n_done: int, n_total: int | None, lines: list[dict[str, object]]) -> None:
    """A listener that does not listen."""


def make_build(root: Path, n_workers: int = 1, **engine: str) -> Build:
    out_dir = root / "out"
    out_dir.mkdir(parents=True, exist_ok=True)
    return Build(out_dir, root / "work", EngineConfig(n_workers=n_workers, **engine), nothing)  # type: ignore[arg-type]


def write_square(number: int, trace: Path, out_dir: Path, config: None) -> Counts:
    (out_dir / "square.txt").write_text(str(number * number))
    with open(trace, "a") as file:
        file.write(f"{number}\n")
    return Counts("numbers", 1, 1, figures={"sum": number})


def fail_at_three(number: int, trace: Path, out_dir: Path, config: None) -> Counts:
    if number == 3 and not trace.with_suffix(".mended").exists():
        raise ValueError("three is not allowed")
    return write_square(number, trace, out_dir, config)


def die(number: int, trace: Path, out_dir: Path, config: None) -> Counts:
    os.kill(os.getpid(), signal.SIGKILL)
    return Counts("numbers", 1, 1)


def contents(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((root / "out").iterdir())}


def test_one_and_four_workers_write_the_same(tmp_path: Path) -> None:
    for n_workers in (1, 4):
        root = tmp_path / str(n_workers)
        counts = make_build(root, n_workers).map(write_square, range(6), root / "trace", config=None)
        assert counts == Counts("numbers", 6, 6, figures={"sum": 15})
    assert contents(tmp_path / "1") == contents(tmp_path / "4")
    assert contents(tmp_path / "1")["square-00003.txt"] == "9"


def write_process(number: int, out_dir: Path, config: None) -> Counts:
    (out_dir / "process.txt").write_text(str(os.getpid()))
    return Counts("numbers", 1, 1)


def test_workers_stay_for_the_next_step_and_go_at_the_end(tmp_path: Path) -> None:
    build = make_build(tmp_path, 2)
    with build.keeping_workers():
        for step in (write_process, write_square):
            inputs = (tmp_path / "trace",) if step is write_square else ()
            build.map(step, range(4), *inputs, config=None)
        workers = {int(text) for name, text in contents(tmp_path).items() if name.startswith("process")}
        assert os.getpid() not in workers
        assert {child.pid for child in multiprocessing.active_children()} >= workers
    assert {child.pid for child in multiprocessing.active_children()}.isdisjoint(workers)


def test_finished_partitions_are_kept_for_the_next_try(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match="three"):
        make_build(tmp_path).map(fail_at_three, [1, 2, 3, 4], trace, config=None)
    assert contents(tmp_path) == {}
    trace.with_suffix(".mended").touch()
    assert make_build(tmp_path).map(fail_at_three, [1, 2, 3, 4], trace, config=None).n_out == 4
    assert sorted(trace.read_text().split()) == ["1", "2", "3", "4"]


def test_one_worker_stops_at_the_first_error(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match="three"):
        make_build(tmp_path).map(fail_at_three, [3, 4, 5, 6, 7, 8], trace, config=None)
    assert not trace.exists() or len(trace.read_text().split()) < 5


def test_a_killed_worker_is_an_error_that_can_be_tried_again(tmp_path: Path) -> None:
    from tasks.core.stage import TRANSIENT

    with pytest.raises(BrokenExecutor):
        make_build(tmp_path, 2).map(die, [1, 2], tmp_path / "trace", config=None)
    assert issubclass(BrokenExecutor, TRANSIENT)
    assert issubclass(WorkerLost, TRANSIENT)


@pytest.mark.filterwarnings("ignore")  # of distributed and tornado, about their own clean-up
def test_a_dask_cluster_writes_the_same(tmp_path: Path) -> None:
    from distributed import LocalCluster

    make_build(tmp_path / "here").map(write_square, range(4), tmp_path / "trace", config=None)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        build = make_build(tmp_path / "dask", kind="dask", address=cluster.scheduler_address)
        build.map(write_square, range(4), tmp_path / "trace", config=None)
    assert contents(tmp_path / "here") == contents(tmp_path / "dask")


def test_a_dask_engine_needs_an_address() -> None:
    with pytest.raises(ValueError, match=r"engine\.address"):
        EngineConfig(kind="dask")
