"""The servers and deployments of `make ui`: everything on 127.0.0.1, in this workspace."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import tzlocal
from cronsim import CronSim, CronSimError

from llm.files import remove, write_json
from llm.process import die_with_parent
from tasks.core.workspace import SERVERS_FILE, answers, workspace

HOST = "127.0.0.1"
START_SECONDS = 120


@contextlib.contextmanager
def servers(prefect_port: int, mlflow_port: int) -> Iterator[dict[str, str]]:
    """Runs Prefect's and MLflow's server for the length of the block; yields their addresses by name.

    Other commands of this workspace find them through a file in it and send their runs there.
    """
    root = workspace()
    addresses = {"prefect": f"http://{HOST}:{prefect_port}", "mlflow": f"http://{HOST}:{mlflow_port}"}
    environment = {
        **os.environ,
        "PREFECT_API_URL": addresses["prefect"] + "/api",
        "PREFECT_SERVER_UI_API_URL": addresses["prefect"] + "/api",
        # Into its log file: a scheduler that fails says so nowhere else.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        # No other web page may drive our flows.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{addresses['prefect']},http://localhost:{prefect_port}",
    }
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"]
    mlflow += ["--artifacts-destination", str(root / "mlflow" / "artifacts")]
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)]
    with contextlib.ExitStack() as stack:
        for name, command in {"mlflow": mlflow, "prefect": prefect}.items():
            if answers(addresses[name] + health(name)):
                raise ValueError(
                    f"something already answers at {addresses[name]}; stop it or give another --{name}-port"
                )
            stack.enter_context(process(command, environment, root / f"{name}-server.log"))
        for name, address in addresses.items():
            wait_for(address + health(name), name, str(root / f"{name}-server.log"))
        write_json(root / SERVERS_FILE, addresses)
        stack.callback(remove, root / SERVERS_FILE)
        yield addresses


def health(name: str) -> str:
    """Returns the path at which a server says that it is ready."""
    return {"prefect": "/api/health", "mlflow": "/health"}[name]


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: Any) -> Iterator[None]:
    """Runs a command for the length of the block, its output in a file."""
    end_with_us = die_with_parent if sys.platform == "linux" else None
    with open(log, "ab") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output, preexec_fn=end_with_us)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(url: str, name: str, log: str) -> None:
    """Waits until a server answers; raises TimeoutError naming its log."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the {name} server does not answer at {url} after {START_SECONDS} s; see {log}")
        time.sleep(0.3)


def checked_schedule(cron: str, timezone: str | None) -> tuple[str, str]:
    """Returns when the evaluation runs as cron fields, and the time zone that they are in: None is this machine's.

    Raises ValueError for what is none. Prefect says so too, but only when its server runs.
    """
    try:
        CronSim(cron, datetime.now())
    except CronSimError as error:
        raise ValueError(
            f"--cron is {cron!r} ({error}); it has five fields (minute, hour, day of the month, month, day of the "
            "week), such as '0 3 * * *' for three o'clock each night"
        ) from error
    try:
        name = timezone or tzlocal.get_localzone_name()
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        wrong = f"--timezone is {timezone!r}" if timezone else "the time zone of this machine has no name"
        raise ValueError(f"{wrong} ({error}); give one by its IANA name, such as --timezone Europe/Berlin") from error
    return cron, name


def deployments(recipe_path: str, cron: str, timezone: str) -> list[Any]:
    """Returns the pipeline, one deployment per stage, and the evaluation, with a recipe's values in their forms.

    And the sweep, for a recipe that has one. The evaluation runs by schedule, and when there is a new candidate.
    """
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from .evaluation import evaluation
    from .pipeline import pipeline
    from .recipe import load_recipe
    from .registration import CANDIDATE_EVENT, resource_id
    from .scaling import scaling
    from .stages import stage_flows

    recipe = load_recipe(recipe_path)
    kind = EntrypointType.MODULE_PATH
    candidate = DeploymentEventTrigger(
        name=f"evaluate a new candidate of {recipe.name}",
        expect={CANDIDATE_EVENT},
        match={"prefect.resource.id": resource_id(f"sourdough-{recipe.name}-*")},
        parameters={"recipe": recipe_path, "again": False},
    )
    made: list[Any] = [
        pipeline.to_deployment(
            "pipeline", parameters={"recipe": dataclasses.asdict(recipe)}, entrypoint_type=kind, tags=["pipeline"]
        ),
        evaluation.to_deployment(
            "scheduled",
            schedule=Cron(cron, timezone=timezone),
            triggers=[candidate],
            parameters={"recipe": recipe_path},
            entrypoint_type=kind,
            tags=["evaluation"],
        ),
    ]
    if recipe.scaling:
        made.append(
            scaling.to_deployment(
                "sweep", parameters={"recipe": dataclasses.asdict(recipe)}, entrypoint_type=kind, tags=["scaling"]
            )
        )
    for name, flow in stage_flows(recipe).items():
        values = {"config": dataclasses.asdict(getattr(recipe, name)), "recipe": recipe_path}
        made.append(flow.to_deployment("stage", parameters=values, entrypoint_type=kind, tags=["stage"]))
    return made


def serve(recipe_path: str, *, cron: str, timezone: str, limit: int = 2) -> None:
    """Registers the deployments and runs what is triggered, until interrupted."""
    import prefect

    prefect.serve(*deployments(recipe_path, cron, timezone), limit=limit, print_starting_message=False)
