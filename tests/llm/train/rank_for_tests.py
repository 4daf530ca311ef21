"""A job of several processes for the tests of launch: `python -m tests.llm.train.rank_for_tests job.json`."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from llm.counts import Counts
from llm.process import Stopped, run_job
from llm.train.config import LoopConfig, ParallelConfig
from llm.train.parallel import World

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
    if ending == "listen":
        World.join(LoopConfig(parallel=ParallelConfig(n_processes=2)))
        found = listening(os.getpid()) | listening(os.getppid())
        (folder / f"listening-{RANK}.json").write_text(json.dumps(sorted(found)))
        dist.barrier()
    if ending == "stop":
        raise Stopped("asked to")
    return Counts("items", RANK, RANK, {}, {})


def listening(pid: int) -> set[str]:
    """Addresses on which a process waits for connections, as /proc writes them."""
    held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().split("\n")[1:]]
    return {row[1].partition(":")[0] for row in rows if row and row[3] == "0A" and f"socket:[{row[9]}]" in held}


def wait_for(path: Path) -> None:
    """Returns when a file is there."""
    while not path.exists():
        time.sleep(0.001)


if __name__ == "__main__":
    run_job(job)
