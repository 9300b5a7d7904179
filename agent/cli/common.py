"""What the commands share: options, exit codes, the way to the settings and to the daemon."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ray_envd.agent.client import Client
    from ray_envd.agent.config_sources import Loaded

F = TypeVar("F", bound=Callable[..., Any])


class Exit(IntEnum):
    """Exit codes of every command; stable."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    IN_USE = 5
    INTERRUPTED = 130


EXIT_CODES = {
    Exit.OK: "done",
    Exit.FAILED: "it failed: the env could not be made, doctor found a fault, ...",
    Exit.USAGE: "the command line, a setting or the spec is wrong",
    Exit.UNREACHABLE: "no daemon answers",
    Exit.NOT_FOUND: "there is no such object",
    Exit.IN_USE: "the object is in use or pinned; serve: the store is another daemon's",
    Exit.INTERRUPTED: "interrupted (run: the exit code is the command's)",
}


class CliError(Exception):
    """A command cannot do what it was asked.

    Attributes:
        exit: the exit code.
        code: stable name for programs.
        remedy: what to do; may be empty.
    """

    def __init__(
        self, message: str, remedy: str = "", *, code: str = "failed", exit_code: Exit = Exit.FAILED
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.exit, self.code, self.remedy = exit_code, code, remedy


@dataclass
class State:
    """The shared options of one run of the command line."""

    socket: str | None = None
    config: str | None = None
    json: bool = False

    def load(self, **flags: str | None) -> "Loaded":
        """The settings, flags first.

        Raises:
            ConfigError: one of them is wrong.
        """
        from ray_envd.agent.config_sources import load  # noqa: PLC0415 - not needed for --help

        given = {"socket": self.socket, **flags}
        return load({k: v for k, v in given.items() if v is not None}, config=self.config)

    def client(self) -> "Client":
        """A client of the daemon whose socket the settings name."""
        from ray_envd.agent.client import Client  # noqa: PLC0415 - grpc takes a tenth of a second

        return Client(self.load().settings.socket)


pass_state = click.make_pass_decorator(State, ensure=True)


def shared_options(command: F) -> F:
    """Adds ``--socket``, ``--config`` and ``--json``; they end in the :class:`State`."""
    for option in (
        _stored("--json", "json", is_flag=True, default=None, help="Print JSON, for programs."),
        _stored("--config", "config", metavar="FILE", help="TOML file with settings."),
        _stored("--socket", "socket", metavar="PATH", help="The daemon's Unix socket."),
    ):
        command = option(command)
    return command


def _stored(flag: str, name: str, **attributes: Any) -> Callable[[F], F]:
    def store(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(State), name, value)

    return click.option(flag, name, expose_value=False, callback=store, **attributes)


def interpreter_path(name: str) -> str:
    """The absolute path of an interpreter, given by path or by a name on the PATH.

    Raises:
        click.BadParameter: there is none.
    """
    found = shutil.which(os.path.expanduser(name))  # noqa: PTH111 - a name on the PATH is no path
    if found is None:
        raise click.BadParameter(f"there is no program {name!r}", param_hint="--python")
    return os.path.abspath(found)  # noqa: PTH100 - a virtual environment's link must not be resolved


def print_json(value: Any) -> None:
    """One value on stdout, dataclasses by their fields; keys stay in the order in which they were made."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, default=_as_json))


def _as_json(value: Any) -> Any:
    # Not asdict: that copies all it finds, which for ten thousand objects takes as long as listing them.
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return str(value)


def console(*, stderr: bool = False) -> "Console":
    """A console that never guesses at markup, and never breaks lines that a program reads."""
    from rich.console import Console  # noqa: PLC0415 - not needed for --help or --json

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 1000
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
