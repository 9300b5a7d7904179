"""What happens to objects, for those who want to replay it: ``ray-envd trace``, ``benchmarks/hit_rates``.

Nothing is kept and, while nobody listens, nothing is done. A line names an object by owner, kind and digest;
it holds nothing of the runtime env. Who cannot keep up loses lines and is told how many. Everything here
works on the event loop.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Literal

from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Entry
from ray_envd.cache.sizes import Size

_MOST = 50_000  # lines that wait for one listener

What = Literal["stored", "build", "acquire", "release", "evict", "lost"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One line.

    Attributes:
        time: unix seconds.
        what: ``stored`` tells what was there when the trace began; ``acquire`` and ``release`` are of
            references; ``lost`` stands for lines that the listener was too slow for.
        number: how many references, or lines.
        key: the object; None for ``lost``.
        size, build_seconds, fetched_bytes: of what is ``stored`` or was built.
    """

    time: float
    what: What
    number: int = 1
    key: ObjectKey | None = None
    size: Size | None = None
    build_seconds: float = 0.0
    fetched_bytes: int = 0


class Trace:
    """Where things are told, and whence they are heard."""

    def __init__(self) -> None:
        self._listeners: list[_Listener] = []

    def told(self, what: What, keys: Iterable[ObjectKey], number: int = 1) -> None:
        """Something happened to objects."""
        if self._listeners and number:
            now = time.time()
            for key in keys:
                self._tell(Happening(now, what, number, key))

    def built(self, entry: Entry | None) -> None:
        """An object was built; None if it has gone again."""
        if self._listeners and entry is not None:
            self._tell(_described("build", entry))

    def _tell(self, line: Happening) -> None:
        for listener in self._listeners:
            listener.tell(line)

    async def listen(self, stored: Iterable[Entry], most: int = _MOST) -> AsyncGenerator[Happening, None]:
        """What is there, then what happens, until the generator is closed; ``most`` lines wait at a time."""
        listener = _Listener(most)
        self._listeners.append(listener)
        try:
            for entry in stored:
                yield _described("stored", entry)
            while True:
                yield await listener.next()
        finally:
            self._listeners.remove(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)


class _Listener:
    """The lines that wait for one who listens."""

    def __init__(self, most: int) -> None:
        self._lines = asyncio.Queue[Happening](most)
        self._lost = 0

    def tell(self, line: Happening) -> None:
        try:
            self._lines.put_nowait(line)
        except asyncio.QueueFull:
            self._lost += 1

    async def next(self) -> Happening:
        if self._lost and self._lines.empty():
            lost, self._lost = self._lost, 0
            return Happening(time.time(), "lost", lost)
        return await self._lines.get()


def _described(what: What, entry: Entry) -> Happening:
    return Happening(time.time(), what, 1, entry.key, entry.size, entry.build_seconds, entry.fetched_bytes)
