"""The command line: `python -m flows`. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from tasks.core import workspace

app = typer.Typer(
    help="Sourdough: a language model from scratch, from web pages to an evaluated chat model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger("flows")
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)

RecipePath = Annotated[Path, typer.Argument(help="A recipe, such as conf/demo.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as pretrain.n_steps=500.")]
From = Annotated[str | None, typer.Option("--from", help="Stages before this one do not run; what is there is taken.")]
Until = Annotated[str | None, typer.Option("--until", help="Stages after this one do not run.")]
ModelFormat = Literal["hf", "gguf"]
ModelName = Annotated[
    str | None,
    typer.Argument(help="A directory, a stage, a fingerprint, champion or candidate; else the newest chat model."),
]
Temperature = Annotated[float, typer.Option(help="0 always takes the most probable token (greedy).", min=0.0)]
TopK = Annotated[int, typer.Option(help="Draw among so many of the most probable tokens; 0: all.", min=0)]
TopP = Annotated[
    float, typer.Option(help="Draw among the most probable tokens of this total probability.", min=0.0, max=1.0)
]
Force = Annotated[list[str] | None, typer.Option("--force", help="Build this stage again; may be given several times.")]


@app.callback()
def prepare(context: typer.Context) -> None:
    """Points everything at the workspace before Prefect is imported."""
    if context.invoked_subcommand != "export":  # which writes what others may be meant to read
        os.umask(0o077)
    workspace.configure()
    logging.raiseExceptions = False  # else Prefect writes a line for each record that its server does not take
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for name in ("llm", "tasks", "flows"):
        logging.getLogger(name).addHandler(handler)


@app.command()
def run(
    recipe: RecipePath, overrides: Overrides = None, from_: From = None, until: Until = None, force: Force = None
) -> None:
    """Run a recipe from end to end; what is in the store already is not built again."""
    ready = temporary_server()
    from . import pipeline, show
    from .recipe import load_recipe

    asked = load_recipe(recipe, overrides or ())
    pipeline.new_session(asked, from_stage=from_, until_stage=until, force=tuple(force or ()), execute=False)
    ready()
    show.summary(console, show.shown(console, lambda: pipeline.pipeline(asked, from_, until, tuple(force or ()))))


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage to run again.")],
    recipe: RecipePath,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Build it even if it is in the store.")] = True,
) -> None:
    """Run one stage of a recipe again; its inputs are taken from the store as they are."""
    ready = temporary_server()
    from . import pipeline, show, stages
    from .recipe import load_recipe

    asked = load_recipe(recipe, overrides or ())
    pipeline.new_session(asked, from_stage=name, execute=False)
    flow = stages.stage_flows(asked)[name]
    ready()
    show.summary(
        console, show.shown(console, lambda: flow(getattr(asked, name), str(recipe), tuple(overrides or ()), force))
    )


@app.command()
def explain(recipe: RecipePath, overrides: Overrides = None, from_: From = None, force: Force = None) -> None:
    """Say for each stage whether it would run, and because of which field, input, code or damaged file."""
    from .show import outcomes_table

    console.print(outcomes_table(explained(recipe, overrides, from_, force).outcomes))


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    hours: Annotated[float | None, typer.Option(help="Propose size and tokens for so many hours instead.")] = None,
    device: Annotated[str, typer.Option(help="Where these hours are spent: cpu, or a GPU such as h200.")] = "cpu",
) -> None:
    """Print parameters, tokens, FLOPs, memory and estimated time per stage, before anything runs."""
    from .recipe import load_recipe

    asked, session = load_recipe(recipe, overrides or ()), explained(recipe, overrides)
    if hours is not None:
        from .budget import budget_lines

        for line in budget_lines(asked, session, hours, device):
            console.print(escape(line))
        return
    from .plan import plan_table, preset_lines

    console.print(plan_table(asked, session))
    for line in preset_lines(asked, session):
        console.print(escape(line))


@app.command()
def scaling(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train a recipe's sweep of small models, and fit how the loss falls with size, tokens and compute."""
    ready = temporary_server()
    from . import show
    from .recipe import load_recipe
    from .scaling import scaling as sweep
    from .scaling_tables import result_tables

    asked = load_recipe(recipe, overrides or ())
    ready()
    made = show.shown(console, lambda: sweep(asked)).artifacts["scaling"]
    for table in result_tables(made):
        console.print()
        console.print(table)
    console.print(f"\nplot  {made.path / 'scaling.png'}\nfit   {made.path / 'fit.json'}")


@app.command()
def fields(section: Annotated[str | None, typer.Argument(help="One section, such as pretrain.")] = None) -> None:
    """Print every key of a recipe with its default and its meaning."""
    from .recipe import describe_fields

    for line in describe_fields(section):
        console.print(escape(line))


