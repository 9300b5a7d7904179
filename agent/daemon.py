"""The daemon: everything that runs, and its life: start, serve, drain, stop.

Draining stops to accept, lets what is in flight end within the deadline, ends the rest, and leaves references
and sessions as they are for the next daemon.
"""

import asyncio
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from ray_envd.agent import notify, process_tree
from ray_envd.agent.config import Settings, link_socket
from ray_envd.agent.core import Core
from ray_envd.agent.gate import Gate
from ray_envd.agent.grpc_admin import AdminService
from ray_envd.agent.grpc_runtime_env import RuntimeEnvService
from ray_envd.agent.grpc_server import GrpcServer
from ray_envd.agent.http_server import HttpServer
from ray_envd.agent.link_server import LinkServer
from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.prefetch import Prefetcher
from ray_envd.agent.status import Status
from ray_envd.agent.status_http import StatusFace
from ray_envd.agent.tcp_token import read_token
from ray_envd.agent.warm import Pauses, Warm
from ray_envd.agent.warm_file import Wanted
from ray_envd.cache.pins import Pins
from ray_envd.cache.store import Store

_log = logging.getLogger(__name__)
_LAG_INTERVAL = 1.0
_LEAST_REFRESH = 600.0  # seconds between two preparations of what is warm: archives are unpacked for it
_SYNC_INTERVAL = 10.0  # seconds of builds that a loss of power may cost at most


