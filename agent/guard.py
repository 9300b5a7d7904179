"""Whether an object may be handed out: a few files are looked at, at most once a second.

Looking is a handful of calls of the kernel, but on a network file system each may hang: so it happens in
threads of its own, once for all who ask at the same time, and never on the event loop. An answer counts for a
second, so that a warm cluster asks memory only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.store import Entry, Store

_GOOD_FOR = 1.0  # seconds
#: Objects whose answers are remembered; old ones go when there are more.
_MOST = 10_000
#: More than objects that hang at the same time, one would hope; these threads wait, they do not work.
_THREADS = 32

#: Takes an object that is damaged out of service, for the reason given.
OnDamage = Callable[[Entry, str], Awaitable[None]]


class Guard:
    """Answers for one store. On the event loop.

    Attributes:
        on_damage: told of each object that must not be handed out, before anybody hears of it.
    """

    def __init__(self, store: Store, *, good_for: float = _GOOD_FOR) -> None:
        """An answer is good for so many seconds."""
        self._store, self._good_for = store, good_for
        #: By key: the generation that was looked at, and when.
        self._checked: dict[ObjectKey, tuple[int, float]] = {}
        self._looks: dict[tuple[ObjectKey, int], asyncio.Future[bool]] = {}
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="guard")
        self.on_damage: OnDamage = self._condemn

    def knows(self, keys: Sequence[ObjectKey], generations: Sequence[int]) -> bool:
        """Whether all of these were found to stand a moment ago. In memory: each hit asks this."""
        since, checked = time.monotonic() - self._good_for, self._checked
        for key, generation in zip(keys, generations, strict=True):
            known = checked.get(key)
            if known is None or known[0] != generation or known[1] <= since:
                return False
        return True

    async def stands(self, entry: Entry) -> bool:
        """Whether an object that the caller holds may be handed out; if not, it is out of service."""
        if self.knows((entry.key,), (entry.generation,)):
            return True
        name = (entry.key, entry.generation)
        look = self._looks.get(name)
        if look is None:
            look = self._looks[name] = asyncio.ensure_future(self._look(entry))
            look.add_done_callback(partial(self._looked, name))
        # It goes on when all who waited have left: a thread that hangs cannot be called back, and whoever
        # comes next must not send another after it.
        return await asyncio.shield(look)

    async def _look(self, entry: Entry) -> bool:
        loop = asyncio.get_running_loop()
        reason = await loop.run_in_executor(self._threads, self._store.check, entry.key)
        if reason is None:
            self._note(entry)
            return True
        self._checked.pop(entry.key, None)
        await self.on_damage(entry, reason)
        return False

    def _looked(self, name: tuple[ObjectKey, int], look: "asyncio.Future[bool]") -> None:
        del self._looks[name]
        if not look.cancelled():
            look.exception()  # somebody has heard it, or nobody waits any more

    def _note(self, entry: Entry) -> None:
        if len(self._checked) >= _MOST:
            self._checked.clear()
        self._checked[entry.key] = entry.generation, time.monotonic()

    async def _condemn(self, entry: Entry, reason: str) -> None:
        await asyncio.to_thread(self._store.condemn, entry.key, reason, entry.generation)

    def close(self) -> None:
        """Ends the threads that are not stuck."""
        self._threads.shutdown(wait=False, cancel_futures=True)
