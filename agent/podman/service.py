"""Podman's API service for one user and environment: found, or started when it is needed.

A service of podman's own (systemd's socket) is used where it serves the same storage with the same settings.
Else one is started as the user, with a socket in a folder that nobody else can enter; it ends by itself when
nobody has asked it for a minute, is started again when somebody does, and ends with the daemon.
"""

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ray_envd.agent import process
from ray_envd.agent.errors import DrainingError, EnvError
from ray_envd.agent.podman.faults import failure
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.podman.info import PodmanInfo
from ray_envd.agent.podman.records import UnreachableError
from ray_envd.agent.process import Completed
from ray_envd.cache.layout import Layout
from ray_envd.cache.owner import Owner, acting_as

if TYPE_CHECKING:
    from ray_envd.agent.podman.client import Client

T = TypeVar("T")
_IDLE = 60  # seconds without a request after which a service of ours ends
_START_WITHIN = 20.0  # seconds
_LOOK_EVERY = 0.02  # seconds, while it starts
_PREFIX = "ray-envd-podman-"
_LONGEST_PLACE = 64  # bytes; a socket's path may have 107
#: Calls that wait for podman at the same time, of all users.
_THREADS = 16
#: Variables that make podman see something else than a service that was started without them.
_SETTINGS = ("CONTAINERS_", "STORAGE_")


class ServiceError(EnvError):
    """Podman's service cannot be had."""

    code = "podman_service"
    title = "needs podman's service"


class _Threads:
    """In which podman is waited for.

    Attributes:
        closed: nothing is asked any more.
        layout: of the daemon's store.
        mark: in the names of folders that are this daemon's.
        swept: the uids of users whose folders an earlier daemon may have left no more.
        sweeping: while they are swept none are made.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.mark = hashlib.sha256(str(layout.root).encode()).hexdigest()[:8]
        self.closed = False
        self.swept: set[int] = set()
        self.sweeping = asyncio.Lock()
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="podman")

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


class Service:
    """One user's. Use from one event loop."""

    def __init__(self, owner: Owner, environment: Mapping[str, str], hosts: Hosts, threads: _Threads) -> None:
        """Use :meth:`Services.of`."""
        self.owner, self.environment = owner, dict(environment)
        self._hosts, self._threads = hosts, threads
        self._socket: Path | None = None
        self._own: asyncio.Task[Completed] | None = None
        self._starting = asyncio.Lock()

    async def info(self) -> PodmanInfo:
        """What podman says of itself for this user.

        Raises:
            EnvError: podman is missing, or does not work for this user.
        """
        return await self._hosts.info(self.owner, self.environment)

    async def call(self, work: Callable[["Client"], T]) -> T:
        """Asks podman, in a thread. Work that failed for want of a service is done once more with another.

        Cancelling the caller ends the work, and what podman does for it.

        Raises:
            EnvError: there is no podman, or its service does not start.
            ApiError: podman's answer.
            UnreachableError: the connection broke, twice.
        """
        try:
            return await self.call_once(work)
        except UnreachableError:
            return await self.call_once(work)

    async def call_once(self, work: Callable[["Client"], T]) -> T:
        """:meth:`call`, for work that must not be done twice."""
        path = await self._reachable()
        client = await self._threads.run(_client, path)
        working = asyncio.ensure_future(self._threads.run(_with, client, work))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            client.abort()
            await asyncio.wait({working})
            working.exception()  # nobody wants to know how it ended
            raise

    async def close(self) -> None:
        """Ends the service if it is ours."""
        if self._own is not None:
            self._own.cancel()
            await asyncio.wait({self._own})

    # finding and starting

    async def _reachable(self) -> Path:
        async with self._starting:
            if self._threads.closed:
                raise DrainingError("the daemon is shutting down")
            if self._socket is None or not await self._threads.run(_listens, self._socket):
                self._socket = await self._found() or await self._started()
            found: Path = self._socket
            return found

    async def _found(self) -> Path | None:
        """The socket of a service that is there and is as ours would be."""
        path = _usual_socket(self.owner, self.environment)
        if path is None or any(name.startswith(_SETTINGS) for name in self.environment):
            return None
        if not await self._threads.run(_as, self.owner, partial(_belongs_to, path, self.owner)):
            return None
        client = await self._threads.run(_client, path)
        with contextlib.suppress(UnreachableError):
            store = (await self._threads.run(_with, client, lambda it: it.info()))["store"]
            own = await self.info()
            if (store["graphRoot"], store["runRoot"]) == (str(own.graph_root), str(own.run_root)):
                return path
        return None

    async def _started(self) -> Path:
        program = (await self.info()).program
        folder = await self._folder()
        scratch = await self._threads.run(_make_scratch, self._threads.layout, self.owner)
        path = folder / "s"
        argv = [program, "system", "service", "--time", str(_IDLE), f"unix://{path}"]
        # Where a pull keeps what has come: a killed podman leaves it there, and the next daemon removes it.
        environment = {"TMPDIR": str(scratch), **self.environment}
        running = process.run(argv, env=environment, cwd="/", owner=self.owner)
        self._own = asyncio.create_task(self._attended(running, folder, scratch), name="podman service")
        deadline = time.monotonic() + _START_WITHIN
        while time.monotonic() < deadline and not self._own.done():
            if await self._threads.run(_listens, path):
                return path
            await asyncio.sleep(_LOOK_EVERY)
        if self._own.done():
            raise failure(self._own.result(), "start its service")
        self._own.cancel()
        raise ServiceError(
            f"`{program} system service` does not answer", remedy="run it by hand as the raylet's user"
        )

    async def _folder(self) -> Path:
        mark, swept = self._threads.mark, self._threads.swept
        async with self._threads.sweeping:
            if self.owner.uid not in swept:
                await self._threads.run(_as, self.owner, partial(_sweep_folders, mark))
                swept.add(self.owner.uid)
        return await self._threads.run(_as, self.owner, partial(_make_folder, mark))

    async def _attended(self, running: Awaitable[Completed], *folders: Path) -> Completed:
        try:
            return await running
        finally:
            for folder in folders:
                await self._threads.run(_as, self.owner, partial(shutil.rmtree, folder, ignore_errors=True))


