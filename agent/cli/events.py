"""How the steps of a preparation are shown: bars on a terminal, lines elsewhere, JSON for programs."""

import json
import sys
from typing import Any, Protocol, Self

import click
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ray_envd.agent.cli.common import console
from ray_envd.agent.progress import Event


class View(Protocol):
    """Shows steps while its block lasts."""

    def __enter__(self) -> Self:
        """Begins."""
        ...

    def __exit__(self, *error: object) -> None:
        """Leaves the terminal as it was."""
        ...

    def show(self, event: Event) -> None:
        """One step."""
        ...


def view(*, as_json: bool) -> View:
    """The right one for what stdout or stderr is."""
    if as_json:
        return JsonView()
    return Bars() if sys.stderr.isatty() else Lines()


def event_dict(event: Event) -> dict[str, Any]:
    """A step as JSON."""
    return {
        "event": "progress",
        "field": event.field,
        "phase": event.phase,
        "detail": event.detail,
        "done": event.done,
        "total": event.total,
    }


class _Plain:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return


class JsonView(_Plain):
    """One object a line, on stdout."""

    def show(self, event: Event) -> None:
        """One step."""
        click.echo(json.dumps(event_dict(event)))


class Lines(_Plain):
    """A line for each phase, on stderr; running counts only where they begin."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, str]] = {}  # of each field: they take turns

    def show(self, event: Event) -> None:
        """One step."""
        step = (event.phase, event.detail)
        if step != self._last.get(event.field):
            click.echo(event.line(), err=True)
        self._last[event.field] = step


class Bars:
    """A row for each field, on stderr: its phase, and a bar where the total is known."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[field]}", style="bold", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """One step."""
        if event.field not in self._tasks:
            self._tasks[event.field] = self._progress.add_task("", field=event.field, total=None)
        self._progress.update(
            self._tasks[event.field],
            description=f"{event.phase} {event.detail}".strip(),
            total=event.total or None,
            completed=event.done,
        )
