"""``ls``, ``stats``, ``gc``, ``rm``, ``pin`` and ``unpin``: what is in the store."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from click.shell_completion import CompletionItem

from ray_envd.agent.cli import failures, tables
from ray_envd.agent.cli.common import Exit, State, pass_state, print_json, shared_options
from ray_envd.agent.client import Client, ClientError, DaemonUnavailableError, Object
from ray_envd.agent.config import ConfigError
from ray_envd.agent.humanize import SIZE_FORMS, Size, parse_size
from ray_envd.cache.text import bytes_text


def complete_id(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the daemon's objects, for shells; nothing where there is no daemon."""
    try:
        with ctx.ensure_object(State).client() as client:
            objects = client.list().objects
    except (ClientError, ConfigError):
        return []
    return [CompletionItem(o.short_id, help=o.summary) for o in objects if o.short_id.startswith(incomplete)]


_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)


@click.command()
@click.option("--sessions", is_flag=True, help="List the raylets that are attached instead.")
@click.option("--kind", metavar="KIND", help="Only objects of this kind.")
@shared_options
@pass_state
def ls(state: State, /, *, sessions: bool, kind: str | None) -> None:
    """List what is stored, last used first.

    An id may be shortened to any prefix that is unique. SIZE is the object as if it were alone, FREES what
    removing it would free now: files that uv's cache or another object has as well stay. REFS counts the envs
    of running raylets that stand on it.
    """
    with state.client() as client:
        listing = client.list()
    objects = [each for each in listing.objects if kind in {None, each.kind}]
    objects.sort(key=lambda each: each.last_used, reverse=True)
    if state.json:
        print_json(listing.sessions if sessions else objects)
    elif sessions:
        tables.show_sessions(listing.sessions, time.time())
    else:
        tables.show_objects(objects, time.time())


@click.command()
@shared_options
@pass_state
def stats(state: State, /) -> None:
    """Show figures of the daemon."""
    with state.client() as client:
        figures = client.stats()
    if state.json:
        sums = {name: getattr(figures, name) for name in ("used_bytes", "store_bytes", "shared_bytes")}
        print_json({**asdict(figures), **sums})
    else:
        tables.show_stats(figures)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why.")
@click.option(
    "--to",
    metavar="SIZE",
    help="Collect down to so many bytes, or percent of the budget  [default: the low watermark]",
)
@shared_options
@pass_state
def gc(state: State, /, *, dry_run: bool, to: str | None) -> None:
    """Remove what is not used, least worth first.

    WORTH is how many seconds of rebuilding an object was likely to save, for each gigabyte: how often and how
    lately it was used, what it took to make, and its size. What is referenced, pinned or being built stays,
    whatever the size.
    """
    size = _size(to)
    with state.client() as client:
        done = client.gc(dry_run=dry_run, target_bytes=_target(size, client))
    if state.json:
        print_json({"dry_run": dry_run, **asdict(done)})
    else:
        tables.show_collection(done, dry_run=dry_run)


def _size(text: str | None) -> Size | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}: {SIZE_FORMS}, or a percentage", param_hint="--to") from None


def _target(size: Size | None, client: Client) -> int | None:
    if size is None or size.percent is None:
        return None if size is None else size.bytes
    return size.of(client.stats().budget_bytes)


@click.command()
@_ids
@shared_options
@pass_state
def rm(state: State, /, ids: tuple[str, ...]) -> int:
    """Remove objects that nobody uses."""

    def remove(client: Client, object_id: str) -> tuple[dict[str, Any], str]:
        removed = client.remove(object_id)
        return asdict(removed), f"removed {removed.id}, {bytes_text(removed.freed_bytes)} freed"

    return _each(state, ids, remove)


@click.command()
@_ids
@shared_options
@pass_state
def pin(state: State, /, ids: tuple[str, ...]) -> int:
    """Keep objects until they are unpinned, whatever the budget."""
    return _each(state, ids, lambda client, each: _changed(client.pin(each)))


@click.command()
@_ids
@shared_options
@pass_state
def unpin(state: State, /, ids: tuple[str, ...]) -> int:
    """Let objects be collected again."""
    return _each(state, ids, lambda client, each: _changed(client.unpin(each)))


def _changed(stored: Object) -> tuple[dict[str, Any], str]:
    return asdict(stored), f"{'pinned' if stored.pinned else 'unpinned'} {stored.id}"


def _each(
    state: State, ids: tuple[str, ...], action: Callable[[Client, str], tuple[dict[str, Any], str]]
) -> int:
    """Does it to every object, also after one that failed; the exit code is the first failure's."""
    results: list[dict[str, Any]] = []
    code = Exit.OK
    with state.client() as client:
        for each in ids:
            try:
                result, text = action(client, each)
            except DaemonUnavailableError:
                raise
            except ClientError as error:
                failure = failures.of(error)
                code = code or failure.exit
                result, text = {"id": each, "error": failure.as_dict()}, ""
                if not state.json:
                    failures.show(failure, as_json=False)
            results.append(result)
            if text and not state.json:
                click.echo(text)
    if state.json:
        print_json(results)
    return int(code)
