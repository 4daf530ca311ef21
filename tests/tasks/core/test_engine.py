"""Partitions: same bytes however many workers, whole or absent, not done twice."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from llm.counts import Counts
from llm.files import remove, remove_at_once
from tasks.core.build import Build, WorkerLost
from tasks.core.engine import EngineConfig, Partition, run_partition
from tasks.core.fingerprint import Origin, file_states
from tasks.core.workspace import REPOSITORY


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


def winner_of(root: Path, index: int = 0, step: str = "write_square") -> Path:
    return root / "work" / step / f"{index:05d}.json"


def entries(root: Path, step: str = "write_square") -> list[str]:
    """What the folder of a step holds, with one sign for each attempt's own name."""
    return sorted(re.sub(r"\.[0-9a-f]{32}", ".*", path.name) for path in (root / "work" / step).iterdir())


def write_when_all_are_here(number: int, trace: Path, out_dir: Path, config: threading.Barrier) -> Counts:
    config.wait(30)
    return write_square(number, trace, out_dir, None)


def test_of_attempts_at_the_same_time_one_wins(tmp_path: Path) -> None:
    """As on two machines whose processes have the same ids."""
    n, winner = 8, tmp_path / "work" / "write_square" / "00000.json"
    winner.parent.mkdir(parents=True)
    barrier = threading.Barrier(n)
    arguments = (write_when_all_are_here, 7, (tmp_path / "trace",), barrier, winner, Origin())
    threads = [threading.Thread(target=run_partition, args=arguments) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "trace").read_text() == "7\n" * n
    assert entries(tmp_path) == ["00000.*", "00000.json"]
    made = Partition.read(winner)
    assert made.damage() == []
    assert made.counts.n_out == 1


@pytest.mark.parametrize("how", ["flip", "cut", "gone", "winner", "no folder"])
def test_damage_in_a_finished_partition_is_named_and_the_partition_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    trace = tmp_path / "trace"
    make_build(tmp_path).map(write_square, [7, 8], trace, config=None)
    whole = contents(tmp_path)
    damaged = Partition.read(winner_of(tmp_path)).folder / "square.txt"
    if how == "winner":
        winner_of(tmp_path).write_text(winner_of(tmp_path).read_text().replace('"n_out": 1', '"n_out": 2'))
    elif how == "no folder":
        damaged.unlink()
        damaged.parent.rmdir()
    elif how == "gone":
        damaged.unlink()
    else:
        times = damaged.stat()
        damaged.write_text({"flip": "59", "cut": "4"}[how])
        os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    remove(tmp_path / "out")
    assert make_build(tmp_path).map(write_square, [7, 8], trace, config=None).n_out == 2
    assert contents(tmp_path) == whole
    assert sorted(trace.read_text().split()) == ["7", "7", "8"]
    assert str(winner_of(tmp_path) if how == "winner" else damaged.parent) in caplog.text
    remove(tmp_path / "out")
    make_build(tmp_path).map(write_square, [7, 8], trace, config=None)
    assert len(trace.read_text().split()) == 3
    assert entries(tmp_path) == ["00000.*", "00000.json", "00001.*", "00001.json"]


ZOMBIE = """
import sys, time; from pathlib import Path
from llm.counts import Counts
from tasks.core.engine import run_partition
from tasks.core.fingerprint import Origin
def write(number, out_dir, config):
    (out_dir / "a.txt").write_text("49")
    print(out_dir, flush=True)
    sys.stdin.readline()
    (out_dir / "square.txt").write_text("49")
    (out_dir / "a.txt").unlink()
    return Counts("numbers", 1, 1, figures={"sum": number})
run_partition(write, 7, (), None, Path(sys.argv[1]), Origin())
"""


