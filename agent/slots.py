"""Who builds now, and who waits: bounded, fair between sessions, small builds not stuck behind large ones.

How long a build will take is not known before it is done, so it is judged by how long it has run: a
multi-level feedback queue (Corbató, Merwin-Daggett and Daley, "An Experimental Time-Sharing System", AFIPS
1962) of two levels. Every build starts in the *young* lane, which has a place for each core. One that has
run longer than a quantum moves to the *old* lane as soon as that has room, and another starts in its place.
Nothing is preempted, so both lanes together bound how many run.

Those who wait are served in turn, one of each session, and within a session in the order in which they came.
A build that several sessions wait for takes the earliest of their turns.

A place is known by the context (contextvars) of the task that took it, and of those that this one starts:
work inside of work takes no second one. Who has a place never waits for anything but its own work: while it
waits for room or for somebody else's build it has :meth:`Slots.lent` the place, so no two can wait for each
other.

Use from one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar

#: Seconds that a build may be young: a hit on uv's cache takes a tenth of one, a large download many.
QUANTUM = 3.0


class _Ticket:
    """One who waits for a place, or has it, or has lent it."""

    __slots__ = ("granted", "session", "timer", "turns")

    def __init__(self, session: str) -> None:
        self.session = session
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.turns: set[str] = set()  # the sessions in whose queues it waits
        self.timer: asyncio.TimerHandle | None = None


_of_this_task: ContextVar[_Ticket | None] = ContextVar("slot", default=None)


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
        #: Told how many seconds each one has waited, be it none; also of those who were cancelled meanwhile.
        self.on_waited: Callable[[float], None] = lambda _: None

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
        mine = _of_this_task.get()
        if mine is not None and self._has_place(mine):
            yield
            return
        ticket = _Ticket(session)
        if key is not None:
            self._shared[key] = ticket
        before = _of_this_task.set(ticket)
        try:
            await self._place(ticket, on_wait)
            yield
        finally:
            _of_this_task.reset(before)
            if key is not None:
                del self._shared[key]
            self._leave(ticket)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Leaves this task's place, if it has one, to others for the length of the block."""
        ticket = _of_this_task.get()
        if ticket is None or not self._has_place(ticket):
            yield
            return
        self._leave(ticket)
        yield
        # Not after an error: then the work is over.
        if not self._has_place(ticket) and ticket not in self._waiting:
            ticket.granted = asyncio.get_running_loop().create_future()
            await self._place(ticket, first=True)

    async def _place(
        self, ticket: _Ticket, on_wait: Callable[[int], None] | None = None, *, first: bool = False
    ) -> None:
        waiting = len(self._waiting)
        self._waiting.add(ticket)
        self._enqueue(ticket, ticket.session, first=first)
        self._dispatch()
        if not ticket.granted.done() and on_wait is not None:
            on_wait(waiting)
        began = time.monotonic()
        try:
            await ticket.granted
        finally:
            self.on_waited(time.monotonic() - began)

    def _has_place(self, ticket: _Ticket) -> bool:
        return ticket in self._young or ticket in self._old

    def join(self, session: str, key: Hashable) -> None:
        """A session waits for a build that another one has asked for: its turn counts too."""
        ticket = self._shared.get(key)
        if ticket in self._waiting and session not in ticket.turns:
            self._enqueue(ticket, session)

    def _enqueue(self, ticket: _Ticket, session: str, *, first: bool = False) -> None:
        ticket.turns.add(session)
        queue = self._queues.setdefault(session, deque())
        if first:
            queue.appendleft(ticket)
        else:
            queue.append(ticket)

    def _dequeue(self, ticket: _Ticket) -> None:
        self._waiting.discard(ticket)
        for session in ticket.turns:
            queue = self._queues[session]
            queue.remove(ticket)
            if not queue:
                del self._queues[session]
        ticket.turns.clear()

    def _dispatch(self) -> None:
        while self._queues and len(self._young) < self._most_young:
            session, queue = next(iter(self._queues.items()))
            if queue[0].granted.cancelled():
                self._dequeue(queue[0])  # its task has not heard yet that it is cancelled
                continue
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
