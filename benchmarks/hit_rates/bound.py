"""The most that any policy could save, were it to know the future: an upper bound, not a policy.

It is the linear relaxation of offline caching with unequal sizes and costs, "FOO" of D. Berger, N. Beckmann,
M. Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes" (POMACS 2(2), 2018), with
seconds to rebuild as the gain. For each gap between two times of use of an item a number from 0 to 1 says how
much of it is kept meanwhile; at every moment what is kept has to fit beside what is in use. Whatever a policy
does is such numbers, so none saves more. Three things make the bound larger than the best there is, never
smaller: parts of items may be kept, only some moments are looked at (``rows``), and of a unit that several
items have each is charged an equal part only, counting those that could be kept at that moment, and nothing
while one of them is in use.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from items import Episode, Item, Workload, episodes
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack


class Gap(NamedTuple):
    """An item is not in use from ``begin`` to ``end``, when it is wanted again."""

    item: Item
    begin: float
    end: float


@dataclass(frozen=True)
class Relaxed:
    """The relaxation's solution.

    Attributes:
        seconds: of rebuilding; no policy can save more.
        gaps: all of what fits the cache at all.
        kept: how much of it is kept in each of them, from 0 to 1.
    """

    seconds: float
    gaps: list[Gap]
    kept: NDArray[np.float64]


def relaxed(workload: Workload, capacity: int, rows: int = 800) -> Relaxed:
    """The most that could be saved with a cache of so many bytes, and how."""
    fitting = [each for each in episodes(workload.uses) if each.item.size.apparent <= capacity]
    gaps = _gaps(fitting)
    if not gaps:
        return Relaxed(0.0, [], np.zeros(0))
    begins = np.unique([each.begin for each in fitting])
    moments = begins[np.unique(np.linspace(0, len(begins) - 1, rows).astype(int))]
    free, taken = in_use(fitting, moments, capacity)
    gain = np.array([gap.item.seconds for gap in gaps])
    solved = linprog(
        -gain,
        A_ub=_weights(gaps, moments, taken),
        b_ub=np.maximum(free, 0) / _MB,
        bounds=(0, 1),
        method="highs",
    )
    if not solved.success:
        raise RuntimeError(f"no bound for {workload.name}: {solved.message}")
    return Relaxed(-float(solved.fun), gaps, solved.x)


def _gaps(found: list[Episode]) -> list[Gap]:
    of = defaultdict[Item, list[Episode]](list)
    for each in found:
        of[each.item].append(each)
    return [Gap(item, one.end, next_.begin) for item, line in of.items() for one, next_ in pairwise(line)]


def span(moments: NDArray[np.float64], begin: float, end: float) -> slice:
    """The moments from ``begin`` on and before ``end``."""
    low, high = np.searchsorted(moments, [begin, end])
    return slice(int(low), int(high))


def in_use(
    found: list[Episode], moments: NDArray[np.float64], capacity: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """At each moment: bytes beside what is in use, and of each unit whether it is in use."""
    free = np.full(len(moments), float(capacity))
    units = defaultdict[str, NDArray[np.bool_]](lambda: np.zeros(len(moments), bool))
    for each in found:
        during = span(moments, each.begin, each.end)
        free[during] -= each.item.size.private
        for unit in each.item.size.units:
            free[during] -= unit.bytes * ~units[unit.id][during]
            units[unit.id][during] = True
    return free, units


def _weights(gaps: list[Gap], moments: NDArray[np.float64], taken: dict[str, NDArray[np.bool_]]) -> csr_array:
    """How many megabytes each gap (column) is charged with at each moment (row)."""
    spans = [span(moments, gap.begin, gap.end) for gap in gaps]
    sharers = defaultdict[str, NDArray[np.float64]](lambda: np.zeros(len(moments)))
    for gap, during in zip(gaps, spans, strict=True):
        for unit in gap.item.size.units:
            sharers[unit.id][during] += 1
    lines = []
    for gap, during in zip(gaps, spans, strict=True):
        charged = np.full(during.stop - during.start, gap.item.size.private / _MB)
        for unit in gap.item.size.units:
            part = unit.bytes / _MB / np.maximum(sharers[unit.id][during], 1)
            charged += np.where(taken[unit.id][during], 0.0, part)
        places = np.arange(during.start, during.stop)
        lines.append(csr_array((charged, places, [0, len(places)]), shape=(1, len(moments))))
    return vstack(lines).T.tocsr()


_MB = 1e6
