"""uv's caches inside the budget while builds write into them. Arithmetic only; guarded by its one caller.

How many bytes uv's caches hold is measured by walking them, now and then. In between builds write into them,
and what each has written there cannot be told apart. So that no byte is missed and few are counted twice:

- what was measured when nothing was running is *settled*, and counts as stored;
- what came on top since is *pending*: it is covered by the reservations of the builds that run;
- when such a build ends, its reservation turns into *unsettled* bytes, which count as stored until the next
  measurement has found out how many there really are.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """The state when a measurement began."""

    unsettled: int
    begun: int


class Growth:
    """The account.

    Attributes:
        last: what was measured last.
    """

    def __init__(self) -> None:
        self.last = 0
        self._base = self._unsettled = self._running = self._begun = 0

    @property
    def stored(self) -> int:
        """What counts as stored."""
        return self._base + self._unsettled

    @property
    def pending(self) -> int:
        """What running builds have written, as far as is known."""
        return max(0, self.last - self.stored)

    @property
    def is_settled(self) -> bool:
        """Whether nothing was written since the last measurement."""
        return not self._unsettled and not self._running

    def begin(self) -> None:
        """A build that writes into uv's cache begins."""
        self._running += 1
        self._begun += 1

    def end(self, reserved: int) -> None:
        """It has ended, and may have written as much as it had reserved."""
        self._running -= 1
        self._unsettled += reserved

    def mark(self) -> Mark:
        """To be taken before a measurement."""
        return Mark(self._unsettled, self._begun)

    def measured(self, total: int, mark: Mark) -> None:
        """A measurement that began at this mark has found so many bytes."""
        self.last = total
        if not self._running and mark.begun == self._begun and mark.unsettled == self._unsettled:
            self._base, self._unsettled = total, 0
            return
        self._base += min(max(0, total - self._base), mark.unsettled)
        self._base = min(self._base, total)  # it was pruned
        self._unsettled -= mark.unsettled
