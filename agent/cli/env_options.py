"""The options of all commands that prepare runtime envs."""

import fnmatch
import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ray_envd.agent.cli.common import interpreter_path
from ray_envd.agent.humanize import DURATION_FORMS, parse_duration

F = TypeVar("F", bound=Callable[..., Any])


def env_options(command: F) -> F:
    """Adds ``--python``, ``--timeout`` and ``--pass-env``; :func:`asked` takes what they give."""
    for option in (
        click.option(
            "--pass-env",
            "pass_env",
            multiple=True,
            metavar="NAME",
            help="A variable of this shell that downloads and tools see, e.g. 'AWS_*'; may be repeated.",
        ),
        click.option(
            "--timeout", metavar="DURATION", help="How long preparing may take, or none  [default: 10m]"
        ),
        click.option(
            "--python", metavar="PATH", help="Interpreter to prepare for  [default: the daemon's `python`]"
        ),
    ):
        command = option(command)
    return command


def asked(*, python: str | None, timeout: str | None, pass_env: tuple[str, ...]) -> dict[str, Any]:
    """The options as arguments of the client's methods.

    Raises:
        click.BadParameter: one of them is wrong.
    """
    return {
        "python": None if python is None else interpreter_path(python),
        "setup_timeout_seconds": _timeout(timeout),
        "environment": _passed(pass_env),
    }


def _timeout(text: str | None) -> int:
    """Seconds as Ray means them: 0 is the default, -1 none."""
    if text is None:
        return 0
    if text.lower() in {"none", "-1"}:
        return -1
    try:
        return max(1, math.ceil(parse_duration(text)))
    except ValueError as error:
        raise click.BadParameter(f"{error}: {DURATION_FORMS}, or none", param_hint="--timeout") from None


def _passed(patterns: tuple[str, ...]) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if any(fnmatch.fnmatchcase(k, each) for each in patterns)}
