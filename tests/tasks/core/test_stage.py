"""A stage inside a flow: built once, taken from the store after that, rebuilt for a named cause."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import prefect
import pyarrow as pa
import pytest

from llm.counts import Counts
from llm.files import read_table, write_table
from tasks.core import fingerprint
from tasks.core.build import Build, WorkerLost
from tasks.core.fingerprint import file_states
from tasks.core.session import Outcome, Session, running
from tasks.core.stage import StageError
from tasks.core.store import Artifact, Store
from tests.tasks.core.toy import NumbersConfig, SquareConfig, make_stage, numbers, squares

pytestmark = pytest.mark.usefixtures("prefect_server")


class Chain:
    """numbers -> squares, as flows over one store."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.numbers = make_stage(numbers)
        self.squares = make_stage(squares, undigested=("speed.txt",), verify_inputs=True)

    def run(self, config: NumbersConfig | None = None, **options: object) -> list[Outcome]:
        session = Session(self.store, stages=("numbers", "squares"), **options)  # type: ignore[arg-type]

        def call() -> None:
            with running(session):
                made = self.numbers(config=config or NumbersConfig())
                self.squares(made, config=SquareConfig())

        if session.execute:
            prefect.flow(call, name="chain")()
        else:
            call()
        self.built = session.built
        return session.outcomes


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    return Chain(tmp_path)


def actions(outcomes: list[Outcome]) -> list[str]:
    return [outcome.action for outcome in outcomes]


def test_the_second_run_builds_nothing(chain: Chain) -> None:
    assert actions(chain.run()) == ["run", "run"]
    before = chain.built
    times = [path.stat().st_mtime_ns for path in chain.store.root.rglob("*.json")]
    assert actions(chain.run()) == ["hit", "hit"]
    assert chain.built == before
    assert [path.stat().st_mtime_ns for path in chain.store.root.rglob("*.json")] == times


def test_an_execution_field_rebuilds_nothing(chain: Chain) -> None:
    chain.run()
    assert actions(chain.run(NumbersConfig(n_workers=5))) == ["hit", "hit"]


def test_a_changed_field_rebuilds_only_what_its_output_changes(chain: Chain) -> None:
    chain.run(NumbersConfig(n=9))
    outcomes = chain.run(NumbersConfig(n=10))  # 9 is odd and dropped: the same files
    assert actions(outcomes) == ["run", "hit"]
    assert outcomes[0].reasons == ["config n: 9 -> 10"]
    outcomes = chain.run(NumbersConfig(n=11))
    assert actions(outcomes) == ["run", "run"]
    assert outcomes[1].reasons == ["input numbers has changed"]


def test_explain_says_what_would_happen_and_builds_nothing(chain: Chain) -> None:
    assert actions(chain.run(execute=False)) == ["run", "wait"]
    assert list(chain.store.root.iterdir()) == []
    chain.run()
    assert actions(chain.run(execute=False)) == ["hit", "hit"]
    outcomes = chain.run(NumbersConfig(shift=1), execute=False)
    assert (outcomes[0].reasons, outcomes[1].action) == (["config shift: 0 -> 1"], "wait")
    assert outcomes[1].reasons == ["runs if the output of numbers changes"]


def test_a_file_outside_of_the_store_counts_by_its_state(chain: Chain, tmp_path: Path) -> None:
    a, b, c = files = [tmp_path / name for name in "abc"]
    for path in (a, b):
        path.write_text("1")
    chain.numbers = make_stage(numbers, external_files=lambda config: [path for path in files if path.exists()])
    assert actions(chain.run()) == ["run", "run"]
    assert chain.built["numbers"].manifest["external_files"] == file_states([a, b])
    assert actions(chain.run()) == ["hit", "hit"]
    a.write_text("2")
    b.rename(c)
    outcomes = chain.run()
    assert actions(outcomes) == ["run", "hit"]
    assert outcomes[0].reasons == [f"file {a} has changed", f"file {b} is gone", f"file {c} is new"]


