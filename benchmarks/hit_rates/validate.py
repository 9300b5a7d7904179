"""Is the harness right? Its textbook policies against libcachesim's on a plain trace: one size, nobody holds.

libcachesim (Yang et al., github.com/cacheMon/libCacheSim) is what the papers' authors measure with.
"""

import random
from collections.abc import Callable
from typing import Any, TextIO

from density import Hyperbolic
from items import START, Item, Use, Workload, workload
from peers import Lfu, Lru
from queues import S3Fifo, WTinyLfu
from replay import Policy, replay

from ray_envd.cache.sizes import Size

#: Of a hundred bytes each: libcachesim's sketch has a counter for each byte, which is enough then.
_ITEMS, _REQUESTS, _SIZE = 5000, 100_000, 100
_CACHES = (250, 1000)
#: Hit rates may differ by so much. W-TinyLFU's of libcachesim counts in a sketch, ours exactly.
_APART = 0.005


class AsLibcachesim(WTinyLfu):
    """W-TinyLFU as libcachesim has it: hits in the window do not count, contests do; a longer sample."""

    sample = 32 * _SIZE

    def hit(self, item: Item, now: float) -> None:
        """Counts in the main part only."""
        if item in self.window:
            self.window.push(item)
        else:
            super().hit(item, now)

    def contested(self, newcomer: Item) -> None:
        """Counts."""
        self.count(newcomer)


_OURS: dict[str, Callable[[Workload, int], Policy]] = {
    "LRU": Lru,
    "LFU": Lfu,
    "S3FIFO": S3Fifo,
    "WTinyLFU": AsLibcachesim,
    "Hyperbolic": Hyperbolic,
}


def plain(seed: int = 1) -> Workload:
    """Zipf's (1.0) popularity, a tenth of requests for items that come once; each given back at once."""
    chance = random.Random(f"plain {seed}")
    items = [Item(f"plain{n}", "python", Size(_SIZE), 1.0) for n in range(_ITEMS)]
    weights = [1 / rank for rank in range(1, _ITEMS + 1)]
    picked = chance.choices(items, weights, k=_REQUESTS)
    once = (Item(f"once{n}", "python", Size(_SIZE), 1.0) for n in range(_REQUESTS))
    picked = [next(once) if chance.random() < 0.1 else item for item in picked]
    return workload("plain", str(plain.__doc__), [Use(START + n, item, 0.5) for n, item in enumerate(picked)])


def validate(out: TextIO) -> bool:
    """Prints both hit rates of each policy; whether all agree."""
    trace, agreed = plain(), True
    numbers = {item: number for number, item in enumerate(trace.items)}
    asked = [numbers[use.item] for use in trace.uses]
    for name, ours in _OURS.items():
        for capacity in _CACHES:
            mine = replay(trace, capacity * _SIZE, ours).hit_rate
            theirs = _theirs(name, capacity, asked)
            agreed &= abs(mine - theirs) <= _APART
            line = f"{name:9} {capacity:5} items: harness {mine:.4f}, libcachesim {theirs:.4f}"
            print(f"{line}, apart {abs(mine - theirs):.4f}", file=out)
    print("they agree" if agreed else f"they differ by more than {_APART}", file=out)
    return agreed


def _theirs(name: str, capacity: int, asked: list[int]) -> float:
    import libcachesim  # noqa: PLC0415 - needed for this only, and not there on every platform

    # Its default table has 2^24 places.
    cache: Any = getattr(libcachesim, name)(cache_size=capacity * _SIZE, hashpower=16)
    hits, request = 0, libcachesim.Request()
    for time, number in enumerate(asked):
        request.obj_id, request.obj_size, request.clock_time = number + 1, _SIZE, time
        hits += cache.get(request)
    return hits / len(asked)
