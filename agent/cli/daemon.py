"""``serve`` and ``drain``: the daemon's beginning and end."""

import gc
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ray_envd.agent.cli.common import State, pass_state, print_json, shared_options
from ray_envd.agent.config import TABLE, Setting
from ray_envd.agent.config_kinds import SWITCH
from ray_envd.agent.humanize import DURATION_FORMS, parse_duration

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger(__name__)


def _settings_options(command: F) -> F:
    """A flag for every setting but ``socket``, which all commands have."""
    for setting in reversed(TABLE.values()):
        if setting.name != "socket":
            command = _option(setting)(command)
    return command


def _option(setting: Setting) -> Callable[[F], F]:
    text = f"{setting.help}  [{setting.variable}; default: {setting.default_shown}]"
    if setting.kind is SWITCH:
        flag = f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
        return click.option(flag, setting.name, default=None, help=text)
    metavar = setting.kind.name.upper().replace(" OR ", "|").replace(" ", "-")
    return click.option(setting.flag, setting.name, metavar=metavar, help=text)


@click.command()
@_settings_options
@shared_options
@pass_state
def serve(state: State, /, **flags: str | bool | None) -> int:
    """Run the daemon of this node.

    SIGTERM and SIGINT drain it: it takes no new work and finishes what is in flight; a second one forces.
    Every flag can be set by its variable or, under its name with underscores, in the TOML file.
    """
    # Nothing of what is loaded and read at the start is garbage, and to look at it again and again takes a
    # tenth of a second, of a large store more. Cycles are collected from when the daemon is ready.
    gc.disable()
    texts = {k: str(v).lower() if isinstance(v, bool) else v for k, v in flags.items()}
    loaded = state.load(**texts)
    from ray_envd.agent import logs  # noqa: PLC0415 - time that `serve --help` does not need

    logs.configure(loaded.settings.log_level, loaded.settings.log_format)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    # Before gRPC is loaded. Its handlers crash one in six children of fork(2) while a stream is open (seen
    # with grpcio 1.85). Tools of other users are forked; those of our own are not (vfork).
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from ray_envd.agent import server  # noqa: PLC0415 - as above

    return server.serve(loaded.settings)


@click.command()
@click.option(
    "--timeout", metavar="DURATION", help="How long to wait for what is in flight  [default: the daemon's]"
)
@shared_options
@pass_state
def drain(state: State, timeout: str | None) -> None:
    """End the daemon once nothing is in flight.

    It takes no new work meanwhile. What is still running after the time-out is cut off; the raylets ask the
    next daemon for it.
    """
    try:
        seconds = 0.0 if timeout is None else max(parse_duration(timeout), 0.001)
    except ValueError as error:
        raise click.BadParameter(f"{error}: {DURATION_FORMS}", param_hint="--timeout") from None
    with state.client() as client:
        cancelled = client.drain(seconds)
    if state.json:
        print_json({"cancelled": cancelled})
    else:
        click.echo("drained" if not cancelled else f"drained; {cancelled} preparations were cut off")
