"""Several processes for one job: how they end becomes one exit status and one error."""

from pathlib import Path

import pytest

from llm.files import read_json, write_json
from tests.llm.train.ranks import exit_with_status_of


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("well", 0, None),
        ("stop", 3, None),
        ("error", 1, ("ValueError", "the second one")),
        ("kill", 1, ("ProcessLost", "process 1 of 2 was ended by SIGKILL")),
    ],
)
def test_the_first_failure_is_the_one_that_is_told(ending, status, error, forkserver, tmp_path):
    write_json(tmp_path / "job.json", {"work_dir": str(tmp_path), "ending": ending})
    write_json(tmp_path / "error.json", {"kinds": ["left by an earlier try"], "message": ""})
    arguments = ("tests.llm.train.rank_for_tests", tmp_path / "job.json", tmp_path, 2)
    process = forkserver.Process(target=exit_with_status_of, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == status
    found = read_json(tmp_path / "error.json") if (tmp_path / "error.json").exists() else None
    assert (found and (found["kinds"][0], found["message"])) == error
    assert (tmp_path / "counts.json").exists() == (status == 0)
    if status == 0:
        assert read_json(tmp_path / "counts.json")["n_in"] == 0  # those of the first process


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc to see who listens")
def test_nobody_on_another_machine_can_join(forkserver, tmp_path):
    """What torch listens on by itself is open to all machines and asks for no key."""
    write_json(tmp_path / "job.json", {"work_dir": str(tmp_path), "ending": "listen"})
    arguments = ("tests.llm.train.rank_for_tests", tmp_path / "job.json", tmp_path, 2)
    process = forkserver.Process(target=exit_with_status_of, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    found = {address for rank in (0, 1) for address in read_json(tmp_path / f"listening-{rank}.json")}
    assert found == {"0100007F"}  # 127.0.0.1
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(("agents-", "processes-"))]
