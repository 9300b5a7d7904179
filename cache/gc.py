"""What to collect: a pure function of what is stored, what is busy, the limits and the time.

Least recently used goes first. Nothing is asked of the disk here and nothing changed;
:mod:`ray_envd.cache.collect` acts on the plan.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.records import Entry
from ray_envd.cache.text import bytes_text


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may stay.

    Attributes:
        high_bytes: above this, collection starts; None: never of itself.
        low_bytes: down to this it goes then; None: down to ``high_bytes``.
        kind_bytes: the most that objects of a kind may take together.
        min_unused_seconds: what was used more recently stays.

    Raises:
        ValueError: a number is negative, or low is above high.
    """

    high_bytes: int | None = None
    low_bytes: int | None = None
    kind_bytes: Mapping[str, int] = field(default_factory=dict)
    min_unused_seconds: float = 0.0

    def __post_init__(self) -> None:
        numbers = (
            self.high_bytes or 0,
            self.low_bytes or 0,
            self.min_unused_seconds,
            *self.kind_bytes.values(),
        )
        if min(numbers) < 0:
            raise ValueError(f"a limit is negative: {self}")
        if self.low_bytes is not None and (self.high_bytes is None or self.low_bytes > self.high_bytes):
            raise ValueError(f"the low watermark {self.low_bytes} is above the high one {self.high_bytes}")


@dataclass(frozen=True, slots=True)
class Victim:
    """An object to collect, and why."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to collect.

    Attributes:
        victims: in the order in which they should go.
        freed: bytes that this frees, as far as is known.
        remaining: bytes that stay, with those that are not objects.
    """

    victims: tuple[Victim, ...]
    freed: int
    remaining: int


def plan(
    entries: Iterable[Entry],
    *,
    ledger: Ledger,
    busy: Callable[[ObjectKey], bool],
    limits: Limits,
    now: float,
    target: int | None = None,
    extra_bytes: int = 0,
) -> Plan:
    """What should be collected now.

    Kinds above their own limit come down to it first. Then, if there is a target or the whole is above the
    high watermark, the least recently used objects go until the whole is at most the target or the low
    watermark. The whole is all objects and ``extra_bytes``. Pinned and busy objects and those used within the
    last ``min_unused_seconds`` never go, so the goal may be missed.

    Args:
        entries: every object; the order does not matter.
        ledger: who shares what.
        busy: whether an object is held or referenced.
        limits: how much may stay.
        now: unix seconds.
        target: bytes to come down to, also from below the high watermark.
        extra_bytes: bytes of the budget that are no objects, such as uv's cache.
    """
    by_age = sorted(entries, key=_age)
    free = [
        entry
        for entry in by_age
        if not entry.pinned and now - entry.last_used >= limits.min_unused_seconds and not busy(entry.key)
    ]
    whole = ledger.total + extra_bytes
    victims = {
        victim.entry.key: victim for victim in _over_kind_limits(by_age, free, limits.kind_bytes, ledger)
    }
    freed = sum(ledger.exclusive(victim.entry.size) for victim in victims.values())
    goal, reason = _goal(whole - freed, limits, target)
    for entry in free:
        if goal is None or whole - freed <= goal:
            break
        if entry.key not in victims:
            victims[entry.key] = Victim(entry, reason)
            freed += ledger.exclusive(entry.size)
    return Plan(tuple(victims.values()), freed, whole - freed)


def _age(entry: Entry) -> tuple[float, ObjectKey]:
    """Least recently used first; the key settles ties, so that equal input gives an equal plan."""
    return entry.last_used, entry.key


def _over_kind_limits(
    entries: Iterable[Entry], free: Iterable[Entry], kind_bytes: Mapping[str, int], ledger: Ledger
) -> list[Victim]:
    left = dict.fromkeys(kind_bytes, 0)
    for entry in entries:
        if entry.key.kind in left:
            left[entry.key.kind] += ledger.exclusive(entry.size)
    victims = []
    for entry in free:
        kind = entry.key.kind
        if kind in left and left[kind] > kind_bytes[kind]:
            victims.append(Victim(entry, f"{kind} is above its limit of {bytes_text(kind_bytes[kind])}"))
            left[kind] -= ledger.exclusive(entry.size)
    return victims


def _goal(whole: int, limits: Limits, target: int | None) -> tuple[int | None, str]:
    """Down to how many bytes, and why; None: nothing is to go."""
    if target is not None:
        return target, f"asked to come down to {bytes_text(target)}"
    high = limits.high_bytes
    if high is None or whole <= high:
        return None, ""
    low = high if limits.low_bytes is None else limits.low_bytes
    return low, f"the store is above {bytes_text(high)} and comes down to {bytes_text(low)}"
