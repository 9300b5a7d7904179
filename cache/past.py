"""How warm objects were that have been evicted, so that who comes back is known.

An object that is evicted and built again begins with the heat that it had, faded: "Perfect-LFU" and not
"In-Cache LFU" in the words of L. Breslau et al., "Web Caching and Zipf-like Distributions" (INFOCOM 1999), as
the ghosts of ARC and S3-FIFO. Without it all that does not fit looks new each time, and what is wanted daily
is worth no more than what is wanted once (``benchmarks/hit_rates``: scans).

It is kept in memory only: after a restart of the daemon, what was evicted before begins anew.
"""

from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.worth import warmed

_MOST = 10_000  # objects; a megabyte or two


class Past:
    """The heat of evicted objects; those forget first that were evicted first. Behind the table's lock."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._heats: dict[ObjectKey, tuple[float, float, float]] = {}

    def note(self, key: ObjectKey, heat: float, last_used: float, since: float) -> None:
        """An object goes that had so much heat when it was last used, of uses since then (unix seconds)."""
        self._heats.pop(key, None)
        self._heats[key] = heat, last_used, since
        while len(self._heats) > self._most:
            del self._heats[next(iter(self._heats))]

    def heat(self, key: ObjectKey, now: float) -> float:
        """What is left of it; 0.0 of what was never here, or long ago."""
        heat, last_used, _ = self._heats.get(key, (0.0, now, now))
        return warmed(heat, last_used, now)

    def since(self, key: ObjectKey, now: float) -> float:
        """When it was first used; ``now`` of what was never here."""
        return self._heats.get(key, (0.0, now, now))[2]