@app.command()
def chat(
    model: ModelName = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="Ask one question and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A message that says how to answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Length limit of an answer, in tokens.", min=1)] = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
) -> None:
    """Talk with a trained model; a base model continues a text instead."""
    from llm.model.generate import Sampling

    from .chat import ChatSettings, talk

    sampling = Sampling(temperature=temperature, top_k=top_k or None, top_p=top_p, seed=seed)
    talk(console, model, question, ChatSettings(sampling, system, max_tokens))


@app.command()
def classify(
    model: Annotated[str, typer.Argument(help="A classifier, named as for chat, such as classify: the newest one.")],
    file: Annotated[
        str | None,
        typer.Argument(help="Texts: JSON, JSONL, CSV, TSV, Parquet, or lines; - reads lines from standard input."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text instead of a file; may be given several times.")
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of records with the text; else that of its training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines with all probabilities.")] = False,
) -> None:
    """Label texts with a trained classifier: label, its probability and the text's beginning, a line for each."""
    from .classify import classified

    for line in classified(model, file, text or [], field, as_json=as_json):
        print(line, flush=True)


@app.command()
def serve(
    model: ModelName = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
) -> None:
    """Serve a trained model on this machine: OpenAI's API and a chat page, until Ctrl-C; a classifier at /v1/classify.

    The options say how tokens are drawn where a request does not.
    """
    from llm.config import name_problem
    from llm.model.classifier import is_classifier
    from llm.model.generate import Sampling
    from llm.serve.door import TOKEN
    from llm.serve.server import HOST, listen, run
    from tasks.core.credentials import key

    from .models import find_model, load_found, load_found_classifier

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if name is not None and (problem := name_problem(name, "-_.:/@")):
        raise ValueError(f"--name is {problem}")
    found = find_model(model)
    with listen(port) as listener:
        loaded = load_found_classifier(found, name) if is_classifier(found.path) else load_found(found, name)
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        secret = key(workspace.workspace(), "serve")
        console.print(f"model {escape(loaded.name)}\npage  {address}/?{TOKEN}={secret}\nAPI   {address}/v1")
        console.print(f"key   {secret}  (export OPENAI_API_KEY={secret})\nCtrl-C stops the server.")
        run(loaded, listener, secret, Sampling(temperature=temperature, top_k=top_k or None, top_p=top_p))
    console.print("stopped")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A model, named as for chat.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Ask both this; may be given several times.")] = None,
    temperature: Temperature = 0.7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of tables.")] = False,
) -> None:
    """Compare two models: cost, scores with intervals, answers to the same prompts."""
    from llm.model.generate import Sampling

    from . import compare as side_by_side

    sampling = Sampling(temperature=temperature, seed=seed)
    comparison = side_by_side.compare(first, second, prompt or [], sampling)
    if as_json:
        print(comparison.as_json())
    else:
        side_by_side.show(console, comparison)


@app.command()
def evaluation(
    recipe: RecipePath,
    again: Annotated[bool, typer.Option(help="Measure models again whose evaluation is in the store.")] = True,
    accept: Annotated[bool, typer.Option(help="Compare later scores with those of now.")] = False,
) -> None:
    """Judge the newest candidate against the champion, and fail when a score of the champion has fallen."""
    from llm.evaluate.history import read

    ready = temporary_server()
    from . import show
    from .evaluation import evaluation as evaluate
    from .evaluation import history_folder
    from .recipe import load_recipe

    ready()
    made = show.shown(console, lambda: evaluate(str(recipe), again, accept)).artifacts
    path = history_folder(load_recipe(recipe), made) / "history.jsonl"
    line = read(path)[-1]
    console.print(escape(f"{line['gate']}\n" if line["gate"] else "") + f"measured  {escape(line['model'])}")
    console.print(f"history   {path.with_name('history.png')}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model, named as for chat, or a classifier.")],
    out: Annotated[Path, typer.Argument(help="What to write: a folder for hf, a file for gguf.")],
    format: Annotated[ModelFormat, typer.Option(help="hf for transformers, gguf for llama.cpp.")] = "hf",
) -> None:
    """Write a trained model in the form that other programs load, with its tokenizer and chat template."""
    from llm.model.classifier import is_classifier, load_classifier
    from llm.model.export import directory_to_hf, to_gguf
    from llm.model.files import load_model
    from llm.tokenizer.tokenizer import Tokenizer

    from .models import find_model

    path = find_model(model).path
    if format == "hf":
        directory_to_hf(path, out)
    else:  # raises for a classifier
        to_gguf(load_classifier(path)[0] if is_classifier(path) else load_model(path), out, Tokenizer.load(path))
    console.print(f"{model} written to {out}")


@app.command()
def verify() -> None:
    """Hash every file of every artifact in the store; a damaged artifact ends with exit status 1."""
    from tasks.core.store import Store

    n_damaged = 0
    for stage, fingerprint, problems in Store(workspace.workspace() / "store").verify():
        n_damaged += bool(problems)
        state = f"[red]damaged[/]: {escape('; '.join(problems))}" if problems else "[green]sound[/]"
        console.print(f"{stage:>10} {fingerprint[:12]}  {state}")
    if n_damaged:
        raise ValueError(
            f"{n_damaged} damaged artifacts; remove the files that are not in a manifest: the next run that needs the "
            "others builds them again"
        )


