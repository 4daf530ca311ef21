"""A job in several processes on this machine, started and watched by what torchrun is made of."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..process import ERROR_FILE, EXIT_FAILED, EXIT_STOPPED, ProcessLost, write_error
from .parallel import MEETING_FILE

LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
"""The network interface of this machine alone, by which its processes talk."""
SECONDS_OF_ONE_CAUSE = 2
"""Processes that fail within this time of the first one may all have failed for its reason."""


def launch(module: str, job_path: Path, work_dir: Path, n_processes: int) -> int:
    """Runs `python -m module job.json` as `n_processes` that train together; returns the exit status of `run_job`.

    SIGTERM is passed on to all of them. When one fails, the others are ended; when one was killed from outside,
    `error.json` says which. They find each other by files that only their owner reads: torch's TCP stores listen on all
    of a machine's addresses, ask for no key, and one of them is read with pickle.
    """
    run_id = uuid4().hex
    files = {name: work_dir / f"{name}-{run_id}" for name in ("agents", "processes")}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_processes,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=str(files["agents"]),
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        max_restarts=0,
    )
    os.environ |= {MEETING_FILE: str(files["processes"]), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", LOOPBACK)
    try:
        elastic_launch(config, sys.executable)("-m", module, str(job_path))
    except SignalException:
        return EXIT_FAILED if (work_dir / ERROR_FILE).exists() else EXIT_STOPPED
    except ChildFailedError as error:
        return status_of(error, work_dir, n_processes)
    finally:
        for path in files.values():
            path.unlink(missing_ok=True)
    return 0


def status_of(error: ChildFailedError, work_dir: Path, n_processes: int) -> int:
    """Returns the exit status for what became of the processes; leaves an error that names a killed one."""
    first = min(failure.timestamp for failure in error.failures.values())
    near = {rank: f.exitcode for rank, f in error.failures.items() if f.timestamp <= first + SECONDS_OF_ONE_CAUSE}
    if set(near.values()) <= {EXIT_STOPPED, -signal.SIGTERM}:  # SIGTERM: the others were ended because one has stopped
        return EXIT_STOPPED
    killed = {rank: status for rank, status in near.items() if status < 0 and status != -signal.SIGTERM}
    if killed:
        rank, status = min(killed.items())
        (work_dir / ERROR_FILE).unlink(missing_ok=True)  # of a process that then missed the killed one
        name = signal.Signals(-status).name
        write_error(work_dir, ProcessLost(f"process {rank} of {n_processes} was ended by {name}"))
    return EXIT_FAILED
