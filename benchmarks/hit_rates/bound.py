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
from itertools import pairwise

import numpy as np
from items import Episode, Item, Workload, episodes
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack


def most_saved(workload: Workload, capacity: int, rows: int = 800) -> float:
    """Seconds of rebuilding that no policy with a cache of so many bytes can save more of."""
    fitting = [each for each in episodes(workload.uses) if each.item.size.apparent <= capacity]
    gaps = _gaps(fitting)
    if not gaps:
        return 0.0
    begins = np.unique([each.begin for each in fitting])
    moments = begins[np.unique(np.linspace(0, len(begins) - 1, rows).astype(int))]
    free, in_use = _in_use(fitting, moments, capacity)
    gain = np.array([item.seconds for item, _, _ in gaps])
    solved = linprog(
        -gain, A_ub=_weights(gaps, moments, in_use), b_ub=np.maximum(free, 0), bounds=(0, 1), method="highs"
    )
    if not solved.success:
        raise RuntimeError(f"no bound for {workload.name}: {solved.message}")
    return -float(solved.fun)


_Gap = tuple[Item, float, float]


def _gaps(found: list[Episode]) -> list[_Gap]:
    of = defaultdict[Item, list[Episode]](list)
    for each in found:
        of[each.item].append(each)
    return [(item, one.end, next_.begin) for item, line in of.items() for one, next_ in pairwise(line)]


def _span(moments: NDArray[np.float64], begin: float, end: float) -> slice:
    """The moments from ``begin`` on and before ``end``."""
    low, high = np.searchsorted(moments, [begin, end])
    return slice(int(low), int(high))


def _in_use(
    found: list[Episode], moments: NDArray[np.float64], capacity: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """At each moment: megabytes beside what is in use, and of each unit whether it is in use."""
    taken = np.zeros(len(moments))
    units = defaultdict[str, NDArray[np.bool_]](lambda: np.zeros(len(moments), bool))
    for each in found:
        span = _span(moments, each.begin, each.end)
        taken[span] += each.item.size.private
        for unit in each.item.size.units:
            taken[span] += unit.bytes * ~units[unit.id][span]
            units[unit.id][span] = True
    return (capacity - taken) / _MB, units


def _weights(
    gaps: list[_Gap], moments: NDArray[np.float64], in_use: dict[str, NDArray[np.bool_]]
) -> csr_array:
    """How many megabytes each gap (column) is charged with at each moment (row)."""
    spans = [_span(moments, begin, end) for _, begin, end in gaps]
    sharers = defaultdict[str, NDArray[np.float64]](lambda: np.zeros(len(moments)))
    for (item, _, _), span in zip(gaps, spans, strict=True):
        for unit in item.size.units:
            sharers[unit.id][span] += 1
    lines = []
    for (item, _, _), span in zip(gaps, spans, strict=True):
        charged = np.full(span.stop - span.start, item.size.private / _MB)
        for unit in item.size.units:
            part = unit.bytes / _MB / np.maximum(sharers[unit.id][span], 1)
            charged += np.where(in_use[unit.id][span], 0.0, part)
        places = np.arange(span.start, span.stop)
        lines.append(csr_array((charged, places, [0, len(places)]), shape=(1, len(moments))))
    return vstack(lines).T.tocsr()


_MB = 1e6
