"""One request's place in the workshop.

What a request has obtained is held until its bench closes, so that no collection takes it away before it is
referenced.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ray_envd.agent.progress import Event, Progress
from ray_envd.agent.python.platform import Platform
from ray_envd.agent.room import Report
from ray_envd.agent.sessions import Session
from ray_envd.agent.spec import RuntimeEnvSpec
from ray_envd.agent.workshop import Builder, Workshop
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Link
from ray_envd.cache.store import Entry, Store

T = TypeVar("T")


class Bench:
    """One request at work.

    Attributes:
        session: for whom.
        spec: what.
        progress: where its steps are told.
        environment: the raylet's, the user's ``env_vars``, and the working dir once it is known.
        platform: what environments are built on; None where that is the host's. Set once the image is there.
    """

    def __init__(
        self, workshop: Workshop, session: Session, spec: RuntimeEnvSpec, progress: Progress
    ) -> None:
        self.workshop, self.session, self.spec, self.progress = workshop, session, spec, progress
        self.environment: dict[str, str] = {**session.environment, **spec.env_vars}
        self._held: list[Entry] = []
        self.platform: asyncio.Future[Platform] | None = None
        if spec.image is not None:
            self.platform = asyncio.get_running_loop().create_future()

    @property
    def store(self) -> Store:
        """The store, for its loop-safe methods."""
        return self.workshop.store

    def reporter(self, field: str) -> Report:
        """Progress of one field, masked."""

        def report(phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
            self.progress.report(field, phase, self.spec.redactor(detail), done=done, total=total)

        return report

    def key(self, kind: str, digest: str) -> ObjectKey:
        """The key of one of this session's owner's objects."""
        return ObjectKey(self.session.owner.uid, kind, digest)

    async def obtain(
        self, key: ObjectKey, builder: Builder, *, field: str, summary: str, reserve: int
    ) -> tuple[Entry, bool]:
        """:meth:`Workshop.obtain`, held until this bench closes."""
        entry, built = await self.workshop.obtain(
            key,
            self.session.owner,
            builder,
            field=field,
            summary=self.spec.redactor(summary),
            reserve=reserve,
            session=self.session.queue,
            listener=self._forward,
        )
        self._held.append(entry)
        return entry, built

    async def share(self, key: Hashable, work: Callable[["Bench"], Awaitable[T]]) -> T:
        """Runs work that others may want too, at a bench of its own: this request may leave before it ends.

        It has a place of :class:`Slots` from beginning to end, all that it obtains included. What it obtains
        is held until it is done; the caller holds what it needs after that.
        """

        async def run(progress: Progress) -> T:
            own = Bench(self.workshop, self.session, self.spec, progress)
            own.environment.update(self.environment)
            own.platform = self.platform
            try:
                async with self.workshop.slots.slot(self.session.queue, key, partial(_tell_queue, progress)):
                    return await work(own)
            finally:
                own.close()

        return await self.workshop.share(key, run, self.session.queue, self._forward)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """A place for work that nobody shares, such as a question to a server."""
        return self.workshop.slots.slot(self.session.queue)

    def hold(self, key: ObjectKey) -> Entry | None:
        """The object if it is there, held until this bench closes. Loop-safe."""
        entry = self.store.hold(key)
        if entry is not None:
            self._held.append(entry)
        return entry

    def generation(self, key: ObjectKey) -> int:
        """Which generation of an object this bench holds, and so its workers stand on. Loop-safe."""
        return next(entry.generation for entry in reversed(self._held) if entry.key == key)

    def was_linked(self, request_digest: str) -> bool:
        """Whether a request was resolved before, be it expired. Loop-safe."""
        return self.store.linked(request_digest, self.session.owner.uid) is not None

    async def linked(self, request_digest: str, *, expired: bool = False) -> Entry | None:
        """The held object to which a request was resolved before; also an expired one if asked for."""
        link = self._link(request_digest, expired=expired)
        entry = None if link is None else await self.workshop.hold(link.key)
        if link is not None and entry is not None:
            self.workshop.metrics.builds.found(link.key.kind, entry.build_seconds)
            self._held.append(entry)
        return entry

    def there(self, request_digest: str) -> Entry | None:
        """As :meth:`linked`, for who hands nothing out: neither a use nor looked at. Loop-safe."""
        link = self._link(request_digest)
        entry = None if link is None else self.store.keep(link.key)
        if entry is not None:
            self._held.append(entry)
        return entry

    def _link(self, request_digest: str, *, expired: bool = False) -> Link | None:
        link = self.store.linked(request_digest, self.session.owner.uid)
        if link is None or (not expired and link.expires is not None and link.expires < time.time()):
            return None
        return link

    async def link(self, request_digest: str, key: ObjectKey, ttl: float | None) -> None:
        """Remembers what a request was resolved to, for so many seconds (None: for good)."""
        expires = None if ttl is None else time.time() + ttl
        await self.thread(self.store.link, request_digest, key, expires)

    async def thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """:meth:`Workshop.thread`."""
        return await self.workshop.thread(function, *args, **kwargs)

    def staging(self) -> Path:
        """The owner's folder for unfinished files; blocking."""
        return self.store.user_dir(self.session.owner).staging

    def close(self) -> None:
        """Gives back every hold."""
        for entry in self._held:
            self.store.unhold(entry.key, entry.generation)
        self._held.clear()

    def _forward(self, event: Event) -> None:
        redact = self.spec.redactor
        self.progress.report(
            event.field, event.phase, redact(event.detail), done=event.done, total=event.total
        )


def _tell_queue(progress: Progress, before: int) -> None:
    more = f"{before} more before it" if before else "none before it"
    progress.report("runtime_env", "waiting for other builds to end,", more)
