"""A job in a process of its own: writes a line a step, and ends as it is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from llm.counts import Counts
from llm.process import MetricsLog, Stopped, run_job

stopping = False


def ask_to_stop(number: int, frame: object) -> None:
    global stopping
    stopping = True


def job(values: dict[str, Any]) -> Counts:
    """Runs `n_steps` steps; `ending` says how it ends."""
    signal.signal(signal.SIGTERM, ask_to_stop)
    metrics = MetricsLog(Path(values["work_dir"]))
    for step in range(1, values["n_steps"] + 1):
        metrics.write(step, of=values["n_steps"], loss=1 / step)
        time.sleep(values.get("step_seconds", 0.0))
        if stopping:
            (Path(values["work_dir"]) / "stopped").touch()
            raise Stopped
    if values["ending"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if values["ending"] != "well":
        raise {"value": ValueError, "network": ConnectionError, "bug": KeyError}[values["ending"]]("the message")
    (Path(values["out_dir"]) / "result.txt").write_text("done")
    return Counts("steps", values["n_steps"], values["n_steps"])


if __name__ == "__main__":
    run_job(job)
