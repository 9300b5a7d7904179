"""What keeping an object is worth: the seconds that it is likely to save, for each byte that it takes.

::

    worth = standing(now) ** 0.7 x (build seconds + fetched bytes / bandwidth + overhead) / size

It is the priority of GreedyDual-Size-Frequency (L. Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HP Laboratories, HPL-98-69R1, 1998): frequency times cost by size.
That policy ages objects with a counter which grows with each eviction; here the frequency itself fades, as
the "combined recency and frequency" of LRFU (D. Lee et al., "LRFU: A Spectrum of Policies that Subsumes the
Least Recently Used and Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001): each
use adds one, and what was there halves every :data:`HALF_LIFE`. So nothing needs to be kept but the heat and
the time of the last use, and two objects keep their order as long as neither is used. Both together are the
Least Unified-Value of H. Bahn et al. ("Using Full Reference History for Efficient Document Replacement in Web
Caches", USITS 1999). The exponent is that of L. Cherkasova and G. Ciardo ("Role of Aging, Frequency, and Size
in Web Cache Replacement Policies", HPCN Europe 2001): uses come in bursts, and a burst saves one rebuild.

``standing`` is heat while an object is unused for no longer than it was in use (from its first use to its
last, and :data:`SESSION`). If it is silent for longer, it is likely done with, and what it was used more than
once counts ever less, until it stands where one use would have brought it. From the same three figures (uses,
the first, the last) P. Fader, B. Hardie and K. Lee tell how likely a customer comes back ("'Counting Your
Customers' the Easy Way", Marketing Science 24(2), 2005); this is simpler, and takes nothing from one use.

Everything here is a pure function of its arguments.
"""

import math
from dataclasses import dataclass
from typing import Protocol

#: Seconds after which a use counts half: a week. Jobs come back daily and weekly. Found by replaying
#: workloads (``benchmarks/hit_rates``): with a day, pipelines that run weekly are forgotten before they come
#: back, and little is gained elsewhere; with months, what has gone out of use stays too long.
HALF_LIFE = 7 * 86400.0
#: What uses are raised to, found in the same way: with 1, what a notebook ran ten times in a morning
#: outlives what is wanted once a week; with 0.5, what is wanted once and never again is worth too much.
FREQUENCY = 0.7
#: Seconds for which something counts as in use after any use, and the power to which a longer silence counts.
#: Found in the same way: without them the old versions of envs that share nothing outlive the newest.
SESSION = 4 * 3600.0
SILENCE = 2.0


class Rated(Protocol):
    """What the worth of an object depends on besides its size; see :class:`ray_envd.cache.records.Entry`."""

    @property
    def heat(self) -> float:
        """How often it was used, faded, as of the last use."""

    @property
    def last_used(self) -> float:
        """Unix seconds."""

    @property
    def since(self) -> float:
        """Of its first use; unix seconds."""

    @property
    def build_seconds(self) -> float:
        """What it took to make."""

    @property
    def fetched_bytes(self) -> int:
        """What was downloaded for it."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The constants of the formula.

    Attributes:
        half_life: seconds after which a use counts half.
        frequency: the power to which heat is raised.
        session: seconds for which something counts as in use after any use.
        silence: the power to which a longer silence counts.
        bytes_per_second: how many downloaded bytes weigh as much as a second of building. The measured
            seconds hold the download as quick as it was that day; this adds what it costs network and index.
        overhead_seconds: what any rebuild costs beyond what was measured: a worker that waits, the request.
        least_bytes: what an object counts at least; what frees less than a block is not worth its removal.
    """

    half_life: float = HALF_LIFE
    frequency: float = FREQUENCY
    session: float = SESSION
    silence: float = SILENCE
    bytes_per_second: float = 500e6
    overhead_seconds: float = 0.02
    least_bytes: int = 4096


WEIGHTS = Weights()


def warmed(heat: float, last_used: float, now: float, half_life: float = HALF_LIFE) -> float:
    """The heat at ``now`` of what had ``heat`` when it was last used; a use at ``now`` adds one.

    A clock that went back changes nothing: no time has passed.
    """
    age = now - last_used
    return heat * 2.0 ** (-age / half_life) if age > 0 else heat


def worth(rated: Rated, size: float, now: float, weights: Weights = WEIGHTS) -> float:
    """Seconds saved per byte held: higher stays longer.

    Args:
        rated: the object.
        size: bytes that its removal frees, or that it answers for.
        now: unix seconds.
        weights: the constants.
    """
    heat = warmed(rated.heat, rated.last_used, now, weights.half_life)
    if heat > 1.0:
        heat = 1.0 + (heat - 1.0) * lasting(rated, now, weights)
    return (
        math.pow(heat, weights.frequency) * rebuild_seconds(rated, weights) / max(size, weights.least_bytes)
    )


def lasting(rated: Rated, now: float, weights: Weights = WEIGHTS) -> float:
    """Which part of its repeated uses counts: 1 until it is silent for longer than it was in use."""
    # A clock that went back may say that the first use was after the last.
    span = max(0.0, rated.last_used - rated.since) + weights.session
    silent = now - rated.last_used
    return 1.0 if silent <= span else math.pow(span / silent, weights.silence)


def rebuild_seconds(rated: Rated, weights: Weights = WEIGHTS) -> float:
    """What it costs to have the object again, as seconds."""
    return rated.build_seconds + rated.fetched_bytes / weights.bytes_per_second + weights.overhead_seconds
