"""A trace that a daemon recorded (``ray-envd trace FILE``) as a workload."""

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from items import Item, Use, Workload, workload

from ray_envd.cache.sizes import Size, Unit

_Key = tuple[int, str, str]


def read_trace(path: Path) -> Workload:
    """The uses in a trace; what is still in use where it ends is used until then.

    Raises:
        ValueError: it holds nothing that could be replayed.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    items = _items(lines)
    uses = _uses(lines, items)
    if not uses:
        raise ValueError(f"{path}: nobody used anything while this was recorded")
    return workload(
        f"recorded: {path.stem}", f"What a daemon did, as `ray-envd trace` wrote it: {path.name}.", uses
    )


def _items(lines: Iterable[dict[str, Any]]) -> dict[_Key, Item]:
    """Each object as it was described last."""
    items = dict[_Key, Item]()
    for line in lines:
        if line["event"] in {"stored", "build"}:
            # A unit without a sample would be an image layer.
            units = tuple(Unit(name, size, "file") for name, size in line["units"])
            size = Size(line["bytes"], units)
            name = f"{line['owner']}/{line['kind']}/{line['digest']}"
            items[_key(line)] = Item(name, line["kind"], size, line["build_seconds"], line["fetched_bytes"])
    return items


def _uses(lines: Iterable[dict[str, Any]], items: dict[_Key, Item]) -> list[Use]:
    """Acquires, each with the release that comes next; who gives back first is he who came first."""
    taken = defaultdict[_Key, deque[float]](deque)
    uses, now = list[Use](), 0.0
    for line in lines:
        key, now = _key(line), line["time"]
        if key not in items:
            continue
        if line["event"] == "acquire":
            taken[key].append(now)
        elif line["event"] == "release":
            for _ in range(min(line["number"], len(taken[key]))):
                begin = taken[key].popleft()
                uses.append(Use(begin, items[key], now - begin))
    return uses + [Use(begin, items[key], now - begin) for key, begins in taken.items() for begin in begins]


def _key(line: dict[str, Any]) -> _Key:
    return line.get("owner", 0), line.get("kind", ""), line.get("digest", "")
