"""The client for ordinary programs."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class Client:
    """Calls a daemon. A context manager; threads may share it.

    Every method raises :class:`DaemonUnavailableError` if nobody answers and :class:`RemoteError` if
    the daemon refuses.
    """

    def __init__(self, address: str | Path, *, token: str | None = None) -> None:
        """Connects with the first call.

        Args:
            address: the path of the daemon's Unix socket, or ``host:port``.
            token: what the daemon's ``tcp_token_file`` holds, for ``host:port``.

        Raises:
            ValueError: the address is neither.
        """
        target, self._shown = calls.target_of(address)
        self._channel = grpc.insecure_channel(target, options=calls.CHANNEL_OPTIONS)
        self._metadata = calls.metadata_of(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every hold."""
        self._channel.close()

    # runtime envs

    def get_or_create(
        self,
        runtime_env: RuntimeEnv,
        *,
        setup_timeout_seconds: int = 0,
        job_id: str = "",
        source_process: str = "",
    ) -> Context:
        """The raylet's call: a prepared env, referenced until :meth:`delete`.

        Args:
            runtime_env: a mapping, or JSON as Ray serializes it.
            setup_timeout_seconds: -1 for no limit, 0 for the default.
            job_id: hexadecimal; names the set-up log.
            source_process: who asks.

        Raises:
            EnvFailedError: it could not be prepared; no reference was taken.
        """
        return self._call(calls.get_or_create(runtime_env, setup_timeout_seconds, job_id, source_process))

    def delete(self, runtime_env: RuntimeEnv, *, source_process: str = "") -> None:
        """Gives back one reference of :meth:`get_or_create`.

        Raises:
            RemoteError: code ``failed``, there is none.
        """
        self._call(calls.delete(runtime_env, source_process))

    def envs_info(self, limit: int | None = None) -> messages.EnvInfos:
        """The envs that callers of :meth:`get_or_create` asked for."""
        return self._call(calls.envs_info(limit))

    def create(
        self,
        runtime_env: RuntimeEnv,
        *,
        python: str | None = None,
        setup_timeout_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
        hold: bool = False,
    ) -> Generator[messages.Event, None, None]:
        """Prepares an env and tells its steps; the last event is :class:`Created`.

        Args:
            runtime_env: a mapping, or JSON as Ray serializes it.
            python: path of the interpreter to build for; None: the daemon's default.
            setup_timeout_seconds: -1 for no limit, 0 for the default.
            environment: what downloads and tools see besides the daemon's own (credentials, proxies).
            hold: go on after the result, silently, and keep the env referenced until this generator is
                closed (see :meth:`hold`).

        Raises:
            EnvFailedError: it could not be prepared.
        """
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
    ) -> Generator[messages.Prefetching, None, None]:
        """Prepares envs side by side, for whoever asks for them later, and tells the steps of all.

        Each has exactly one result or failure; a failure is told, not raised. None stays referenced.

        Args:
            runtime_envs: mappings, or JSON as Ray serializes it.
            python: path of the interpreter of those who will ask; None: the daemon's default.
            setup_timeout_seconds: of each; -1 for no limit, 0 for the default.
            environment: what downloads and tools see besides the user's own (credentials, proxies).
            user: whose raylets will ask (name, uid or uid:gid); empty: the daemon's own user.
            pin: keep the objects until :meth:`unpin`.
        """
        call = calls.prefetch(
            runtime_envs,
            python=python,
            setup_timeout_seconds=setup_timeout_seconds,
            environment=environment,
            user=user,
            pin=pin,
        )
        return self._stream(call)

    @contextmanager
    def hold(
        self,
        runtime_env: RuntimeEnv,
        *,
        python: str | None = None,
        setup_timeout_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[messages.Created]:
        """A prepared env that stays referenced for the block; arguments and errors as :meth:`create`."""
        events = self.create(
            runtime_env,
            python=python,
            setup_timeout_seconds=setup_timeout_seconds,
            environment=environment,
            hold=True,
        )
        try:
            for event in events:
                if isinstance(event, messages.Created):
                    yield event
                    return
            raise RemoteError("internal", "the daemon sent no result")
        finally:
            events.close()

    # the daemon

    def list(self) -> messages.Listing:
        """All objects and sessions."""
        pages = [self._call(calls.listing(""))]
        while token := pages[-1].next_token:
            pages.append(self._call(calls.listing(token)))
        return wire.joined(pages)

    def stats(self) -> messages.Stats:
        """Figures of the daemon."""
        return self._call(calls.stats())

    def gc(self, *, dry_run: bool = False, target_bytes: int | None = None) -> messages.Collection:
        """Collects down to the low watermark, or to so many bytes; or says what would go."""
        return self._call(calls.gc(target_bytes, dry_run=dry_run))

    def remove(self, object_id: str) -> messages.Removed:
        """Removes an object (``kind/digest`` or a unique prefix of either the id or the digest).

        Raises:
            RemoteError: ``not_found``, ``invalid_argument`` (ambiguous), ``failed_precondition`` (in use).
        """
        return self._call(calls.remove(object_id))

    def pin(self, object_id: str) -> messages.Object:
        """Keeps an object until :meth:`unpin`."""
        return self._call(calls.pin(object_id, pinned=True))

    def unpin(self, object_id: str) -> messages.Object:
        """Lets an object be collected again."""
        return self._call(calls.pin(object_id, pinned=False))

    def verify(
        self, ids: Sequence[str] = (), *, repair: bool = False
    ) -> Generator[messages.Verified, None, None]:
        """Reads every file of objects, all of them if none is named; one event each, in any order.

        What is damaged is not handed out any more. With ``repair`` it is removed unless somebody stands on
        it.

        Raises:
            RemoteError: ``not_found``, ``invalid_argument`` (ambiguous).
        """
        return self._stream(calls.verify(ids, repair=repair))

    def trace(self) -> Generator[Happening, None, None]:
        """What is stored, then what happens to objects, until the generator is closed or the daemon ends."""
        return self._stream(calls.trace())

    def drain(self, deadline_seconds: float = 0) -> int:
        """Ends the daemon in order; returns how many builds were cut off. 0: the daemon's own deadline."""
        return self._call(calls.drain(deadline_seconds))

    def health(self) -> bool:
        """Whether the daemon takes work; False while it drains."""
        return self._call(calls.health())

    def _call(self, call: Call[T]) -> T:
        method = self._channel.unary_unary(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.reply.FromString,
        )
        try:
            reply = method(call.request, timeout=call.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._shown) from None
        return call.read(reply)

    def _stream(self, call: Call[T]) -> Generator[T, None, None]:
        """What a call streams; closing the generator ends the call."""
        method = self._channel.unary_stream(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.reply.FromString,
        )
        stream: Any = method(call.request, metadata=self._metadata)
        try:
            for message in stream:
                yield call.read(message)
        except grpc.RpcError as error:
            raise from_rpc(error, self._shown) from None
        finally:
            stream.cancel()
