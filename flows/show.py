"""What the command line shows: progress while a run goes, tables when it has ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from llm.data.common.drops import sample_dropped
from llm.evaluate.metrics import PROGRESS
from llm.evaluate.scores import ANSWERS_FILE, read_lines, read_scores
from tasks.core import workspace
from tasks.core.build import Listener
from tasks.core.session import Display, Outcome
from tasks.core.store import Artifact

log = logging.getLogger("flows")
LINE_SECONDS = 10.0
"""Without a terminal, progress is a line in this time."""


class ConsoleDisplay(Display):
    """A live bar on a terminal, plain lines in a log file; remembers what there was for the summary."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.artifacts: dict[str, Artifact] = {}
        self.seconds: dict[str, float] = {}
        self.is_done = False
        columns = [
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._bar: TaskID | None = None

    def finish(self) -> None:
        """Notes that the run has done its work."""
        self.is_done = True

    def begin(self, stage: str, reasons: list[str]) -> None:
        """Prints a line that says why the stage runs, then shows its bar."""
        self.console.print(f"[bold]{stage:>10}[/]  runs: {escape('; '.join(reasons))}")
        self._bar = self._bars.add_task(stage, total=None, note="")
        if self.console.is_terminal:
            self._bars.start()

    def listener(self, stage: str) -> Listener:
        """Moves the bar; without a terminal, writes a line now and then."""
        written = time.monotonic()

        def listen(n_done: int, n_total: int | None, lines: list[dict[str, Any]]) -> None:
            nonlocal written
            note = metrics_note(lines)
            if self._bar is not None:
                self._bars.update(self._bar, completed=n_done, total=n_total)
                if note:
                    self._bars.update(self._bar, note=note)
            if not self.console.is_terminal and time.monotonic() - written > LINE_SECONDS:
                written = time.monotonic()
                self.console.print(f"{stage:>10}  {n_done} of {n_total or '?'}  {note}")

        return listen

    def end(self, outcome: Outcome, artifact: Artifact | None, seconds: float) -> None:
        """Prints a line with the result."""
        if self.console.is_terminal:
            self._bars.stop()
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        if artifact is None:
            self.console.print(f"[bold red]{outcome.stage:>10}  failed[/] after {seconds:.1f} s")
            return
        self.artifacts[outcome.stage], self.seconds[outcome.stage] = artifact, seconds
        if outcome.action == "run":
            self.console.print(f"[bold green]{outcome.stage:>10}[/]  {counts_line(artifact)}  [dim]{seconds:.1f} s[/]")
        else:
            why = f" ({escape('; '.join(outcome.reasons))})" if outcome.reasons else ""
            self.console.print(f"[dim]{outcome.stage:>10}  in the store{why}[/]")


def metrics_note(lines: list[dict[str, Any]]) -> str:
    """Returns the newest metrics of a process, the most telling first, short."""
    newest: dict[str, Any] = {}
    for line in lines:
        newest.update(line)
    names = [name for name in PROGRESS if name in newest]
    notes = [f"{name} {newest[name]:,.0f}" if newest[name] >= 1000 else f"{name} {newest[name]:.4g}" for name in names]
    if "seconds_left" in newest:
        notes.append(f"{timedelta(seconds=round(newest['seconds_left']))} left")
    return "  ".join(notes)


def counts_line(artifact: Artifact) -> str:
    """Returns in, out and drops of an artifact in one line."""
    counts = artifact.counts
    dropped = ", ".join(f"{n} {reason}" for reason, n in counts.dropped.items())
    return f"{counts.n_in:,} {counts.unit} -> {counts.n_out:,}" + (f" (dropped: {escape(dropped)})" if dropped else "")


def outcomes_table(outcomes: Iterable[Outcome]) -> Table:
    """Returns for each stage: hit, would run, or waits for another; and the cause."""
    table = Table("stage", "", "cause", box=None, pad_edge=False)
    words = {"hit": "[green]in the store[/]", "run": "[yellow]would run[/]", "wait": "[cyan]depends[/]"}
    for outcome in outcomes:
        table.add_row(outcome.stage, words[outcome.action], escape("\n".join(outcome.reasons)))
    return table


def stages_table(shown: ConsoleDisplay) -> Table:
    """Returns where the time went and what each stage kept."""
    table = Table("stage", "seconds", "to build", "counts", "artifact", box=None, pad_edge=False)
    for name, artifact in shown.artifacts.items():
        built = artifact.provenance.get("seconds", 0.0)
        table.add_row(
            name, f"{shown.seconds[name]:.1f}", f"{built:.1f}", counts_line(artifact), artifact.fingerprint[:12]
        )
    table.add_row("all", f"{sum(shown.seconds.values()):.1f}")
    return table


def dropped_table(artifact: Artifact, reason: str | None, n_per_reason: int) -> Table:
    """Returns samples of what a stage dropped; raises ValueError for a reason that dropped nothing."""
    samples = sample_dropped(artifact.path, n_per_reason)
    if reason is not None and reason not in samples:
        raise ValueError(
            f"{artifact.stage} dropped nothing for {reason!r}; its reasons are {', '.join(samples) or '-'}"
        )
    table = Table("reason", "address", "why", "beginning of the text", box=None, pad_edge=False)
    for name in samples if reason is None else [reason]:
        for item in samples[name]:
            table.add_row(name, escape(item.url), escape(item.detail), escape(item.excerpt[:120]))
    return table


def scores_table(scores: Artifact) -> Table:
    """Returns every score with its interval and the chance level."""
    table = Table("model", "benchmark", "metric", "score", "95 % interval", "chance", "n", box=None, pad_edge=False)
    for row in read_scores(scores.path):
        interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        chance = "" if row["chance"] is None else f"{row['chance']:.2f}"
        table.add_row(
            row["model"], row["benchmark"], row["metric"], f"{row['score']:.4f}", interval, chance, f"{row['n']:,}"
        )
    return table


def artifacts_table(artifacts: Iterable[Artifact]) -> Table:
    """Returns what is in the store."""
    table = Table("stage", "fingerprint", "digest", "MB", "built", "counts", box=None, pad_edge=False)
    for artifact in artifacts:
        built = artifact.provenance.get("started", "")[:16].replace("T", " ")
        size = f"{artifact.n_bytes / 1e6:.1f}"
        table.add_row(
            artifact.stage, artifact.fingerprint[:12], artifact.digest[:12], size, built, counts_line(artifact)
        )
    return table


def shown(console: Console, call: Callable[[], object]) -> ConsoleDisplay:
    """Runs a flow with progress on the console.

    What Prefect's engine raises when the work is done, since it cannot report the end to its server, is a warning.
    Raises ConnectionError when it could not even begin.
    """
    from tasks.core import session, timeline  # loads Prefect

    display = ConsoleDisplay(console)
    session.display.set(display)
    try:
        call()
    except Exception as error:
        why = str(error) or type(error).__name__
        if display.is_done:
            timeline.switch_off()
            log.warning("the run is complete, but Prefect's server does not answer (%s): its UI shows no end", why)
        elif type(error).__module__.partition(".")[0] == "httpx":
            timeline.switch_off()
            own = next((cause for cause in causes(error) if is_ours(cause)), None)
            if own:  # that it failed could not be reported either
                raise own from own.__cause__
            raise ConnectionError(
                f"Prefect's server at {os.environ.get('PREFECT_API_URL')} does not answer ({why}); unset "
                "PREFECT_API_URL or start that server, and run again: what is finished is kept"
            ) from error
        else:
            raise
    return display


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that it was raised in place of, the last one first."""
    while error:
        yield error
        error = error.__context__


def is_ours(error: BaseException) -> bool:
    """Returns whether an error says what is wrong with a run, not with its connection to a server."""
    return isinstance(error, ValueError) or type(error).__module__.partition(".")[0] in ("flows", "tasks", "llm")


def summary(console: Console, shown: ConsoleDisplay) -> None:
    """Prints where the time went, what each stage kept, the scores, three answers, and where to look."""
    console.print()
    console.print(stages_table(shown))
    scores, report = shown.artifacts.get("evaluate"), shown.artifacts.get("report")
    if scores:
        console.print()
        console.print(scores_table(scores))
        for answer in read_lines(scores.path / ANSWERS_FILE)[:3]:
            console.print(f"\n[bold]{escape(answer['question'])}[/]\n  {escape(answer['answer'])}")
    console.print()
    if report:
        console.print(f"report  {report.path / 'report.html'}")
    console.print(f"store   {workspace.workspace() / 'store'}")
    pages = os.environ.get(workspace.MLFLOW_UI_VARIABLE)
    console.print(f"MLflow  {pages or os.environ['MLFLOW_TRACKING_URI'] + '  (`make ui` shows it)'}")