class Daemon:
    """Everything that runs, wired once. Make it inside the event loop that will run it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.stopping = asyncio.Event()
        self.forced = asyncio.Event()
        self.drain_deadline = settings.drain_timeout
        self._drained: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ready = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.core = Core(settings, store, lambda: self.links.sessions)
        self.manager, self.metrics = self.core.manager, self.core.metrics
        self.links = LinkServer(
            link_socket(settings.socket),
            self.manager,
            max_body=settings.request_max_bytes,
            serves_everybody=os.geteuid() == 0,
            on_change=self._sessions_changed,
            on_attached=self.core.foresight.begin,
        )
        self._sessions = LocalSessions(self.manager, store, settings.python)
        prefetcher = Prefetcher(self.manager, self._sessions)
        self.warm = self._make_warm(prefetcher)
        self._grpc = self._make_grpc(prefetcher)
        self._inner = settings.socket.parent / f".{settings.socket.name}.{secrets.token_hex(4)}"
        self._gate = Gate(settings.socket, self._inner / "grpc")
        self._http: HttpServer | None = None
        self._idle_since = time.monotonic()
        self.metrics.daemon.ready.set_function(self._takes_work)

    def _make_warm(self, prefetcher: Prefetcher) -> Warm:
        warm = Warm(
            prefetcher,
            self.store,
            Pins(self.store, self.store.layout.warm_pins),
            self.settings.warm_file,
            self.core.workshop.thread,
            Pauses(refresh=max(_LEAST_REFRESH, self.settings.resolution_ttl)),
        )
        self.metrics.daemon.watch_warm(warm.count)
        return warm

    def _make_grpc(self, prefetcher: Prefetcher) -> GrpcServer:
        status = Status(
            self.manager,
            self.core.collector,
            self.warm,
            self.core.budget,
            str(self.settings.store),
            self.settings.budget_bytes,
        )
        admin = AdminService(
            self.manager,
            self._sessions,
            prefetcher,
            self.links,
            self.core.collector,
            self.core.integrity,
            status,
            self.drain,
        )
        return GrpcServer(RuntimeEnvService(self.manager, self._sessions), admin, self.metrics)

    def _takes_work(self) -> bool:
        return self._ready and not self.manager.draining

    # start

    async def start(self, wanted: Wanted) -> None:
        """Listens everywhere and begins to warm; the store is open and recovered already."""
        if self.store.stored_bytes():  # what was asked for will be asked for again, and at once
            await self.core.installers.all()
        # Before anybody can open another:
        recorded = {record.session_id: record.facts for record in self.core.references.sessions()}
        await self._end_local_sessions(recorded)
        self._inner.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(_remove_stale, self.settings.socket)
        self._inner.mkdir(mode=0o700)
        await self._grpc.start_unix(self._inner / "grpc")
        await self._gate.start()
        await self._start_http()
        await self._start_tcp()
        await self.links.start()
        self._spawn(self.links.end_lost_sessions(recorded), "end lost sessions")
        self.core.watch.recover(recorded)
        self._spawn(self.core.watch.run(), "containers")
        self._spawn(self.core.collector.run(), "collector")
        self._spawn(self.core.integrity.run(), "integrity")
        self._spawn(self.core.images.run(), "images")
        self._spawn(self._watch_loop(), "loop lag")
        self._spawn(self._keep_synced(), "sync")
        if self.settings.idle_exit:
            self._spawn(self._end_when_idle(self.settings.idle_exit), "idle exit")
        self.warm.start(wanted)
        await self._grpc.set_serving(True)
        self.metrics.daemon.interpreter_gc.watch()
        self._ready = True

    async def _end_local_sessions(self, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Callers of an earlier daemon's command line are gone with their streams."""
        for session_id in [sid for sid in recorded if sid.startswith("local-")]:
            await self._sessions.end_lost(session_id, recorded[session_id])

    async def _start_http(self) -> None:
        address = self.settings.http
        if address is None:
            return
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            listener = socket.create_server(address, family=family, backlog=128)
        except OSError as error:
            # Never a reason not to prepare environments: a second daemon of this node may have the port.
            _log.warning("no metrics: cannot listen on %s:%d: %s", *address, error)
            return
        listener.setblocking(False)
        face = StatusFace(self.metrics, self._missing)
        self._http = HttpServer(face, max_body=0)
        self._http.start(listener)
        _log.info("metrics and health on http://%s:%d", *listener.getsockname()[:2])

    def _missing(self) -> list[str]:
        """Why the daemon is not ready."""
        if not self._takes_work():
            return ["it starts or ends"]
        return self.warm.missing() if self.settings.ready_when_warm else []

    async def _start_tcp(self) -> None:
        if self.settings.tcp is None:
            return
        token = await asyncio.to_thread(read_token, self.settings.tcp_token_file)
        host, wanted = self.settings.tcp
        port = await self._grpc.start_tcp(f"[{host}]:{wanted}" if ":" in host else f"{host}:{wanted}", token)
        _log.info("gRPC on TCP port %d", port)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # while it runs

    def begin_sweep(self) -> None:
        """Deletes what the store's recovery found to be left over, beside the work."""
        self._spawn(self._sweep(), "sweep")

    async def _sweep(self) -> None:
        await asyncio.to_thread(self.store.sweep)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self.metrics.daemon.loop_lag.observe(max(0.0, loop.time() - due))
            notify.watchdog()
            await asyncio.to_thread(process_tree.reap)

    async def _keep_synced(self) -> None:
        """Puts on disk what was built; not after each build, since that writes out all of the file system."""
        while True:
            await asyncio.sleep(_SYNC_INTERVAL)
            if not self.store.is_synced:
                try:
                    await asyncio.to_thread(self.store.sync)
                except OSError as error:
                    _log.warning("what was built last may not survive a loss of power: %s", error)

    def _sessions_changed(self) -> None:
        self._idle_since = time.monotonic()
        self.metrics.daemon.sessions.set(len(self.links.sessions))

    async def _end_when_idle(self, seconds: float) -> None:
        """A daemon that a link started ends when nobody has been attached or held anything for so long."""
        while True:
            if self.links.sessions or len(self.manager.attempts.runs) or self.core.references.total():
                self._idle_since = time.monotonic()
            left = self._idle_since + seconds - time.monotonic()
            if left <= 0:
                _log.info("no session for %g s: the daemon ends", seconds)
                self.stopping.set()
                return
            await asyncio.sleep(min(left, 5.0))

    # stop

    async def drain(self, deadline: float) -> int:
        """Asks the daemon to end and waits until nothing is in flight; returns how many builds it ended."""
        if deadline > 0:
            self.drain_deadline = deadline
        self.stopping.set()
        return await asyncio.shield(self._drained)

    async def stop(self) -> None:
        """Drains, then closes; every step is bounded."""
        notify.stopping()
        self._ready = False
        self.metrics.daemon.interpreter_gc.stop()
        self.manager.draining = True
        await self._grpc.set_serving(False)
        await self.warm.stop()  # nobody waits for it
        cancelled = await self._finish_work()
        if not self._drained.done():
            self._drained.set_result(cancelled)
        for task in tuple(self._tasks):
            task.cancel()
        await self.links.stop(deadline=1.0)
        await self._gate.stop()
        await self._grpc.stop(grace=1.0)
        if self._http is not None:
            await self._http.stop()
        shutil.rmtree(self._inner, ignore_errors=True)
        await self.core.images.close()
        await asyncio.to_thread(self.core.close)

    async def _finish_work(self) -> int:
        waits = {
            asyncio.ensure_future(self.manager.attempts.runs.finished()),
            asyncio.ensure_future(self.forced.wait()),
        }
        await asyncio.wait(waits, timeout=self.drain_deadline, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        cancelled = await self.manager.attempts.runs.cancel_all()
        if cancelled:
            _log.warning("%d preparations were ended; their raylets will ask the next daemon", cancelled)
        return cancelled


def _remove_stale(control: Path) -> None:
    """Removes the folders in which daemons that were killed had gRPC's own socket."""
    for folder in control.parent.glob(f".{control.name}.{'[0-9a-f]' * 8}"):
        shutil.rmtree(folder, ignore_errors=True)