def test_a_file_that_changes_while_it_is_read_stops_the_build(chain: Chain, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1")

    def impatient(build: Build, config: NumbersConfig) -> Counts:
        file.write_text("2")
        return numbers(build, config)

    chain.numbers = make_stage(impatient, external_files=lambda config: [file])
    with pytest.raises(StageError, match="impatient: files that it reads were changed while it ran"):
        chain.run()
    assert chain.store.artifacts("impatient") == []


def test_an_input_that_the_recipe_has_not_is_no_input(chain: Chain) -> None:
    def both(build: Build, first: Artifact, second: Artifact | None, config: SquareConfig) -> Counts:
        (build.out_dir / "second.txt").write_text(str(second))
        return Counts("numbers", 1, 1)

    made = make_stage(both)

    def call() -> None:
        with running(Session(chain.store)):
            numbered = chain.numbers(config=NumbersConfig())
            chain.both = made(numbered, None, config=SquareConfig())

    prefect.flow(call, name="chain")()
    assert (chain.both.path / "second.txt").read_text() == "None"
    assert [item["stage"] for item in chain.both.manifest["inputs"]] == ["numbers"]


def test_force_builds_again(chain: Chain) -> None:
    chain.run()
    outcomes = chain.run(force=("numbers",))
    assert actions(outcomes) == ["run", "hit"]
    assert outcomes[0].reasons == ["asked for: --force"]


def test_until_ends_the_run(chain: Chain) -> None:
    assert actions(chain.run(until_stage="numbers")) == ["run"]


def test_from_takes_what_is_there(chain: Chain) -> None:
    with pytest.raises(ValueError, match="run without --from first"):
        chain.run(from_stage="squares")
    chain.run()
    assert actions(chain.run(from_stage="squares", force=("squares",))) == ["hit", "run"]


def test_a_damaged_artifact_is_named_and_built_again(chain: Chain) -> None:
    chain.run()
    digest = chain.built["numbers"].digest
    path = chain.built["numbers"].path / "numbers-00000.json"
    path.write_text(path.read_text().replace("2", "3"))
    outcomes = chain.run()
    assert actions(outcomes) == ["run", "hit"]
    assert "numbers-00000.json" in outcomes[0].reasons[0]
    assert chain.built["numbers"].digest == digest


def test_prefects_record_alone_is_no_hit(chain: Chain) -> None:
    chain.run()
    (chain.built["squares"].path / "manifest.json").unlink()
    assert actions(chain.run()) == ["hit", "run"]
    assert (chain.built["squares"].path / "manifest.json").exists()


@pytest.fixture
def code(chain: Chain, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that is all the code of numbers, in a repository of its own."""
    path = tmp_path_factory.mktemp("repository") / "llm" / "toy.py"
    path.parent.mkdir()
    path.write_text("x = 1")
    monkeypatch.setattr(fingerprint, "REPOSITORY", path.parent.parent)
    chain.numbers.modules = ["llm.toy"]
    return path


@pytest.mark.parametrize(("policy", "action"), [("rebuild", "run"), ("reuse", "hit"), ("refuse", None)])
def test_changed_code_follows_the_policy(chain: Chain, code: Path, policy: str, action: str | None) -> None:
    chain.run(until_stage="numbers")
    code.write_text("x = 22")
    options = {"on_code_change": {"numbers": policy}, "until_stage": "numbers"}
    if action is None:
        with pytest.raises(ValueError, match=r"code of llm\.toy has changed.*refuse"):
            chain.run(**options)
    else:
        outcome = chain.run(**options)[0]
        assert outcome.action == action
        assert outcome.reasons[0] == "code of llm.toy has changed"


def test_a_failed_stage_leaves_nothing_and_names_itself(chain: Chain) -> None:
    with pytest.raises(StageError, match=r"^numbers: nothing is left of 0 numbers"):
        chain.run(NumbersConfig(n=0))
    assert chain.store.artifacts("numbers") == []
    assert not list(chain.store.root.glob("numbers/.tmp*"))


def test_a_full_disk_leaves_nothing(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StageError, match=r"numbers: .*No space left on device.*free disk space"):
            chain.run()
    assert chain.store.artifacts("numbers") == []
    assert actions(chain.run()) == ["run", "run"]


def flaky(build: Build, config: NumbersConfig) -> Counts:
    """Fails twice as a killed worker does, then works."""
    tries = build.work_dir / "tries"
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    if len(tries.read_text()) < 3:
        raise WorkerLost("killed")
    (build.out_dir / "tries.json").write_text(json.dumps(len(tries.read_text())))
    return Counts("tries", 1, 1)


def test_a_lost_worker_is_tried_again_and_a_wrong_value_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(flaky)
    stage._task.retry_delay_seconds = 0
    session = Session(Store(tmp_path))

    @prefect.flow
    def run() -> None:
        with running(session):
            stage(config=NumbersConfig())

    run()
    assert session.built["flaky"].counts.n_out == 1


def test_a_stage_outside_of_a_flow_says_so() -> None:
    with pytest.raises(RuntimeError, match="outside of a session"):
        make_stage(numbers)(config=NumbersConfig())


def test_damage_in_an_input_of_training_is_found_even_if_size_and_time_are_unchanged(chain: Chain) -> None:
    chain.run(until_stage="numbers")
    source = chain.built["numbers"]
    path = source.path / "numbers-00000.json"
    times = path.stat()
    path.write_text(path.read_text().replace("2", "3"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    session = Session(chain.store)
    with running(session), pytest.raises(StageError, match=r"input numbers is damaged.*rebuild"):
        chain.squares(source, config=SquareConfig())
    assert chain.store.find("numbers", source.fingerprint) is None


def test_an_input_with_a_file_that_is_not_its_own_stops_what_would_read_it(chain: Chain) -> None:
    chain.run(until_stage="numbers")
    stranger = chain.built["numbers"].path / "numbers-00000 (conflicted copy).json"
    stranger.write_text("[1]")
    chain.squares = make_stage(squares)
    with pytest.raises(StageError, match=r"input numbers has files that it was not built with.*remove .*copy\)\.json"):
        chain.run()
    assert chain.store.artifacts("squares") == []
    assert actions(chain.run(execute=False))[0] == "hit"
    stranger.unlink()
    assert actions(chain.run()) == ["hit", "run"]
    stranger.write_text("[1]")
    assert actions(chain.run()) == ["hit", "hit"]  # nothing reads it


@pytest.mark.parametrize("how", ["flip", "bad sector"])
def test_damage_that_a_stage_meets_is_named_and_built_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Large artifacts are not hashed at every hit, so the reader may be the first to see that a page is damaged."""
    chain.numbers, chain.squares = make_stage(tables), make_stage(doubled)
    chain.run(until_stage="tables")
    whole = chain.built["tables"]
    path = whole.path / "numbers.parquet"
    monkeypatch.setattr("tasks.core.session.FULL_CHECK_BYTES", 0)
    with monkeypatch.context() as patch:
        if how == "flip":
            content, times = bytearray(path.read_bytes()), path.stat()
            content[len(content) // 4] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            cause = "has changed since it was built"
        else:
            patch.setattr("llm.files.sha256_file", bad_sector)
            patch.setattr("tests.tasks.core.test_stage.read_table", bad_sector)
            cause = r"cannot be read \(Input/output error\)"
        with pytest.raises(
            StageError, match=rf"^doubled: its input tables is damaged \(numbers\.parquet {cause}.*again"
        ):
            chain.run()
    assert chain.store.find("tables", whole.fingerprint) is None
    assert actions(chain.run()) == ["run", "run"]
    assert chain.built["tables"] == whole


def tables(build: Build, config: NumbersConfig) -> Counts:
    """Numbers in a Parquet file."""
    write_table(build.out_dir / "numbers.parquet", pa.table({"number": list(range(1000))}))
    return Counts("numbers", 1000, 1000)


def doubled(build: Build, source: Artifact, config: SquareConfig) -> Counts:
    """Reads with checksums, which see damage but know no remedy."""
    numbers = read_table(source.path / "numbers.parquet")["number"].to_pylist()
    (build.out_dir / "doubled.json").write_text(json.dumps([2 * number for number in numbers]))
    return Counts("numbers", len(numbers), len(numbers))


def bad_sector(path: Path) -> str:
    raise OSError(5, "Input/output error", str(path))


def test_an_error_over_sound_inputs_stays_as_it_is(chain: Chain) -> None:
    def broken(build: Build, source: Artifact, config: SquareConfig) -> Counts:
        raise ValueError("power must be even")

    chain.squares = make_stage(broken)
    with pytest.raises(StageError, match=r"^broken: power must be even$"):
        chain.run()
    assert [item.damage(full=True) for item in chain.store.artifacts("numbers")] == [[]]


def test_a_stage_reads_all_that_its_input_kept(chain: Chain) -> None:
    def nosy(build: Build, source: Artifact, config: SquareConfig) -> Counts:
        (source.path / "numbers-00001.json").write_text("[1]")  # comes while the stage runs
        return squares(build, source, config)

    chain.squares = make_stage(nosy, reads_all=True)
    with pytest.raises(StageError, match=r"nosy: it read 6 numbers, but numbers kept 5: .*run again"):
        chain.run()
    assert chain.store.artifacts("nosy") == []
    (chain.store.artifacts("numbers")[0].path / "numbers-00001.json").unlink()
    chain.squares = make_stage(squares, reads_all=True)
    assert actions(chain.run()) == ["hit", "run"]


def slow_numbers(build: Build, config: NumbersConfig) -> Counts:
    """Takes a moment, and notes that it ran."""
    import time

    with open(build.out_dir.parent.parent / "runs", "a") as file:
        file.write("run\n")
    time.sleep(0.3)
    (build.out_dir / "x").write_text("x")
    return Counts("numbers", 1, 1)


def test_several_that_ask_for_one_artifact_build_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.timeline.show_counts", lambda artifact: None)
    stage = make_stage(slow_numbers)
    with running(Session(Store(tmp_path))):
        key = stage.key([], NumbersConfig())
    digests: list[str] = []

    def ask() -> None:
        with running(Session(Store(tmp_path))):
            digests.append(stage._build(key, [], NumbersConfig(), None).digest)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1
    assert len(digests) == 4
    assert (tmp_path / "runs").read_text() == "run\n"


def test_an_artifact_moves_with_its_workspace(chain: Chain, tmp_path: Path) -> None:
    chain.run()
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    chain.store = Store(moved)
    assert actions(chain.run()) == ["hit", "hit"]
    assert chain.built["squares"].path.is_relative_to(moved)
    moved.rename(tmp_path)


def editing(code: Path, *, when: str) -> Callable[..., Counts]:
    """A stage like numbers during which a module is edited: before its partitions are made, or after them."""

    def numbers_of_edited_code(build: Build, config: NumbersConfig) -> Counts:
        if when == "before":
            code.write_text("x = 22")
        counts = numbers(build, config)
        code.write_text("x = 22")
        return counts

    return numbers_of_edited_code


@pytest.mark.parametrize("when", ["before", "after"])
def test_code_that_is_edited_while_a_stage_runs_makes_no_artifact(chain: Chain, code: Path, when: str) -> None:
    chain.numbers = make_stage(editing(code, when=when))
    chain.numbers.modules = ["llm.toy"]
    refused = r"its code was edited while it ran.*code of llm\.toy has changed.*run again"
    with pytest.raises(StageError, match=refused):
        chain.run()
    assert chain.store.artifacts("numbers_of_edited_code") == []
    kept = list(chain.store.root.glob("numbers_of_edited_code/.partial-*/*/*"))
    assert bool(kept) == (when == "after")  # those were made before the edit
    code.write_text("x = 1")
    with pytest.raises(StageError, match=refused):
        chain.run()


def test_a_stage_does_not_begin_with_code_that_was_edited_since_the_run_began(chain: Chain, code: Path) -> None:
    """An earlier stage runs for hours; what was undone in the meantime is not to be found in the artifact."""

    def seen(build: Build, config: NumbersConfig) -> Counts:
        (build.work_dir / "begun").touch()
        (build.out_dir / "code.txt").write_text(code.read_text())
        return Counts("numbers", 1, 1)

    def long(build: Build, config: NumbersConfig) -> Counts:
        code.write_text(edit)
        return numbers(build, config)

    chain.numbers, first = make_stage(seen), make_stage(long)
    chain.numbers.modules = ["llm.toy"]
    first.modules = []

    def call(session: Session) -> None:
        with running(session):
            chain.numbers.key([], NumbersConfig())  # as `flows run` does for all stages at its start
            first(config=NumbersConfig())
            chain.numbers(config=NumbersConfig())

    edit = "x = 22"
    with pytest.raises(StageError, match=r"seen: its code was edited.*code of llm\.toy has changed"):
        prefect.flow(call, name="chain", validate_parameters=False)(Session(chain.store, force=("long",)))
    assert not list(chain.store.root.glob("seen/.partial-*/*"))
    code.write_text("x = 1")
    edit = "x = 1"
    prefect.flow(call, name="chain", validate_parameters=False)(Session(chain.store, force=("long",)))
    assert [path.read_text() for path in chain.store.root.glob("seen/*/code.txt")] == ["x = 1"]


def test_code_that_is_edited_while_a_process_of_its_own_runs_costs_nothing(chain: Chain, code: Path) -> None:
    chain.numbers = make_stage(editing(code, when="after"), process="llm.toy")
    chain.numbers.modules = ["llm.toy"]
    assert actions(chain.run(until_stage="numbers_of_edited_code")) == ["run"]
    made = chain.built["numbers_of_edited_code"].manifest["code"]
    code.write_text("x = 1")
    assert made == dataclasses.asdict(fingerprint.code_closure(["llm.toy"]))


def test_a_lost_prefect_server_costs_the_timeline_only(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(*arguments: object, **options: object) -> None:
        raise ConnectionError("server is gone")

    monkeypatch.setattr("tasks.core.timeline.create_table_artifact", lost)
    monkeypatch.setattr("tasks.core.timeline._off", set())
    assert actions(chain.run()) == ["run", "run"]
    assert caplog.text.count("Prefect's timeline is switched off for this run (server is gone)") == 1


def test_a_forced_stage_that_gives_the_same_leaves_the_artifact_in_place(chain: Chain) -> None:
    chain.run()
    path = chain.built["numbers"].path / "numbers-00000.json"
    before = path.stat().st_ino
    assert actions(chain.run(force=("numbers",))) == ["run", "hit"]
    assert path.stat().st_ino == before
    assert chain.built["numbers"].damage(full=False) == []


def test_a_machine_without_git_builds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.core.stage import git_commit

    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_what_is_before_the_start_is_taken_though_a_file_was_touched_or_is_gone(chain: Chain, tmp_path: Path) -> None:
    def files(config: object) -> list[Path]:
        if not path.exists():
            raise ValueError("there is no file a.txt")
        return [path]

    path = tmp_path / "a.txt"
    path.write_text("1")
    chain.numbers = make_stage(numbers, external_files=files)
    chain.run()
    path.write_text("2")
    outcomes = chain.run(from_stage="squares")
    assert actions(outcomes) == ["hit", "hit"]
    assert outcomes[0].reasons == [f"file {path} has changed", "taken as it was built"]
    path.unlink()
    outcomes = chain.run(from_stage="squares")
    assert actions(outcomes) == ["hit", "hit"]
    assert outcomes[0].reasons == [f"file {path} is gone", "taken as it was built"]
    with pytest.raises(ValueError, match=r"there is no file a\.txt"):
        chain.run()
    with pytest.raises(ValueError, match="run without --from first"):
        chain.run(NumbersConfig(shift=1), from_stage="squares")
