"""Small builds may overtake a large one that waits for room, but not for ever.

Room that is too small for one who waits serves others meanwhile. Where they come without end, a large build
would never see enough of it at once. So who has been overtaken for some time *goes first*: nobody else gets
room, and what runs gives back what it has. How long that takes is not known, and it may not even help, since
what was built stays. So he goes first for as long as he has waited in all, then others do for as long, and so
on: both times double, and some day are longer than whatever runs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds for which others may overtake at first: small builds take a few, and most waits are over by then.
FAIR = 30.0


class Waiter:
    """One who waits for room."""

    __slots__ = ("began", "overtaken_until")

    def __init__(self, now: float) -> None:
        self.began = now
        self.overtaken_until = now + FAIR


class Overtaking:
    """Who may try to get room. Use from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: Waiter | None = None
        self._until = 0.0

    @contextmanager
    def waiting(self) -> Iterator[Waiter]:
        """Somebody waits during the block."""
        waiter = Waiter(self._clock())
        try:
            yield waiter
        finally:
            if self._first is waiter:
                self._first = None

    def is_barred(self, waiter: Waiter | None) -> bool:
        """Whether another one goes first; None: somebody who has just come."""
        return self._first not in {None, waiter} and self._clock() < self._until

    def missed(self, waiter: Waiter, *, others_build: bool) -> None:
        """There was no room for him; ``others_build``: builds under way will give some back."""
        now = self._clock()
        if self._first is waiter:
            if now >= self._until or not others_build:
                self._first = None
                waiter.overtaken_until = now + (now - waiter.began)
        elif others_build and now >= waiter.overtaken_until and not self.is_barred(waiter):
            self._first, self._until = waiter, now + (now - waiter.began)
