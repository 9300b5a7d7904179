"""``verify``: is what is stored still what was put there?"""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ray_envd.agent.cli.common import Exit, State, console, pass_state, print_json, shared_options
from ray_envd.agent.cli.store import complete_id
from ray_envd.agent.client import Verified
from ray_envd.cache.text import bytes_text

_SHOWN_FILES = 10


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete_id)
@click.option("--repair", is_flag=True, help="Remove what is damaged, unless somebody stands on it.")
@shared_options
@pass_state
def verify(state: State, /, ids: tuple[str, ...], *, repair: bool) -> int:
    """Read everything that is stored, and find what is damaged; or only the objects that are named.

    A damaged object is not handed out any more: who asks for it next gets it built anew, and its packages are
    downloaded again. Workers that run on it keep it, and are named. With --repair it is removed once nobody
    stands on it, else the next collection does that.

    The exit code is 1 if something damaged is still there, or could not be read.
    """
    found: list[Verified] = []
    with state.client() as client, _bar(hidden=state.json) as bar:
        task = bar.add_task("verifying", total=None)
        for each in client.verify(ids, repair=repair):
            found.append(each)
            bar.update(task, completed=each.done, total=each.total, description=each.object.short_id)
    found.sort(key=lambda each: each.object.id)
    if state.json:
        print_json([_as_json(each) for each in found])
    else:
        _show(found, repair=repair)
    return int(Exit.FAILED if any(_remains(each) for each in found) else Exit.OK)


def _remains(each: Verified) -> bool:
    return bool(each.error or (each.damage and each.freed_bytes is None))


def _bar(*, hidden: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
        disable=hidden or not sys.stderr.isatty(),
    )


def _as_json(each: Verified) -> dict[str, Any]:
    told = asdict(each)
    del told["done"], told["total"]
    return told


def _show(found: list[Verified], *, repair: bool) -> None:
    for each in found:
        for line in _lines(each):
            click.echo(line)
    damaged = [each for each in found if each.damage]
    unread = sum(1 for each in found if each.error)
    words = [f"{len(found)} verified", f"{len(damaged)} damaged"]
    words += [f"{unread} could not be read"] if unread else []
    if repair:
        freed = [each.freed_bytes for each in damaged if each.freed_bytes is not None]
        words.append(f"{len(freed)} removed, {bytes_text(sum(freed))} freed")
    click.echo(", ".join(words))


def _lines(each: Verified) -> Iterable[str]:
    """What there is to say of an object; nothing of one that is whole."""
    name = f"{each.object.short_id} ({each.object.summary})"
    if each.error:
        yield f"{name} could not be verified: {each.error}"
    elif each.damage:
        gone = "" if each.freed_bytes is None else f"; removed, {bytes_text(each.freed_bytes)} freed"
        yield f"{name} is damaged: {each.damage}{gone}"
    for path in each.files[:_SHOWN_FILES]:
        yield f"    {path}"
    if len(each.files) > _SHOWN_FILES:
        yield f"    and {len(each.files) - _SHOWN_FILES} more files"
    for user in each.users:
        where = f" ({user.session_dir})" if user.session_dir else ""
        yield f"    in use by session {user.session_id}{where}, {user.references}x: {user.runtime_env}"
    if each.unlike_record:
        yield f"{name}: not what the wheel's RECORD says since it was installed: {each.unlike_record[0]}" + (
            f" and {len(each.unlike_record) - 1} more files" if len(each.unlike_record) > 1 else ""
        )
