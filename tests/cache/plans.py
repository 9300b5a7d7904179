"""Objects that exist on paper only, for tests of what is collected."""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.ledger import Ledger, Share
from ray_envd.cache.records import Entry, Facts
from ray_envd.cache.sizes import Size, Unit

NOW = 1_000_000.0


def entry(
    name: int,
    size: int,
    *,
    age: float = 0.0,
    kind: str = "python",
    units: Mapping[str, int] | None = None,
    pinned: bool = False,
    damaged: str = "",
    heat: float = 1.0,
    seconds: float = 1.0,
    fetched: int = 0,
    generation: int = 0,
    since: float = -1e9,
) -> Entry:
    """An object whose summary is its name; ``units`` are the shared ones with their bytes."""
    shared = tuple(Unit(unit, weight, "file") for unit, weight in sorted((units or {}).items()))
    facts = Facts(
        str(name),
        Size(size, shared),
        created=0.0,
        build_seconds=seconds,
        details={},
        pinned=pinned,
        fetched_bytes=fetched,
        generation=generation,
        damaged=damaged,
    )
    key = ObjectKey(0, kind, digest_of(name))
    return Entry(key, Path("/nowhere"), facts, last_used=NOW - age, uses=3, heat=heat, since=since)


def ledger(entries: Iterable[Entry], outside: AbstractSet[str] = frozenset()) -> Ledger:
    """Who shares what among them; ``outside``: the units that uv's cache has as well."""
    entries = list(entries)
    units = {unit.id: unit.bytes for each in entries for unit in each.size.units}
    holders = Counter(unit.id for each in entries for unit in each.size.units)
    shares = {name: Share(size, holders[name], name in outside) for name, size in units.items()}
    return Ledger(sum(each.size.private for each in entries), shares)


def number(each: Entry) -> int:
    """The name that :func:`entry` was given."""
    return int(each.summary)
