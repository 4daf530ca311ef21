"""The servers and deployments of `make ui`: everything on 127.0.0.1, in this workspace."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import tzlocal
from cronsim import CronSim, CronSimError

from llm.files import remove, write_json
from llm.serve.door import TOKEN
from llm.serve.server import listen
from tasks.core.credentials import key
from tasks.core.server import Server
from tasks.core.workspace import HOST, SERVERS_FILE, workspace

from .front import front, opened, serving

PAGES = "pages"
"""Purpose of the key that opens the UIs to a browser."""


@contextlib.contextmanager
def servers(prefect_port: int, mlflow_port: int) -> Iterator[dict[str, str]]:
    """Runs Prefect's and MLflow's server, and the front to their pages, for the length of the block.

    Yields the addresses: `prefect` and `mlflow` for programs that have the keys, `prefect_ui` and `mlflow_ui` for
    browsers. Other commands of this workspace find them through a file in it and send their runs there.
    """
    root = workspace()
    with contextlib.ExitStack() as stack:
        listeners = {
            name: stack.enter_context(listening(port, f"--{name}-port"))
            for name, port in {"prefect": prefect_port, "mlflow": mlflow_port}.items()
        }
        started = {name: stack.enter_context(Server(name, root)) for name in listeners}
        for server in started.values():
            server.wait()
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        backends = {ports[name]: opened(started[name].address, key(root, name)) for name in ports}
        stack.enter_context(serving(front(backends, key(root, PAGES)), list(listeners.values())))
        addresses = {name: server.address for name, server in started.items()}
        addresses |= {f"{name}_ui": f"http://{HOST}:{port}" for name, port in ports.items()}
        write_json(root / SERVERS_FILE, addresses)
        stack.callback(remove, root / SERVERS_FILE)
        yield addresses


def link(address: str) -> str:
    """Returns the link that opens the pages at an address to the browser that follows it."""
    return f"{address}/?{TOKEN}={key(workspace(), PAGES)}"


def listening(port: int, option: str) -> socket.socket:
    """Returns a socket on a port for a page; raises ValueError, naming the option, when it is in use."""
    try:
        return listen(port)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


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
            "pipeline",
            parameters={"recipe": dataclasses.asdict(recipe), "base": recipe_path},
            entrypoint_type=kind,
            tags=["pipeline"],
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
                "sweep",
                parameters={"recipe": dataclasses.asdict(recipe), "base": recipe_path},
                entrypoint_type=kind,
                tags=["scaling"],
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
