"""ray-envd's own eviction at work on paper: the objects, sums, worth and plan of ``ray_envd.cache``."""

from collections import Counter
from pathlib import Path

from items import Item, Workload
from replay import World

from ray_envd.agent.config import HIGH, LOW
from ray_envd.cache.gc import Limits, plan
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.past import Past
from ray_envd.cache.records import Facts, Object
from ray_envd.cache.sharing import Sharing


class Ours:
    """The daemon's policy: room is made before a build, by a plan with a target."""

    eager = False

    def __init__(self, _workload: Workload, _capacity: int) -> None:
        self._objects = dict[Item, Object]()
        self._items = dict[ObjectKey, Item]()
        self._sharing = Sharing()
        self._holders = Counter[str]()
        self._past = Past()

    def hit(self, item: Item, now: float) -> None:
        """As ``Objects.hold``."""
        self._objects[item].touch(now)

    def built(self, item: Item, now: float) -> None:
        """As ``Store.commit``: the builder's own use is its first."""
        key = ObjectKey(0, item.kind, item.digest)
        facts = Facts(item.name, item.size, now, item.seconds, {}, fetched_bytes=item.fetched)
        heat = self._past.heat(key, now) + 1.0
        since = self._past.since(key, now)
        made = Object(key, Path("/nowhere"), facts, [], last_used=now, uses=1, heat=heat, since=since)
        self._objects[item], self._items[key] = made, item
        self._sharing.add(made)
        # No file on paper has links from uv's cache: all of a unit's are its holders'.
        self._holders.update(unit.id for unit in item.size.units)
        self._sharing.note_links({unit.id: self._holders[unit.id] for unit in item.size.units})

    def rested(self, item: Item, now: float) -> None:
        """As ``Objects.rest``."""
        if item in self._objects:
            self._objects[item].rest(now)

    def make_room(self, world: World, missing: int, now: float, _coming: Item | None) -> list[Item]:
        """As ``Collector.make_room``."""
        return self._planned(world, now, Limits(), max(0, world.used - missing))

    def _planned(self, world: World, now: float, limits: Limits, target: int | None) -> list[Item]:
        planned = plan(
            [each.entry for each in self._objects.values()],
            ledger=self._sharing.ledger(),
            busy=lambda key: world.busy(self._items[key]),
            limits=limits,
            now=now,
            target=target,
        )
        gone = [self._items.pop(victim.entry.key) for victim in planned.victims]
        for item in gone:
            former = self._objects.pop(item)
            self._sharing.drop(former)
            self._past.note(former.key, former.heat, former.last_used, former.since)
            self._holders.subtract(unit.id for unit in item.size.units)
        return gone


class OursWithWatermarks(Ours):
    """The same with the daemon's default watermarks, as parts of a ``max_bytes`` that is the capacity.

    What the daemon does in the background whenever something was built or given back is done at once: above
    the high watermark it comes down to the low one.
    """

    eager = True

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._marks = Limits(int(HIGH * capacity), int(LOW * HIGH * capacity))

    def make_room(self, world: World, missing: int, now: float, _coming: Item | None) -> list[Item]:
        """Also by the watermarks."""
        if missing <= 0 and world.used <= (self._marks.high_bytes or 0):
            return []
        target = None if missing <= 0 else max(0, world.used - missing)
        return self._planned(world, now, self._marks, target)
