"""What there is to build: sizes and times like those of real environments and packages.

An environment's parts are small (a few wheels), medium (numpy, pandas and their like) or heavy (a torch of
gigabytes); times are a start, the download at a speed of its own, and unpacking. Medians are those of
environments that were built on the machine of the first results; the spread is wide, as it is in life.
"""

import math
import random

from items import Item

from ray_envd.cache.sizes import Size, Unit

MB = 10**6
_SIZES = {"small": (15 * MB, 1.0), "medium": (300 * MB, 0.7), "heavy": (3500 * MB, 0.5)}  # median, sigma
_PACKED = 0.3  # downloaded bytes for each byte on disk
_UNPACKED_PER_SECOND = 150 * MB


def environment(chance: random.Random, name: str, heavy: float = 0.1) -> Item:
    """A Python environment; ``heavy``: how likely it holds gigabytes."""
    draw = chance.random()
    sort = "heavy" if draw < heavy else "medium" if draw < heavy + 0.4 * (1 - heavy) else "small"
    size = int(_spread(chance, *_SIZES[sort]))
    fetched = int(size * _PACKED)
    seconds = 0.3 + _seconds(chance, fetched, size)
    if chance.random() < 0.1:
        seconds += _spread(chance, 40, 0.8)  # something is compiled
    return Item(name, "python", Size(size), seconds, fetched)


def variant(chance: random.Random, of: Item, name: str) -> Item:
    """The same environment with a package more: what it had is linked, what is new is fetched.

    To have it again when all of it is gone takes as long as the whole; that is what an item's seconds say.
    """
    shared = of.size.units or (Unit(of.name, of.size.private, "x"),)
    more = int(_spread(chance, 20 * MB, 1.0))
    fetched = int(more * _PACKED)
    units = (*shared, Unit(name, more, "x"))
    return Item(
        name, "python", Size(MB, units), of.seconds + _seconds(chance, fetched, more), of.fetched + fetched
    )


def package(chance: random.Random, name: str) -> Item:
    """A working dir's archive, or a module's."""
    size = int(min(_spread(chance, 2 * MB, 2.0), 400 * MB))
    return Item(name, "archive", Size(size), 0.05 + _seconds(chance, size, size), size)


def revision(of: Item, name: str) -> Item:
    """The next version of a package: it is as large."""
    return Item(name, of.kind, of.size, of.seconds, of.fetched)


def _seconds(chance: random.Random, fetched: int, unpacked: int) -> float:
    return fetched / _spread(chance, 20 * MB, 0.6) + unpacked / _UNPACKED_PER_SECOND


def _spread(chance: random.Random, median: float, sigma: float) -> float:
    return chance.lognormvariate(math.log(median), sigma)
