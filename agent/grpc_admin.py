"""``AdminService``: running and looking into the daemon. See ``proto/ray_envd/v1/admin.proto``."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from ray_envd import __version__
from ray_envd.agent import grpc_events
from ray_envd.agent.collector import Collector
from ray_envd.agent.errors import EnvError
from ray_envd.agent.grpc_prefetch import prefetch
from ray_envd.agent.grpc_trace import trace
from ray_envd.agent.grpc_verify import verify
from ray_envd.agent.integrity.service import Integrity
from ray_envd.agent.link_server import LinkServer
from ray_envd.agent.listing import Listing
from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.pb import admin_pb2_grpc as services
from ray_envd.agent.prefetch import Prefetcher
from ray_envd.agent.progress import Event
from ray_envd.agent.sessions import Session
from ray_envd.agent.status import Status
from ray_envd.cache import errors as cache_errors
from ray_envd.cache.collect import remove
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry, Store

_CODES = {
    cache_errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    cache_errors.AmbiguousError: grpc.StatusCode.INVALID_ARGUMENT,
    cache_errors.InUseError: grpc.StatusCode.FAILED_PRECONDITION,
}
Context = aio.ServicerContext[Any, Any]
#: Ends the daemon after what is in flight, within so many seconds; returns how many builds it ended.
Drain = Callable[[float], Awaitable[int]]


class AdminService(services.AdminServiceServicer):
    """Answers the command line and other programs of the daemon's user."""

    def __init__(
        self,
        manager: Manager,
        sessions: LocalSessions,
        prefetcher: Prefetcher,
        links: LinkServer,
        collector: Collector,
        integrity: Integrity,
        status: Status,
        drain: Drain,
    ) -> None:
        self._manager, self._sessions, self._links = manager, sessions, links
        self._prefetcher, self._collector, self._integrity = prefetcher, collector, integrity
        self._status, self._drain = status, drain
        self._listing = Listing(manager.workshop.store, manager.uses.references)

    @property
    def _store(self) -> Store:
        return self._manager.workshop.store

    @property
    def _references(self) -> References:
        return self._manager.uses.references

    # runtime envs

    async def CreateRuntimeEnv(  # noqa: N802 - the protocol's name
        self, request: pb.CreateRuntimeEnvRequest, _context: Context
    ) -> AsyncIterator[pb.CreateRuntimeEnvEvent]:
        """Streams the steps, then the result or the failure; with ``hold``, stays open afterwards."""
        started = time.monotonic()
        ask = Ask(request.serialized_runtime_env, request.setup_timeout_seconds, source="admin")
        try:
            async with self._sessions.temporary(request.python, dict(request.environment)) as session:
                async for message in self._create(session, ask, started):
                    yield message
                if request.hold:
                    # Ends when the caller closes the stream: gRPC cancels this coroutine then.
                    await asyncio.Event().wait()
        except EnvError as error:
            yield pb.CreateRuntimeEnvEvent(failure=grpc_events.failure(error))

    async def _create(
        self, session: Session, ask: Ask, started: float
    ) -> AsyncIterator[pb.CreateRuntimeEnvEvent]:
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.create_task(self._manager.acquire(session, ask, events.put_nowait))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield pb.CreateRuntimeEnvEvent(progress=grpc_events.progress(event))
            env = await task
        finally:
            task.cancel()
        yield pb.CreateRuntimeEnvEvent(
            result=pb.CreateRuntimeEnvResult(
                serialized_runtime_env_context=env.context,
                cache_hit=not env.built,
                seconds=time.monotonic() - started,
                objects=[key.id for key in env.objects],
            )
        )

    async def Prefetch(  # noqa: N802 - the protocol's name
        self, request: pb.PrefetchRequest, _context: Context
    ) -> AsyncIterator[pb.PrefetchEvent]:
        """Prepares many, for whoever asks for them later."""
        async with contextlib.aclosing(prefetch(self._prefetcher, request)) as events:
            async for event in events:
                yield event

    # objects

    async def List(self, request: pb.ListRequest, _context: Context) -> pb.ListReply:  # noqa: N802 - the protocol's name
        """Objects, in pages if so asked; the sessions with the first."""
        objects, token = await self._manager.workshop.thread(
            self._listing.page, request.page_size, request.page_token
        )
        attached = [] if request.page_token else list(self._links.sessions.values())
        sessions = self._listing.sessions(
            (session, len(self._manager.uses.states(session))) for session in attached
        )
        return pb.ListReply(objects=objects, sessions=sessions, next_page_token=token)

    async def Stats(self, _request: pb.StatsRequest, _context: Context) -> pb.StatsReply:  # noqa: N802 - the protocol's name
        """Counters and sizes."""
        values = await self._status.collect()
        return pb.StatsReply(version=__version__, **values)

    async def Gc(self, request: pb.GcRequest, _context: Context) -> pb.GcReply:  # noqa: N802 - the protocol's name
        """Collects now, or says what would be collected."""
        target = request.target_bytes if request.HasField("target_bytes") else None
        async with self._integrity.steps.paused():
            done = await self._collector.collect(target, dry_run=request.dry_run)
        return await self._manager.workshop.thread(self._listing.collection, done)

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.RemoveReply:  # noqa: N802 - the protocol's name
        """Removes one object that nobody uses."""
        entry = await self._found(request.id, context)
        try:
            async with self._integrity.steps.paused():
                freed = await self._manager.workshop.thread(remove, self._store, self._references, entry)
        except cache_errors.StoreError as error:
            await _abort(context, error)
        self._manager.metrics.store.evicted(entry.key.kind, "removed", freed)
        self._manager.workshop.trace.told("evict", [entry.key])
        return pb.RemoveReply(id=entry.id, freed_bytes=freed)

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.PinReply:  # noqa: N802 - the protocol's name
        """Keeps an object until it is unpinned."""
        return await self._pin(request.id, context, self._store.pin)

    async def Unpin(self, request: pb.PinRequest, context: Context) -> pb.PinReply:  # noqa: N802 - the protocol's name
        """Lets an object be collected again."""
        return await self._pin(request.id, context, self._store.unpin)

    async def Verify(  # noqa: N802 - the protocol's name
        self, request: pb.VerifyRequest, context: Context
    ) -> AsyncIterator[pb.VerifyEvent]:
        """Reads every file of some objects or of all."""
        entries = [await self._found(each, context) for each in request.ids] or self._store.entries()
        shown = await self._manager.workshop.thread(self._listing.teller)
        run = verify(self._integrity.verification, self._references, entries, shown, repair=request.repair)
        async with contextlib.aclosing(run) as events:
            async for event in events:
                yield event

    async def Trace(  # noqa: N802 - the protocol's name
        self, _request: pb.TraceRequest, _context: Context
    ) -> AsyncIterator[pb.TraceEvent]:
        """What happens to objects, until the caller goes."""
        async with contextlib.aclosing(trace(self._manager.workshop.trace, self._store.entries())) as events:
            async for event in events:
                yield event

    async def Drain(self, request: pb.DrainRequest, _context: Context) -> pb.DrainReply:  # noqa: N802 - the protocol's name
        """Ends the daemon in order."""
        return pb.DrainReply(cancelled=await self._drain(request.deadline_seconds))

    # helpers

    async def _pin(self, object_id: str, context: Context, change: Callable[..., object]) -> pb.PinReply:
        entry = await self._found(object_id, context)
        try:
            await self._manager.workshop.thread(change, entry.key)
        except cache_errors.StoreError as error:
            await _abort(context, error)
        return pb.PinReply(object=self._listing.one(self._store.get(entry.key) or entry))

    async def _found(self, object_id: str, context: Context) -> Entry:
        try:
            return self._store.find(object_id)
        except cache_errors.StoreError as error:
            await _abort(context, error)
            raise


async def _abort(context: Context, error: cache_errors.StoreError) -> None:
    code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    await context.abort(code, str(error))