@app.command(name="list")
def list_artifacts() -> None:
    """List the artifacts in the store, the newest of each stage first."""
    from .show import artifacts_table

    console.print(artifacts_table(all_artifacts()))


@app.command()
def dropped(
    stage: Annotated[str, typer.Argument(help="A stage that drops documents: clean, dedup, decontaminate.")] = "clean",
    reason: Annotated[str | None, typer.Option(help="Only what was dropped for this reason.")] = None,
    n: Annotated[int, typer.Option("-n", help="Documents to show for each reason.", min=1)] = 5,
) -> None:
    """Show documents that the newest artifact of a stage left out, with the reason and the text's beginning."""
    from tasks.core.store import Store

    from .show import dropped_table

    made = Store(workspace.workspace() / "store").artifacts(stage)
    if not made:
        raise ValueError(f"there is no artifact of a stage {stage!r} in the store; `python -m flows list` shows all")
    console.print(dropped_table(made[0], reason, n))


@app.command()
def track() -> None:
    """Send what MLflow has missed: artifacts that were built while it could not be reached."""
    from tasks.core.registry import replay_registrations
    from tasks.core.store import Store
    from tasks.core.tracking import Tracker, replay

    tracker, store = Tracker(), Store(workspace.workspace() / "store")
    n_sent = replay(store, tracker)
    n_registered = replay_registrations(store, tracker)
    if not tracker.on:
        raise ConnectionError(f"MLflow cannot be reached at {tracker.uri}; {n_sent} artifacts were sent before")
    console.print(f"{n_sent} artifacts sent to MLflow, {n_registered} models registered")


@app.command()
def ui(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose values fill the forms.")] = Path("conf/demo.yaml"),
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    cron: Annotated[
        str, typer.Option(help="When the evaluation runs: minute, hour, day of the month, month, day of the week.")
    ] = "0 3 * * *",
    timezone: Annotated[
        str | None, typer.Option(help="What --cron is in, such as Europe/Berlin; else this machine's time zone.")
    ] = None,
) -> None:
    """Start the Prefect UI, the MLflow UI and the deployments on this machine, until Ctrl-C."""
    from . import deploy
    from .recipe import load_recipe

    load_recipe(recipe)
    cron, timezone = deploy.checked_schedule(cron, timezone)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with deploy.servers(prefect_port, mlflow_port) as addresses:
        workspace.use_servers(addresses)
        close_killed()
        pages = {name: deploy.link(addresses[f"{name}_ui"]) for name in ("prefect", "mlflow")}
        console.print(f"Prefect UI  {pages['prefect']}\nMLflow UI   {pages['mlflow']}\nCtrl-C stops them.")
        deploy.serve(str(recipe), cron=cron, timezone=timezone)


def temporary_server() -> Callable[[], None]:
    """Starts a Prefect server for this process, if it needs one; returns what waits for it."""
    from tasks.core.prefect_server import start_temporary_server

    return start_temporary_server()


def close_killed() -> None:
    """Marks the runs whose processes were killed as ended, where the two UIs show them."""
    from tasks.core.timeline import own_flow_run
    from tasks.core.tracking import Tracker

    own_flow_run()
    Tracker().close_killed()


def explained(
    recipe: Path, overrides: list[str] | None, from_: str | None = None, force: list[str] | None = None
) -> Any:
    """Returns a session that has decided about every stage and built nothing."""
    from tasks.core.session import running

    from . import pipeline
    from .recipe import load_recipe

    asked = load_recipe(recipe, overrides or ())
    session = pipeline.new_session(asked, from_stage=from_, force=tuple(force or ()), execute=False)
    with running(session):
        pipeline.build_model(asked)
    return session


def all_artifacts() -> list[Any]:
    """Returns every artifact of the workspace."""
    from tasks.core.store import Store

    store = Store(workspace.workspace() / "store")
    return [artifact for name in store.stages() for artifact in store.artifacts(name)]


def main() -> None:
    """Runs the command line; an error that a user can mend is one message and exit status 1."""
    try:
        app()
    except SystemExit as end:
        leave(end.code)
    except (ValueError, OSError) as error:
        fail(str(error))
    except Exception as error:
        if type(error).__name__ != "StageError":
            raise
        from tasks.core.stage import TRANSIENT

        if not isinstance(error.__cause__, (ValueError, OSError, type(None), *TRANSIENT)):
            traceback.print_exception(error.__cause__)
        fail(str(error))


def fail(message: str) -> None:
    """Writes an error and leaves with status 1."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]Error[/] {escape(message)}")
    leave(1)


def leave(status: str | int | None) -> None:
    """Ends the process; at once if Prefect's server is gone: its queues would be tried for minutes."""
    timeline = sys.modules.get("tasks.core.timeline")
    if timeline and timeline.is_off() and isinstance(status, int | None):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


if __name__ == "__main__":
    main()
