"""Who builds now, and who waits: bounded, fair between sessions, small builds not stuck behind large ones.

How long a build will take is not known before it is done, so it is judged by how long it has run: a multi-level
feedback queue (Corbató, Merwin-Daggett and Daley, "An Experimental Time-Sharing System", AFIPS 1962) of two
levels. Every build starts in the *young* lane, which has a place for each core. One that has run longer than a
quantum moves to the *old* lane, as soon as that has room, and a young one starts in its place. There is nothing
to preempt: a build runs on where it is, so both lanes together bound how many run.

Those who wait are served in turn, one of each session, and within a session in the order in which they came.
A build that several sessions wait for takes the earliest of their turns.

Use from one event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

#: Seconds that a build may be young: a hit on uv's cache takes a tenth of one, a large download many.
QUANTUM = 3.0


class _Ticket:
    """One who waits for a place, or has it."""

    __slots__ = ("granted", "sessions", "timer")

    def __init__(self) -> None:
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sessions: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None


class Slots:
    """The places of both lanes.

    Args:
        young: how many builds may run that are younger than the quantum.
        old: how many more may run that are older.
        quantum: seconds.
    """

    def __init__(self, young: int, old: int, quantum: float = QUANTUM) -> None:
        self._most_young, self._most_old, self._quantum = young, old, quantum
        self._young: set[_Ticket] = set()
        self._old: set[_Ticket] = set()
        self._late: deque[_Ticket] = deque()  # young ones that would be old if there were room
        # In the order of their turns; a session without tickets has no queue.
        self._queues: dict[str, deque[_Ticket]] = {}
        self._shared: dict[Hashable, _Ticket] = {}
        self._waiting: set[_Ticket] = set()

    @property
    def waiting(self) -> int:
        """How many builds wait for a place."""
        return len(self._waiting)

    @property
    def young(self) -> int:
        """How many places of the young lane are taken."""
        return len(self._young)

    @property
    def old(self) -> int:
        """How many places of the old lane are taken."""
        return len(self._old)

    @asynccontextmanager
    async def slot(
        self, session: str, key: Hashable = None, on_wait: Callable[[int], None] | None = None
    ) -> AsyncIterator[None]:
        """A place for the length of the block.

        Args:
            session: whose turn it takes.
            key: under which other sessions can :meth:`join`; None where nobody can.
            on_wait: called, if there is no place at once, with how many wait already.
        """
        ticket = _Ticket()
        waiting = len(self._waiting)
        self._enqueue(ticket, session)
        self._waiting.add(ticket)
        if key is not None:
            self._shared[key] = ticket
        try:
            self._dispatch()
            if not ticket.granted.done() and on_wait is not None:
                on_wait(waiting)
            await ticket.granted
            yield
        finally:
            if key is not None:
                del self._shared[key]
            self._leave(ticket)

    def join(self, session: str, key: Hashable) -> None:
        """A session waits for a build that another one has asked for: its turn counts too."""
        ticket = self._shared.get(key)
        if ticket in self._waiting and session not in ticket.sessions:
            self._enqueue(ticket, session)

    def _enqueue(self, ticket: _Ticket, session: str) -> None:
        ticket.sessions.add(session)
        self._queues.setdefault(session, deque()).append(ticket)

    def _dequeue(self, ticket: _Ticket) -> None:
        self._waiting.discard(ticket)
        for session in ticket.sessions:
            queue = self._queues[session]
            queue.remove(ticket)
            if not queue:
                del self._queues[session]
        ticket.sessions.clear()

    def _dispatch(self) -> None:
        while self._queues and len(self._young) < self._most_young:
            session, queue = next(iter(self._queues.items()))
            # To the end of the turns; gone if this was its only ticket.
            self._queues[session] = self._queues.pop(session)
            self._grant(queue[0])

    def _grant(self, ticket: _Ticket) -> None:
        self._dequeue(ticket)
        self._young.add(ticket)
        ticket.timer = asyncio.get_running_loop().call_later(self._quantum, self._grow_old, ticket)
        ticket.granted.set_result(None)

    def _grow_old(self, ticket: _Ticket) -> None:
        if len(self._old) < self._most_old:
            self._young.remove(ticket)
            self._old.add(ticket)
            self._dispatch()
        else:
            self._late.append(ticket)

    def _leave(self, ticket: _Ticket) -> None:
        """Of one that has done its work, or waits no more; also if it was granted a place at that moment."""
        if ticket in self._waiting:
            self._dequeue(ticket)
            return
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._young.discard(ticket)
        self._old.discard(ticket)
        if ticket in self._late:
            self._late.remove(ticket)
        elif self._late and len(self._old) < self._most_old:
            self._grow_old(self._late.popleft())
        self._dispatch()
