"""A job of several processes for the tests of launch: `python -m tests.llm.train.rank_for_tests job.json`."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from llm.counts import Counts
from llm.process import Stopped, run_job

RANK = int(os.environ["RANK"])


def job(values: dict[str, Any]) -> Counts:
    """Ends as the job says: the second process first, the first one as it would without it."""
    folder, ending = Path(values["work_dir"]), values["ending"]
    if RANK == 0:
        (folder / "started").touch()
        wait_for(folder / {"error": "error.json", "kill": "killed"}.get(ending, "started"))
    else:
        wait_for(folder / "started")
    if ending == "kill" and RANK == 1:
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if ending in ("error", "kill"):
        raise ValueError("the second one") if RANK == 1 else ConnectionError("the first one lost the second")
    if ending == "stop":
        raise Stopped("asked to")
    return Counts("items", RANK, RANK, {}, {})


def wait_for(path: Path) -> None:
    """Returns when a file is there."""
    while not path.exists():
        time.sleep(0.001)


if __name__ == "__main__":
    run_job(job)
