"""What a build tells its waiters while it runs.

A build reports events; each waiter listens with a callback of its own (the set-up log of its job, a
gRPC stream, a progress bar). Somebody who joins late hears first what has happened so far. All of it
happens on the event loop.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

Listener = Callable[["Event"], None]


@dataclass(frozen=True, slots=True)
class Event:
    """One step of one field's preparation.

    ``done`` and ``total`` are bytes or items of this phase; ``total`` is 0 where it is not known.
    """

    field: str
    phase: str
    detail: str = ""
    done: int = 0
    total: int = 0

    def line(self) -> str:
        """The event as a line of a set-up log, without secrets if ``detail`` has none."""
        text = f"{self.field}: {self.phase}"
        if self.detail:
            text += f" {self.detail}"
        if self.total:
            text += f" ({100 * self.done // self.total} %, {self.done}/{self.total})"
        elif self.done:
            text += f" ({self.done})"
        return text


class Progress:
    """The events of one build and those who listen to them."""

    def __init__(self) -> None:
        self._history: list[Event] = []
        self._listeners: list[Listener] = []
        self._alike: Counter[Hashable] = Counter()
        self._stops: dict[Hashable, Callable[[], None]] = {}
        self._told: set[Hashable] = set()

    def listen_once(self, listener: Listener, key: Hashable) -> Callable[[], None]:
        """:meth:`listen`, but for one of all who come with the same key; until the last of them stops."""
        self._alike[key] += 1
        if self._alike[key] == 1:
            self._stops[key] = self.listen(listener)

        def stop() -> None:
            self._alike[key] -= 1
            if not self._alike[key]:
                self._stops.pop(key)()

        return stop

    def tell_once(self, key: Hashable) -> bool:
        """Whether this is the first call with this key: how the build has ended is told once, too."""
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls the listener with what has been and with what comes; returns the way to stop it."""
        for event in self._history:
            listener(event)
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def report(self, field: str, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        """Tells every listener. Call on the event loop."""
        event = Event(field, phase, detail, done, total)
        # A running count replaces itself, so that the history stays short.
        if self._history and self._history[-1].phase == phase and self._history[-1].field == field and done:
            self._history[-1] = event
        else:
            self._history.append(event)
        for listener in tuple(self._listeners):
            listener(event)
