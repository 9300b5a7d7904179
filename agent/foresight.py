"""What a session's first requests will stand on, made before they come.

A raylet's link says hello some seconds before its raylet asks for an env, and a cluster that was restarted
mostly asks for what the one before it used. So what is a session's own of that, such as the layer over an
environment, is made meanwhile. Nothing is resolved, fetched or built for it. A request looks at everything
again, as if nothing had been made; one that comes meanwhile waits for it instead of making it.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from ray_envd.agent.bench import Bench
from ray_envd.agent.errors import EnvError
from ray_envd.agent.progress import Progress
from ray_envd.agent.sessions import Session
from ray_envd.agent.spec import parse
from ray_envd.agent.workshop import Workshop

_log = logging.getLogger(__name__)
#: What sessions of one interpreter used last, and interpreters. What nobody asks for is small files of its
#: session.
_MOST, _MOST_INTERPRETERS = 8, 64
_NOTHING = parse("{}")

#: Makes it for the session of a bench, if all that it stands on is there.
Make = Callable[[Bench], Awaitable[None]]


class Foresight:
    """Remembers, in memory only, what sessions used. On the event loop."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        #: By user and interpreter, the last ones last.
        self._used: OrderedDict[tuple[int, str], OrderedDict[Hashable, Make]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def used(self, session: Session, what: Hashable, make: Make) -> None:
        """A session got something that others of its user and interpreter will want of their own."""
        theirs = self._used.setdefault((session.owner.uid, session.python), OrderedDict())
        theirs[what] = make
        theirs.move_to_end(what)
        if len(theirs) > _MOST:
            theirs.popitem(last=False)
        if len(self._used) > _MOST_INTERPRETERS:
            self._used.popitem(last=False)

    def begin(self, session: Session) -> None:
        """A session is there that has asked for nothing yet."""
        theirs = self._used.get((session.owner.uid, session.python))
        if theirs:
            task = asyncio.create_task(self._make(session, [*reversed(theirs.values())]), name="foresight")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _make(self, session: Session, wanted: list[Make]) -> None:
        for make in wanted:
            bench = Bench(self._workshop, session, _NOTHING, Progress())
            try:
                await make(bench)
            except EnvError as error:
                _log.info("not made ahead of a request: %s", error.code)  # its words may hold secrets
            finally:
                bench.close()
