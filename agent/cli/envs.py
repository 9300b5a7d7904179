"""``create`` and ``run``: runtime envs from the command line."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ray_envd.agent.cli.common import CliError, Exit, State, pass_state, shared_options
from ray_envd.agent.cli.env_options import asked, env_options
from ray_envd.agent.cli.events import view
from ray_envd.agent.cli.holder import received, start_holder
from ray_envd.agent.cli.spec_argument import read_spec
from ray_envd.agent.client import Client, Context, Created, short_id
from ray_envd.agent.client import Event as ClientEvent
from ray_envd.cache.text import seconds_text

_EXAMPLE = """\b
Example:
  ray-envd run '{"pip": ["six"]}' -- python -c 'import six; print(six.__file__)'
"""


@click.command()
@click.argument("spec")
@env_options
@shared_options
@pass_state
def create(state: State, /, spec: str, **options: Any) -> None:
    """Prepare a runtime env, so that workers find it ready.

    SPEC is JSON, the name of a file with it, or - for stdin. Local folders are used in place and local
    requirement files are read, as Ray's driver would. With --json each step is an object on a line of its
    own, and the last line is the result or the error.
    """
    request = {"runtime_env": read_spec(spec), **asked(**options)}
    created = None
    with state.client() as client, view(as_json=state.json) as shown:
        for event in client.create(**request):
            if isinstance(event, Created):
                created = event
            else:
                shown.show(event)
    _print_created(created, as_json=state.json)


def _print_created(created: Created | None, *, as_json: bool) -> None:
    if created is None:
        raise CliError("the daemon sent no result", code="internal")
    if as_json:
        result = {
            "event": "result",
            "context": json.loads(created.context.serialized),
            "cache_hit": created.cache_hit,
            "seconds": created.seconds,
            "objects": created.objects,
        }
        click.echo(json.dumps(result))
        return
    click.echo(f"ready in {seconds_text(created.seconds)} ({'cache hit' if created.cache_hit else 'built'})")
    for each in created.objects:
        click.echo(f"  {short_id(each)}")


@click.command(epilog=_EXAMPLE)
@click.argument("spec")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@env_options
@shared_options
@pass_state
def run(state: State, /, spec: str, command: tuple[str, ...], **options: Any) -> None:
    """Run a command in a runtime env, as a worker would be started.

    The env's variables are set, its working_dir is the current folder, and a first word `python` is its
    interpreter. The env stays referenced for as long as the command runs. This process becomes the
    command: signals and exit code are its own.
    """
    request = {"runtime_env": read_spec(spec), **asked(**options)}
    socket = str(state.load().settings.socket)

    def events(client: Client) -> Iterator[ClientEvent]:
        return client.create(**request, hold=True)

    pipe = start_holder(socket, events)
    with view(as_json=False) as shown:
        for event in received(pipe):
            if isinstance(event, Context):
                context = event
            else:
                shown.show(event)
    _become(context.command(command), context.environment())


def _become(command: str, environment: Mapping[str, str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores them, and what is ignored stays so across exec.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe("bash", ["bash", "-c", command], environment)  # noqa: S606, S607 - as Ray does; all is quoted
    except OSError as error:
        raise CliError(
            f"bash cannot be run: {error.strerror}",
            "install it; Ray starts workers with it",
            exit_code=Exit.FAILED,
        ) from None
