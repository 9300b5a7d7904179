"""``prefetch``: many runtime envs at once, for workers that come later."""

import json
from dataclasses import replace
from typing import Any

import click

from ray_envd.agent.cli.common import CliError, Exit, State, pass_state, shared_options
from ray_envd.agent.cli.env_options import asked, env_options
from ray_envd.agent.cli.events import event_dict, view
from ray_envd.agent.cli.failures import Failure, of, show
from ray_envd.agent.cli.spec_argument import read_spec
from ray_envd.agent.client import Client, EnvFailedError, Prefetched, Prefetching, short_id
from ray_envd.cache.text import seconds_text


@click.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
@click.option("--pin", is_flag=True, help="Keep the objects, whatever the budget, until they are unpinned.")
@click.option(
    "--user",
    default="",
    metavar="NAME",
    help="Whose raylets will ask, by name, uid or uid:gid; others than the daemon's user if that is root.",
)
@env_options
@shared_options
@pass_state
def prefetch(state: State, /, specs: tuple[str, ...], *, pin: bool, user: str, **options: Any) -> int:
    """Prepare runtime envs before anybody asks for them.

    Each SPEC is JSON, the name of a file with it, or - for stdin. They are prepared side by side, as for a
    worker of --python, and nothing of them stays but what is stored. With --json each step, result or failure
    is an object on a line of its own, with the SPEC's number from 0.

    The exit code is 1 if one of them failed; the others are prepared all the same.
    """
    envs = [read_spec(each) for each in specs]
    names = [_name(number, each, len(specs)) for number, each in enumerate(specs, start=1)]
    arguments = {**asked(**options), "user": user, "pin": pin}
    with state.client() as client:
        done = (_as_json if state.json else _as_text)(client, envs, names, arguments)
    if len(done) < len(envs):
        raise CliError("the daemon did not tell how all of them ended", code="internal")
    return int(Exit.FAILED if any(isinstance(each, EnvFailedError) for each in done.values()) else Exit.OK)


#: How each ended, by number.
_Ends = dict[int, Prefetched | EnvFailedError]


def _name(number: int, spec: str, count: int) -> str:
    """What a SPEC is called: nothing where there is one; its file, or where it stands on the command line."""
    if count == 1:
        return ""
    return f"#{number}" if spec == "-" or spec.lstrip().startswith(("{", "[")) else spec


def _as_json(
    client: Client, envs: list[dict[str, Any]], names: list[str], arguments: dict[str, Any]
) -> _Ends:
    done: _Ends = {}
    for each in client.prefetch(envs, **arguments):
        click.echo(json.dumps({**_event(each), "index": each.index, "spec": names[each.index]}))
        if isinstance(each.event, Prefetched | EnvFailedError):
            done[each.index] = each.event
    return done


def _event(each: Prefetching) -> dict[str, Any]:
    if isinstance(each.event, Prefetched):
        result = {name: getattr(each.event, name) for name in ("cache_hit", "seconds", "objects")}
        return {"event": "result", **result}
    if isinstance(each.event, EnvFailedError):
        return {"event": "failure", "error": {**of(each.event).as_dict(), "transient": each.event.transient}}
    return event_dict(each.event)


def _as_text(
    client: Client, envs: list[dict[str, Any]], names: list[str], arguments: dict[str, Any]
) -> _Ends:
    done: _Ends = {}
    with view(as_json=False) as shown:
        for each in client.prefetch(envs, **arguments):
            if isinstance(each.event, Prefetched | EnvFailedError):
                done[each.index] = each.event
            else:
                field = f"{names[each.index]} {each.event.field}".lstrip()
                shown.show(replace(each.event, field=field))
    for index, end in sorted(done.items()):
        _tell(names[index], end)
    return done


def _tell(name: str, end: Prefetched | EnvFailedError) -> None:
    prefix = f"{name}: " if name else ""
    if isinstance(end, EnvFailedError):
        failure = of(end)
        show(Failure(failure.exit, failure.code, f"{prefix}{failure.message}", failure.remedy), as_json=False)
        return
    how = "cache hit" if end.cache_hit else "built"
    click.echo(f"{prefix}ready in {seconds_text(end.seconds)} ({how})")
    for each in end.objects:
        click.echo(f"  {short_id(each)}")
