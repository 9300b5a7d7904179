"""The one place that turns exceptions into exit codes and into what is printed about them."""

import json
import sys
from dataclasses import dataclass

import click

from ray_envd.agent.cli.common import CliError, Exit
from ray_envd.agent.redaction import redact_urls

_RPC_EXITS = {
    "not_found": Exit.NOT_FOUND,
    "failed_precondition": Exit.IN_USE,
    "invalid_argument": Exit.USAGE,
}
#: Where the client has none: it does not know the names of commands.
_RPC_REMEDIES = {
    "not_found": "`ray-envd ls` lists what is stored",
    "invalid_argument": "give more of the id, as `ray-envd ls` shows it",
    "failed_precondition": "`ray-envd unpin` it, or wait until no raylet uses it (REFS in `ray-envd ls`)",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What is said about an exception."""

    exit: Exit
    code: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def of(error: Exception) -> Failure:
    """What is said about it, without credentials in URLs."""
    failure = _of(error)
    return Failure(failure.exit, failure.code, redact_urls(failure.message), redact_urls(failure.remedy))


def _of(error: Exception) -> Failure:
    if isinstance(error, CliError):
        return Failure(error.exit, error.code, str(error), error.remedy)
    if isinstance(error, click.Abort):
        return Failure(Exit.INTERRUPTED, "interrupted", "interrupted")
    if isinstance(error, click.UsageError):
        return Failure(Exit.USAGE, "usage", error.format_message(), _help_of(error))
    if isinstance(error, click.ClickException):
        return Failure(Exit.USAGE, "usage", error.format_message())
    return _of_library(error)


def _of_library(error: Exception) -> Failure:
    """Errors of modules that are imported only if a command uses them."""
    from ray_envd.agent.client.errors import (  # noqa: PLC0415 - a usage error needs no grpc
        ClientError,
        DaemonUnavailableError,
    )
    from ray_envd.agent.config import ConfigError  # noqa: PLC0415 - as above

    if isinstance(error, DaemonUnavailableError):
        return Failure(Exit.UNREACHABLE, error.code, error.message, error.remedy)
    if isinstance(error, ClientError):
        remedy = error.remedy or _RPC_REMEDIES.get(error.code, "")
        return Failure(_RPC_EXITS.get(error.code, Exit.FAILED), error.code, error.message, remedy)
    if isinstance(error, ConfigError):
        return Failure(Exit.USAGE, "config", str(error), error.remedy)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Failure(Exit.FAILED, "os", f"{where}{error.strerror}")
    return Failure(
        Exit.FAILED,
        "internal",
        f"unexpected {type(error).__name__}: {error}",
        "RAY_ENVD_LOG_LEVEL=debug shows where; please report it",
    )


def _help_of(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "ray-envd"
    return f"see `{path} --help`"


def show(failure: Failure, *, as_json: bool) -> None:
    """JSON on stdout, where a program looks for the answer; or a readable message on stderr."""
    if as_json:
        click.echo(json.dumps({"error": failure.as_dict()}))
        return
    colored = sys.stderr.isatty()
    label = click.style("error:", fg="red", bold=True) if colored else "error:"
    click.echo(f"{label} {failure.message}", err=True)
    # An env's message brings its own remedy with it.
    if failure.remedy:
        label = click.style("remedy:", fg="green", bold=True) if colored else "remedy:"
        click.echo(f"{label} {failure.remedy}", err=True)
