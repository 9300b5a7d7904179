"""The client for programs with an event loop: the methods of :class:`Client`, to be awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from ray_envd.agent.client import calls, messages, wire
from ray_envd.agent.client.calls import Call, RuntimeEnv
from ray_envd.agent.client.context import Context
from ray_envd.agent.client.errors import RemoteError, from_rpc
from ray_envd.agent.client.traces import Happening

T = TypeVar("T")


class AsyncClient:
    """See :class:`ray_envd.agent.client.Client`: same methods, arguments and errors. Make it in its loop."""

    def __init__(self, address: str | Path, *, token: str | None = None) -> None:
        target, self._shown = calls.target_of(address)
        self._channel = grpc.aio.insecure_channel(target, options=calls.CHANNEL_OPTIONS)
        self._metadata = calls.metadata_of(token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every hold."""
        await self._channel.close()

    # runtime envs

    async def get_or_create(
        self,
        runtime_env: RuntimeEnv,
        *,
        setup_timeout_seconds: int = 0,
        job_id: str = "",
        source_process: str = "",
    ) -> Context:
        """The raylet's call: a prepared env, referenced until :meth:`delete`."""
        return await self._call(
            calls.get_or_create(runtime_env, setup_timeout_seconds, job_id, source_process)
        )

    async def delete(self, runtime_env: RuntimeEnv, *, source_process: str = "") -> None:
        """Gives back one reference of :meth:`get_or_create`."""
        await self._call(calls.delete(runtime_env, source_process))

    async def envs_info(self, limit: int | None = None) -> messages.EnvInfos:
        """The envs that callers of :meth:`get_or_create` asked for."""
        return await self._call(calls.envs_info(limit))

    def create(
        self,
        runtime_env: RuntimeEnv,
        *,
        python: str | None = None,
        setup_timeout_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
        hold: bool = False,
    ) -> AsyncGenerator[messages.Event, None]:
        """Prepares an env and tells its steps; the last event is :class:`Created`."""
        call = calls.create(
            runtime_env,
            python=python,
            setup_timeout_seconds=setup_timeout_seconds,
            environment=environment,
            hold=hold,
        )
        return self._stream(call)

    def prefetch(
        self,
        runtime_envs: Iterable[RuntimeEnv],
        *,
        python: str | None = None,
        setup_timeout_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
        user: str = "",
        pin: bool = False,
    ) -> AsyncGenerator[messages.Prefetching, None]:
        """Prepares envs side by side, and tells the steps of all; failures are told, not raised."""
        call = calls.prefetch(
            runtime_envs,
            python=python,
            setup_timeout_seconds=setup_timeout_seconds,
            environment=environment,
            user=user,
            pin=pin,
        )
        return self._stream(call)

    @asynccontextmanager
    async def hold(
        self,
        runtime_env: RuntimeEnv,
        *,
        python: str | None = None,
        setup_timeout_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator[messages.Created]:
        """A prepared env that stays referenced for the block."""
        events = self.create(
            runtime_env,
            python=python,
            setup_timeout_seconds=setup_timeout_seconds,
            environment=environment,
            hold=True,
        )
        try:
            async for event in events:
                if isinstance(event, messages.Created):
                    yield event
                    return
            raise RemoteError("internal", "the daemon sent no result")
        finally:
            await events.aclose()

    # the daemon

    async def list(self) -> messages.Listing:
        """All objects and sessions."""
        pages = [await self._call(calls.listing(""))]
        while token := pages[-1].next_token:
            pages.append(await self._call(calls.listing(token)))
        return wire.joined(pages)

    async def stats(self) -> messages.Stats:
        """Figures of the daemon."""
        return await self._call(calls.stats())

    async def gc(self, *, dry_run: bool = False, target_bytes: int | None = None) -> messages.Collection:
        """Collects down to the low watermark, or to so many bytes; or says what would go."""
        return await self._call(calls.gc(target_bytes, dry_run=dry_run))

    async def remove(self, object_id: str) -> messages.Removed:
        """Removes an object."""
        return await self._call(calls.remove(object_id))

    async def pin(self, object_id: str) -> messages.Object:
        """Keeps an object until :meth:`unpin`."""
        return await self._call(calls.pin(object_id, pinned=True))

    async def unpin(self, object_id: str) -> messages.Object:
        """Lets an object be collected again."""
        return await self._call(calls.pin(object_id, pinned=False))

    def verify(
        self, ids: Sequence[str] = (), *, repair: bool = False
    ) -> AsyncGenerator[messages.Verified, None]:
        """Reads every file of objects, all of them if none is named; one event each, in any order."""
        return self._stream(calls.verify(ids, repair=repair))

    def trace(self) -> AsyncGenerator[Happening, None]:
        """What is stored, then what happens to objects, until the generator is closed or the daemon ends."""
        return self._stream(calls.trace())

    async def drain(self, deadline_seconds: float = 0) -> int:
        """Ends the daemon in order; returns how many builds were cut off."""
        return await self._call(calls.drain(deadline_seconds))

    async def health(self) -> bool:
        """Whether the daemon takes work; False while it drains."""
        return await self._call(calls.health())

    async def _call(self, call: Call[T]) -> T:
        method = self._channel.unary_unary(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.reply.FromString,
        )
        try:
            reply = await method(call.request, timeout=call.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise await asyncio.to_thread(from_rpc, error, self._shown) from None
        return call.read(reply)

    async def _stream(self, call: Call[T]) -> AsyncGenerator[T, None]:
        """What a call streams; closing the generator ends the call."""
        method = self._channel.unary_stream(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.reply.FromString,
        )
        stream: Any = method(call.request, metadata=self._metadata)
        try:
            async for message in stream:
                yield call.read(message)
        except grpc.RpcError as error:
            raise await asyncio.to_thread(from_rpc, error, self._shown) from None
        finally:
            stream.cancel()
