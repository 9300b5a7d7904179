"""What to collect: a pure function of what is stored, what is busy, the limits and the time.

What is worth least goes first (:mod:`ray_envd.cache.worth`, :mod:`ray_envd.cache.candidates`). Nothing is
asked of the disk here and nothing changed; :mod:`ray_envd.cache.collect` acts on the plan.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ray_envd.cache.account import Account
from ray_envd.cache.candidates import Candidate, Candidates
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.records import Entry
from ray_envd.cache.text import bytes_text, seconds_text
from ray_envd.cache.worth import lasting, worth


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may stay.

    Attributes:
        high_bytes: above this, collection starts; None: never of itself.
        low_bytes: down to this it goes then; None: down to ``high_bytes``.
        kind_bytes: the most that objects of a kind may take together, what they share counted once.
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


class Cause(StrEnum):
    """Which limit asks for an object."""

    DAMAGED = "damaged"
    KIND = "kind_limit"
    WHOLE = "whole"  # the high watermark's, or a target's


@dataclass(frozen=True, slots=True)
class Victim:
    """An object to collect, and why.

    Attributes:
        entry: the object.
        cause: which limit asks for it.
        why: the same in words.
        age: seconds since it was used.
        frees: bytes that it frees when its turn comes, those before it being gone.
        worth: seconds that a byte of it was likely to save, see :mod:`ray_envd.cache.worth`.
    """

    entry: Entry
    cause: Cause
    why: str
    age: float
    frees: int
    worth: float

    @property
    def reason(self) -> str:
        """A sentence for people: the figures that decided, and which limit asks for it."""
        entry = self.entry
        uses = "once" if entry.uses == 1 else f"{entry.uses} times"
        if entry.uses > 1 and lasting(entry, entry.last_used + self.age) < 1:
            uses += f" within {seconds_text(entry.last_used - entry.since)}"
        fetched = f" and {bytes_text(entry.fetched_bytes)} of downloads" if entry.fetched_bytes else ""
        return (
            f"used {uses}, unused for {seconds_text(self.age)}, {seconds_text(entry.build_seconds)}{fetched}"
            f" to rebuild, frees {bytes_text(self.frees)}: {self.why}"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to collect.

    Attributes:
        victims: in the order in which they should go.
        freed: bytes that this frees.
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

    Damaged objects go first, always: nobody is given them any more. Then kinds above their own limit come
    down to it. Then, if there is a target or the whole is above the high watermark, what is worth
    least goes until the whole is at most the target or the low watermark; what turns out not to be
    needed for that stays. The whole is all objects and ``extra_bytes``. Pinned and busy objects and
    those used within the last ``min_unused_seconds`` never go, so a goal may be missed.

    Args:
        entries: every object; the order does not matter.
        ledger: who shares what.
        busy: whether an object is held or referenced.
        limits: how much may stay.
        now: unix seconds.
        target: bytes to come down to, also from below the high watermark.
        extra_bytes: bytes of the budget that are no objects, such as uv's cache.
    """
    entries = list(entries)
    planning = _Planning(ledger, extra_bytes, limits, now)
    if planning.has_work(entries, target):
        planning.run(entries, busy, target)
    return planning.result()


class _Planning:
    """One plan in the making."""

    def __init__(self, ledger: Ledger, extra_bytes: int, limits: Limits, now: float) -> None:
        self._ledger, self._extra, self._limits, self._now = ledger, extra_bytes, limits, now
        self._whole = Account.of_all(ledger, extra_bytes)
        self._taken: list[tuple[Candidate, Cause, str]] = []
        self._names: set[tuple[ObjectKey, int]] = set()

    def has_work(self, entries: Iterable[Entry], target: int | None) -> bool:
        """Whether anything might go: most looks end here, and need not ask who is busy."""
        return (
            self._goal(target)[0] is not None
            or bool(self._limits.kind_bytes)
            or any(entry.damaged for entry in entries)
        )

    def run(self, entries: list[Entry], busy: Callable[[ObjectKey], bool], target: int | None) -> None:
        """Chooses."""
        # A time in the future is of a clock that was wrong: it must not keep an object until then.
        least = self._limits.min_unused_seconds
        free = [
            entry
            for entry in entries
            if not entry.pinned and abs(self._now - entry.last_used) >= least and not busy(entry.key)
        ]
        for entry in sorted((entry for entry in free if entry.damaged), key=_name):
            value = worth(entry, self._ledger.exclusive(entry.size), self._now)
            self._take(
                Candidate(entry, value), Cause.DAMAGED, f"it is damaged ({entry.damaged}) and nobody uses it"
            )
        for kind, limit in sorted(self._limits.kind_bytes.items()):
            account = Account.of_some(self._still(entries, kind), self._ledger)
            why = f"{kind} is above its limit of {bytes_text(limit)}"
            for candidate in self._down_to(limit, account, self._still(free, kind)):
                self._take(candidate, Cause.KIND, why)
        goal, why = self._goal(target)
        if goal is not None:
            account = Account(self._whole.bytes, self._whole.holders.copy())
            for candidate in self._down_to(goal, account, self._still(free)):
                self._take(candidate, Cause.WHOLE, why)

    def _still(self, entries: Iterable[Entry], kind: str | None = None) -> list[Entry]:
        """Those that are not victims yet; of one kind, or all."""
        return [
            entry
            for entry in entries
            if (kind is None or entry.key.kind == kind)
            and (not self._names or _name(entry) not in self._names)
        ]

    def _take(self, candidate: Candidate, cause: Cause, why: str) -> None:
        self._whole.take(candidate.entry)
        self._taken.append((candidate, cause, why))
        self._names.add(_name(candidate.entry))

    def _down_to(self, goal: int, account: Account, free: list[Entry]) -> list[Candidate]:
        """Who should go for the account to be at most ``goal``; all who may, if that is not enough."""
        if account.bytes <= goal:
            return []
        candidates = Candidates(free, account, self._now)
        taken = []
        while account.bytes > goal and (candidate := candidates.pop()) is not None:
            account.take(candidate.entry)
            taken.append(candidate)
        if account.bytes > goal:
            return taken
        needed = []
        for candidate in reversed(taken):  # most worth first
            if account.bytes + account.price(candidate.entry) <= goal:
                account.put_back(candidate.entry)
            else:
                needed.append(candidate)
        return needed[::-1]

    def _goal(self, target: int | None) -> tuple[int | None, str]:
        """Down to how many bytes, and why; None: nothing is to go."""
        if target is not None:
            return target, f"asked to come down to {bytes_text(target)}"
        high = self._limits.high_bytes
        if high is None or self._whole.bytes <= high:
            return None, ""
        low = high if self._limits.low_bytes is None else self._limits.low_bytes
        return low, f"the store is above {bytes_text(high)} and comes down to {bytes_text(low)}"

    def result(self) -> Plan:
        """The plan; what each victim frees is counted in the final order."""
        account = Account.of_all(self._ledger, self._extra)
        victims = tuple(
            Victim(
                candidate.entry,
                cause,
                why,
                self._now - candidate.entry.last_used,
                account.take(candidate.entry),
                candidate.worth,
            )
            for candidate, cause, why in self._taken
        )
        return Plan(victims, sum(victim.frees for victim in victims), account.bytes)


def _name(entry: Entry) -> tuple[ObjectKey, int]:
    return entry.key, entry.generation