@pytest.mark.parametrize("signals", [(signal.SIGSTOP, signal.SIGCONT), (signal.SIGKILL,)], ids=["stopped", "killed"])
def test_an_attempt_that_nobody_waits_for_commits_nothing_twice(
    tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    winner = winner_of(tmp_path)
    winner.parent.mkdir(parents=True)
    command = [sys.executable, "-c", ZOMBIE, str(winner)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zombie:
        assert zombie.stdin is not None
        assert zombie.stdout is not None
        folder = Path(zombie.stdout.readline().strip())
        zombie.send_signal(signals[0])
        if signals[0] == signal.SIGKILL:
            zombie.wait()
        make_build(tmp_path).map(write_square, [7], tmp_path / "trace", config=None)
        assert folder.exists() == (signals[0] == signal.SIGSTOP)  # a writer that may go on keeps its folder
        before = winner.read_bytes(), winner.stat().st_ino, contents(tmp_path)
        if signals[0] == signal.SIGSTOP:
            zombie.send_signal(signals[1])
            zombie.stdin.write("\n")
            zombie.stdin.close()
            assert zombie.wait(30) == 0
        assert (winner.read_bytes(), winner.stat().st_ino, contents(tmp_path)) == before
    assert entries(tmp_path) == ["00000.*", "00000.json"]
    assert Partition.read(winner).damage() == []


def test_an_attempt_that_goes_on_after_the_artifact_is_there_leaves_nothing(tmp_path: Path) -> None:
    winner = winner_of(tmp_path)
    winner.parent.mkdir(parents=True)
    command = [sys.executable, "-c", ZOMBIE, str(winner)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as zombie:
        assert zombie.stdout is not None
        zombie.stdout.readline()
        remove_at_once(tmp_path / "work", tmp_path / ".tmp-1")
        _, error = zombie.communicate("\n", timeout=30)
        assert zombie.returncode == 1
    assert "FileNotFoundError" in error
    assert list(tmp_path.iterdir()) == []


def test_a_partition_of_other_outside_files_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, trace = tmp_path / "list.txt", tmp_path / "trace"
    for text in ("one", "two"):
        file.write_text(text)
        build = make_build(tmp_path / "build")
        build.origin = Origin(external_files=file_states([file]))
        build.map(write_square, [7], trace, config=None)
        remove(tmp_path / "build" / "out")
    assert trace.read_text() == "7\n7\n"
    assert "was made with other code or other files" in caplog.text
    file.write_text("one")
    with pytest.raises(ValueError, match=rf"files that it reads were changed while it ran: {file}; run again"):
        build.map(write_square, [7, 8], trace, config=None)
    assert trace.read_text() == "7\n7\n"


DRIVER = """
import sys; from pathlib import Path
from llm.toy import write
from tasks.core.build import Build
from tasks.core.engine import EngineConfig, Partition, run_partition
from tasks.core.fingerprint import Origin, file_states
from tasks.core.workspace import REPOSITORY
from tasks.core.fingerprint import Origin, code_closure
root = Path(sys.argv[1])
(root / "out").mkdir(parents=True)
origin = Origin(("llm.toy",), code_closure(["llm.toy"]))
print("begun", flush=True)
sys.stdin.readline()
build = Build(root / "out", root / "work", EngineConfig(n_workers=2), lambda *_: None, origin)
build.map(write, [1, 2], config=None)
"""
TOY = """
from llm.counts import Counts

def write(number, out_dir, config):
    from llm.toy_text import TEXT
    (out_dir / "text.txt").write_text(TEXT)
    return Counts("numbers", 1, 1)
"""


def test_workers_with_other_code_than_asked_for_refuse_to_work(tmp_path: Path) -> None:
    """Code is edited after a run has begun, before its workers load it; so would a machine with other code."""
    copy = tmp_path / "copy"
    for name in ("llm", "tasks"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "llm/toy.py").write_text(TOY)
    text = copy / "llm/toy_text.py"

    def run(edited: str) -> tuple[int, str]:
        text.write_text("TEXT = 'as asked'")
        pipe, command = subprocess.PIPE, [sys.executable, "-c", DRIVER, str(tmp_path / "build")]
        with subprocess.Popen(command, cwd=copy, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as driver:
            assert driver.stdout is not None
            driver.stdout.readline()
            text.write_text(f"TEXT = '{edited}'")
            _, error = driver.communicate("\n", timeout=60)
        return driver.returncode, error

    status, error = run("edited")
    assert status == 1
    assert "code of llm.toy_text has changed" in error
    assert str(copy) in error
    assert not list((tmp_path / "build" / "work" / "write").iterdir())
    remove(tmp_path / "build" / "out")
    assert run("as asked") == (0, "")
    assert set(contents(tmp_path / "build").values()) == {"as asked"}


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
