"""The most that any policy could save, were it to know the future: an upper bound, not a policy.

It is offline caching with unequal sizes and costs as an integer program, whose linear relaxation is "FOO" of
D. Berger, N. Beckmann, M. Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes"
(POMACS 2(2), 2018), with seconds to rebuild as the gain. Each gap between two times of use of an item is kept
or not, and so is each unit of shared files while none of its holders is in use; a gap needs its units. At
every moment what is kept has to fit beside what is in use. Whatever a policy does is such choices, so none
saves more. The solver (HiGHS) proves a bound, at first by the relaxation, and finds a solution; it stops when
they are close, or when its time is up, and then the bound is larger than the best there is, never smaller.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from items import Episode, Item, Workload, episodes
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csc_array, csr_array, vstack


class Gap(NamedTuple):
    """An item is not in use from ``begin`` to ``end``, when it is wanted again."""

    item: Item
    begin: float
    end: float


@dataclass(frozen=True)
class Optimum:
    """What the solver found.

    Attributes:
        seconds: of rebuilding; no policy can save more.
        kept: the gaps of the best solution that was found; they fit all together.
    """

    seconds: float
    kept: list[Gap]


class _Span(NamedTuple):
    """Bytes that are on disk for some time, if they are kept."""

    bytes: int
    begin: float
    end: float


def optimum(workload: Workload, capacity: int, limit: float = 10.0) -> Optimum:
    """The most that could be saved with a cache of so many bytes.

    Args:
        workload: what is wanted when.
        capacity: bytes.
        limit: seconds of search beyond the relaxation.

    Raises:
        RuntimeError: the relaxation has no solution.
    """
    found = [each for each in episodes(workload.uses) if each.item.size.apparent <= capacity]
    gaps = _gaps(found)
    if not gaps:
        return Optimum(0.0, [])
    units = _unit_spans(found)
    spans = [_Span(gap.item.size.private, gap.begin, gap.end) for gap in gaps]
    spans += [span for line in units.values() for span in line]
    moments = np.unique([each.begin for each in found])
    free = np.maximum(_free(found, moments, capacity), 0) / _MB
    needs = _needs(gaps, units)
    rows = vstack([_weights(spans, moments), needs], format="csr")
    most = np.concatenate([free, np.zeros(needs.shape[0])])
    gain = np.zeros(len(spans))
    gain[: len(gaps)] = [gap.item.seconds for gap in gaps]
    relaxed = linprog(-gain, A_ub=rows, b_ub=most, bounds=(0, 1), method="highs-ipm")
    if not relaxed.success:
        raise RuntimeError(f"no bound for {workload.name}: {relaxed.message}")
    whole = milp(
        -gain,
        constraints=LinearConstraint(rows, ub=most),
        bounds=Bounds(0, 1),
        integrality=np.arange(len(spans)) < len(gaps),
        options={"time_limit": limit, "mip_rel_gap": _CLOSE},
    )
    proven = relaxed.fun if whole.mip_dual_bound is None else max(relaxed.fun, whole.mip_dual_bound)
    kept = [] if whole.x is None else [gap for gap, x in zip(gaps, whole.x, strict=False) if x > 0.5]
    return Optimum(-float(proven), kept)


def _gaps(found: Iterable[Episode]) -> list[Gap]:
    of = defaultdict[Item, list[Episode]](list)
    for each in found:
        of[each.item].append(each)
    return [Gap(item, one.end, next_.begin) for item, line in of.items() for one, next_ in pairwise(line)]


def _unit_spans(found: Iterable[Episode]) -> dict[str, list[_Span]]:
    """Of each unit the times in which nothing that has it is in use, between the first and the last use."""
    spans, ends = defaultdict[str, list[_Span]](list), dict[str, float]()
    for each in found:
        for unit in each.item.size.units:
            end = ends.get(unit.id, each.begin)
            if end < each.begin:
                spans[unit.id].append(_Span(unit.bytes, end, each.begin))
            ends[unit.id] = max(end, each.end)
    return spans


def _needs(gaps: list[Gap], units: dict[str, list[_Span]]) -> csr_array:
    """A row for each gap and unit span in it: the first is kept only if the second is.

    No gap covers a part of a span: where a gap begins or ends, its item is in use, and so are its units.
    """
    first, columns = len(gaps), list[int]()
    firsts = dict[str, int]()
    for name, line in units.items():
        firsts[name], first = first, first + len(line)
    for column, gap in enumerate(gaps):
        for unit in gap.item.size.units:
            for place, span in enumerate(units.get(unit.id, ())):
                if gap.begin <= span.begin and span.end <= gap.end:
                    columns += [column, firsts[unit.id] + place]
    rows = len(columns) // 2
    values = np.tile([1.0, -1.0], rows)
    return csr_array((values, columns, np.arange(0, 2 * rows + 1, 2)), shape=(rows, first))


def _free(found: Iterable[Episode], moments: NDArray[np.float64], capacity: int) -> NDArray[np.float64]:
    """At each moment the bytes beside what is in use; shared units are in use once."""
    free = np.full(len(moments), float(capacity))
    units = defaultdict[str, NDArray[np.bool_]](lambda: np.zeros(len(moments), bool))
    for each in found:
        during = _during(moments, each.begin, each.end)
        free[during] -= each.item.size.private
        for unit in each.item.size.units:
            free[during] -= unit.bytes * ~units[unit.id][during]
            units[unit.id][during] = True
    return free


def _weights(spans: list[_Span], moments: NDArray[np.float64]) -> csc_array:
    """How many megabytes each span (column) takes at each moment (row)."""
    places = [_during(moments, span.begin, span.end) for span in spans]
    lengths = [place.stop - place.start for place in places]
    rows = np.concatenate([np.arange(place.start, place.stop) for place in places])
    values = np.repeat([span.bytes / _MB for span in spans], lengths)
    return csc_array((values, rows, np.cumsum([0, *lengths])), shape=(len(moments), len(spans)))


def _during(moments: NDArray[np.float64], begin: float, end: float) -> slice:
    """The moments from ``begin`` on and before ``end``."""
    low, high = np.searchsorted(moments, [begin, end])
    return slice(int(low), int(high))


_MB = 1e6
#: So much of the bound may be between it and the solution where the search ends.
_CLOSE = 0.002
