"""Two processes that train together, started once for many jobs."""

from __future__ import annotations

import faulthandler
import os
import traceback
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

import torch.distributed as dist

from llm.train.__main__ import train
from llm.train.launch import launch

N_RANKS = 2
SECONDS_FOR_A_JOB = 240


class Ranks:
    """Processes with the environment that torchrun gives to its own."""

    def __init__(self, context: ForkServerContext) -> None:
        self.store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        self.connections, self.processes = [], []
        for rank in range(N_RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, environment(rank, self.store.port)), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def train(self, job: dict[str, Any]) -> list[str | None]:
        """Trains in all processes; what went wrong in each, None for nothing."""
        for connection in self.connections:
            connection.send(job)
        return [c.recv() if c.poll(SECONDS_FOR_A_JOB) else "no answer" for c in self.connections]

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.kill()
            process.join()


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of its world; its store is that of the parent."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": N_RANKS, "LOCAL_WORLD_SIZE": N_RANKS, "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()} | {
        "MASTER_ADDR": "localhost",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def work(connection: Connection, variables: dict[str, str]) -> None:
    """Trains each job that arrives, as one of the processes."""
    os.environ |= variables
    while True:
        job = connection.recv()
        faulthandler.dump_traceback_later(SECONDS_FOR_A_JOB - 10, exit=True)  # to see where it hangs
        try:
            train(job)
            connection.send(None)
        except Exception as error:
            traceback.print_exc()
            connection.send(f"{type(error).__name__}: {error}")


def exit_with_status_of(*arguments: Any) -> None:
    """Ends this process with what `launch` returns."""
    os._exit(launch(*arguments))
