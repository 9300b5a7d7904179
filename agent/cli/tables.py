"""Tables and overviews on a terminal, plain columns elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import click
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from ray_envd.agent.cli.common import console
from ray_envd.agent.client import Collection, Object, Session, Stats
from ray_envd.cache.text import ago_text, bytes_text, seconds_text

_BAR = 30
_LEAST = 10
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; figures stand to the right, ``free`` ones give way where the terminal is narrow."""

    name: str
    right: bool = False
    free: bool = False


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """One table on stdout; a sentence where there is nothing to list.

    Laid out by hand: ten thousand rows take a general table library the better part of ten seconds.
    """
    out = console()
    if not rows:
        out.print(empty)
        return
    cells = [[_Cell.of(text) for text in row] for row in ([column.name for column in columns], *rows)]
    widths = _widths(columns, cells, out.width)
    head, *lines = (
        _GAP.join(map(_fit, row, widths, (column.right for column in columns))).rstrip() for row in cells
    )
    out.print(Text(head, style="bold"), soft_wrap=True)
    rule = "-" if out.options.ascii_only else "─"
    click.echo("\n".join([rule * (sum(widths) + len(_GAP) * (len(widths) - 1)), *lines]))


class _Cell(NamedTuple):
    """A text without control characters, and how many columns of a terminal it takes."""

    text: str
    width: int

    @classmethod
    def of(cls, text: str) -> "_Cell":
        if not text.isprintable():
            text = "".join(each if each.isprintable() else "?" for each in text)
        return cls(text, len(text) if text.isascii() else cell_len(text))


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[_Cell]], space: int) -> list[int]:
    """Only free columns give way where the terminal is narrow, the widest first: half an id is of no use."""
    widths = [max(row[index].width for row in cells) for index in range(len(columns))]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - space
    free = [index for index, column in enumerate(columns) if column.free]
    while excess > 0 and free:
        widest = max(free, key=lambda index: widths[index])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _fit(cell: _Cell, width: int, right: bool) -> str:  # noqa: FBT001 - for map
    if cell.width > width:
        return set_cell_size(cell.text, width - 1) + "…"
    blank = " " * (width - cell.width)
    return blank + cell.text if right else cell.text + blank


def show_objects(objects: Sequence[Object], now: float) -> None:
    """``ls``. The owner is told only where there are several."""
    several = len({each.owner_uid for each in objects}) > 1
    owner = [Column("OWNER", right=True)] if several else []
    columns = [
        Column("ID"),
        *owner,
        Column("WHAT", free=True),
        Column("SIZE", right=True),
        Column("FREES", right=True),
        Column("USED"),
        Column("USES", right=True),
        Column("REFS", right=True),
        Column("STATE", free=True),
    ]
    rows = [
        (
            each.short_id,
            *([str(each.owner_uid)] if several else []),
            each.summary,
            bytes_text(each.bytes),
            bytes_text(each.exclusive_bytes),
            ago_text(each.last_used, now),
            str(each.uses),
            str(each.references),
            _state(each),
        )
        for each in objects
    ]
    show(columns, rows, empty="nothing is stored")


def _state(each: Object) -> str:
    if each.damaged:
        return f"damaged: {each.damaged}"
    return "pinned" if each.pinned else ""


def show_sessions(sessions: Sequence[Session], now: float) -> None:
    """``ls --sessions``."""
    columns = [
        Column("SESSION"),
        Column("RAY"),
        Column("RAYLET", right=True),
        Column("STARTED"),
        Column("ENVS", right=True),
        Column("REFS", right=True),
        Column("STATE"),
        Column("FOLDER", free=True),
    ]
    rows = [
        (
            each.id,
            each.ray_version,
            str(each.raylet_pid or ""),
            ago_text(each.started, now),
            str(each.envs),
            str(each.references),
            "attached" if each.connected else "lost",
            each.session_dir,
        )
        for each in sessions
    ]
    show(columns, rows, empty="no raylet is attached")


def show_collection(done: Collection, *, dry_run: bool) -> None:
    """``gc``: each object with the reason, then the sum. WORTH is in seconds per gigabyte."""
    columns = [
        Column("ID"),
        Column("WHAT", free=True),
        Column("FREES", right=True),
        Column("WORTH", right=True),
        Column("REASON", free=True),
    ]
    rows = [
        (
            victim.object.short_id,
            victim.object.summary,
            bytes_text(victim.frees_bytes),
            f"{victim.worth:.3g}",
            victim.reason,
        )
        for victim in done.victims
    ]
    show(columns, rows, empty="nothing to collect")
    would = "would be freed, would remain" if dry_run else "freed, remain"
    freed, remain = would.split(", ")
    console().print(
        f"{bytes_text(done.freed_bytes)} {freed}, {bytes_text(done.remaining_bytes)} {remain}", soft_wrap=True
    )


def show_pairs(pairs: Mapping[str, str]) -> None:
    """Names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value))
    console().print(table)


def show_stats(stats: Stats) -> None:
    """``stats``."""
    asked = stats.hits + stats.misses
    share = f", {100 * stats.hits / asked:.0f} % hits" if asked else ""
    state = "draining" if stats.draining else "serving"
    show_pairs(
        {
            "daemon": f"{stats.version}, pid {stats.pid}, {state} for {seconds_text(stats.uptime_seconds)}",
            "memory": bytes_text(stats.resident_bytes),
            "store": stats.store,
            "budget": _budget(stats),
            "": f"{stats.objects} objects {bytes_text(stats.object_bytes)}, uv's cache"
            f" {bytes_text(stats.uv_cache_bytes)}, reserved {bytes_text(stats.reserved_bytes)}",
            "objects": f"{bytes_text(stats.apparent_bytes)} if nothing were shared;"
            f" {bytes_text(stats.exclusive_bytes)} of one object alone,"
            f" {bytes_text(stats.shared_bytes)} of several, the rest is in uv's cache",
            **(
                {"images": f"{bytes_text(stats.image_bytes)} of them, in podman's storage"}
                if stats.image_bytes
                else {}
            ),
            **({"damaged": f"{stats.damaged} objects: see `ray-envd verify`"} if stats.damaged else {}),
            "on disk": f"{bytes_text(stats.store_bytes)}, of which {bytes_text(stats.other_bytes)} are"
            " books, logs and unfinished things",
            "disk": f"{bytes_text(stats.disk_free_bytes)} free of {bytes_text(stats.disk_total_bytes)}",
            "sessions": f"{stats.sessions}, {stats.references} references",
            **({"warm": _warm(stats)} if stats.warm_wanted else {}),
            "asked for": f"{stats.hits} hits, {stats.misses} misses, {stats.failures} failures{share}",
            "builds": f"{stats.builds} done, {stats.building} running",
        }
    )


def _warm(stats: Stats) -> str:
    failed = f", {stats.warm_failed} failed: see the daemon's log" if stats.warm_failed else ""
    return f"{stats.warm_ready} of {stats.warm_wanted} runtime envs of the warm file are ready{failed}"


def _budget(stats: Stats) -> str:
    if not stats.budget_bytes:
        return f"{bytes_text(stats.used_bytes)} used, no limit"
    share = min(1.0, stats.used_bytes / stats.budget_bytes)
    full = round(share * _BAR)
    bar = "#" * full + "." * (_BAR - full)
    return f"[{bar}] {bytes_text(stats.used_bytes)} of {bytes_text(stats.budget_bytes)} ({share:.0%})"