class Services:
    """Everybody's."""

    def __init__(self, layout: Layout, hosts: Hosts) -> None:
        """``layout`` is of the daemon's store, which no other daemon has."""
        self._hosts, self._threads = hosts, _Threads(layout)
        self._services: dict[tuple[int, frozenset[tuple[str, str]]], Service] = {}

    @property
    def mark(self) -> str:
        """In the names of the folders of sockets: those of one daemon's store."""
        return self._threads.mark

    def of(self, owner: Owner, environment: Mapping[str, str]) -> Service:
        """A user's service.

        Args:
            owner: as whom podman runs.
            environment: of :func:`.environment.podman_environment`.
        """
        key = (owner.uid, frozenset(environment.items()))
        service = self._services.get(key)
        if service is None:
            service = self._services[key] = Service(owner, environment, self._hosts, self._threads)
        return service

    async def close(self) -> None:
        """Ends all of them."""
        self._threads.closed = True
        await asyncio.gather(*(service.close() for service in self._services.values()))
        self._threads.close()


def _client(path: Path) -> "Client":
    from ray_envd.agent.podman.client import Client  # noqa: PLC0415 - it takes half a second, and a thread

    return Client(path)


def _with(client: "Client", work: Callable[["Client"], T]) -> T:
    with client:
        return work(client)


def _as(owner: Owner, work: Callable[[], T]) -> T:
    with acting_as(owner):
        return work()


def _usual_socket(owner: Owner, environment: Mapping[str, str]) -> Path | None:
    """Where podman's own service listens (podman-system-service(1))."""
    folder = environment.get("XDG_RUNTIME_DIR") if owner.uid else "/run"
    return Path(folder, "podman", "podman.sock") if folder else None


def _belongs_to(path: Path, owner: Owner) -> bool:
    try:
        return path.stat().st_uid == owner.uid and _listens(path)
    except OSError:
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _above() -> Path:
    """Where the folders of sockets stand: a socket's path must be short."""
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) < _LONGEST_PLACE else Path("/tmp")  # noqa: S108 - mkdtemp is safe there


def _make_folder(mark: str) -> Path:
    """A folder for a socket, the caller's alone."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{mark}-", dir=_above()))


def _make_scratch(layout: Layout, owner: Owner) -> Path:
    """A folder for what podman downloads, among the unfinished things of the user."""
    folder = layout.create_user(owner).staging / f"podman-{secrets.token_hex(8)}"
    with acting_as(owner):
        folder.mkdir(mode=0o700)
    return folder


def _sweep_folders(mark: str) -> None:
    """Removes the caller's folders that a killed daemon left."""
    for left in _above().glob(f"{_PREFIX}{mark}-*"):
        shutil.rmtree(left, ignore_errors=True)
