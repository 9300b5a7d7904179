"""The images of a daemon without the daemon: its manager over a real podman, with one field, the image."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oci import OciImage, write_layer
from podman_world import PodmanWorld

from ray_envd.agent.bench import Bench
from ray_envd.agent.collector import Collector
from ray_envd.agent.containers.images import Image, Images
from ray_envd.agent.context import Contribution
from ray_envd.agent.envs import ReadyEnv
from ray_envd.agent.guard import Guard
from ray_envd.agent.installers import Installers
from ray_envd.agent.integrity.service import Integrity
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Event
from ray_envd.agent.python.tools import Toolbox
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.agent.setup_log import SetupLogWriter
from ray_envd.agent.slots import Slots
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.gc import Limits
from ray_envd.cache.owner import Owner
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry, Store

MIB = 1024**2


class ImageOnly:
    """The field ``image`` as far as the image is concerned; no container is started."""

    field = "image"

    def __init__(self, images: Images) -> None:
        self._images = images
        self.obtained: list[Image] = []

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        image = await self._images.obtain(value, bench)
        self.obtained.append(image)
        return Contribution(objects=(image.entry.key,), built=image.is_new)


class ImageNode:
    """A manager, a collector and what they stand on. Make it on the event loop that runs it."""

    @classmethod
    async def make(cls, folder: Path, world: PodmanWorld, **limits: Any) -> "ImageNode":
        """See the class."""
        return await asyncio.to_thread(cls, folder, world, asyncio.get_running_loop(), limits)

    def __init__(
        self, folder: Path, world: PodmanWorld, loop: asyncio.AbstractEventLoop, limits: dict[str, Any]
    ) -> None:
        self.folder, self.world = folder, world
        folder.mkdir(exist_ok=True)
        self.store = Store.open(folder / "store")
        self.references = References.open(self.store.layout.sessions)
        self._logs, self._trees, metrics = SetupLogWriter(), Trees(), Metrics()
        budget = Budget(limits.pop("budget", None), lambda: shutil.disk_usage(folder).free, 0)
        self.workshop = Workshop(self.store, budget, metrics, Slots(4, 4))
        self.workshop.guard = Guard(self.store, good_for=0)
        Toolbox.bundled(folder)  # looks for uv, once
        self.images = Images(
            self.workshop, Hosts(str(folder / "store")), loop, max_age=limits.pop("max_age", float("inf"))
        )
        self.installer = ImageOnly(self.images)
        preparation = Preparation(self.workshop, Installers(lambda: {"image": self.installer}))
        self.manager = Manager(self.workshop, self.references, preparation, self._trees, self._logs, metrics)
        chosen = {
            "high_bytes": None,
            "low_bytes": None,
            "kind_bytes": {},
            "min_unused_seconds": 0.0,
            **limits,
        }
        self.collector = Collector(self.workshop, self.references, Limits(**chosen))
        self.workshop.space.rooms = self.collector
        self.integrity = Integrity(self.workshop, self.references, lambda: False)
        self.events: list[Event] = []

    async def session(
        self, name: str = "s", attempts: int = 1, owner: Owner | None = None, **environment: str
    ) -> Session:
        """A raylet's, with podman's world in its environment; podman itself tries a few times."""
        folder = self.folder / name
        owner = owner or Owner.current()
        await asyncio.to_thread(_make_folder, folder, owner)
        told = {"PATH": os.environ["PATH"], "HOME": str(folder), **self.world.variables, **environment}
        session = Session(
            name,
            owner,
            "/ray/python",
            told,
            folder,
            log_dir=folder,
            settings=SessionSettings(retry_times=attempts, retry_interval=0.01, failure_ttl=0.0),
        )
        await self.manager.uses.start(session)
        return session

    async def acquire(self, session: Session, image: str, seconds: int = 0, **more: Any) -> ReadyEnv:
        """The env with this image."""
        value = {"uri": image, **more} if more else image
        return await self.manager.acquire(session, ask(value, seconds), self.events.append)

    async def obtain(self, session: Session, image: str, **more: Any) -> Image:
        """The same, and the image that it got; no reference stays."""
        value = {"uri": image, **more} if more else image
        await self.manager.acquire(session, ask(value), self.events.append)
        self.manager.uses.release(session, ask(value).serialized, "test")
        return self.installer.obtained[-1]

    def objects(self) -> list[Entry]:
        """Of images, those that may be handed out."""
        return [each for each in self.store.entries() if each.key.kind == "image" and not each.damaged]

    async def claims(self) -> list[str]:
        """The names of all claims."""
        return await asyncio.to_thread(lambda: [name for _, name, _ in self.store.claims.all()])

    async def podman(self, *arguments: str, check: bool = True) -> str:
        """Somebody else's call of podman."""
        return await asyncio.to_thread(self.world.podman, *arguments, check=check)

    async def has(self, image: str) -> bool:
        """Whether podman has an image, by its id."""
        return image in await asyncio.to_thread(self.world.images)

    def log(self) -> str:
        """The set-up log of the job."""
        return (self.folder / "s" / "runtime_env_setup-01000000.log").read_text()

    async def close(self) -> None:
        """Ends it as a daemon ends."""
        await self.images.close()
        for each in (self.workshop, self._logs, self.references, self.store):
            await asyncio.to_thread(each.close)


def _make_folder(folder: Path, owner: Owner) -> None:
    folder.mkdir(exist_ok=True)
    os.chown(folder, owner.uid, owner.gid)


def ask(image: Any, timeout: int = 0) -> Ask:
    """A request for an env with an image."""
    return Ask(json.dumps({"image": image}), timeout=timeout, job_id="01000000", source="test")


def random_image(folder: Path, *mebibytes: float, seed: int = 0, **variables: str) -> OciImage:
    """An image with a layer of random bytes for each size; equal arguments make equal layers."""
    layers = []
    for number, size in enumerate(mebibytes):
        content = random.Random(f"{seed} {number} {size}").randbytes(int(size * MIB))
        layers.append(_layer(folder, f"file-{seed}-{number}", content))
    return OciImage(tuple(layers), {"PATH": "/bin", **variables})


def _layer(folder: Path, name: str, content: bytes) -> Any:
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return write_layer(folder, lambda tar: tar.add(path, name, filter=_plain))


def _plain(about: Any) -> Any:
    about.mtime = about.uid = about.gid = 0
    about.uname = about.gname = ""
    return about


@dataclass
class Toll:
    """A TCP proxy before a registry, which can be slow or break off.

    Attributes:
        target: the registry's port.
        rate: bytes a second of all that comes from the registry; None: as fast as it goes.
        drop_after: all connections break, once, when so many bytes have passed.
        passed: bytes of all answers.
        requests: the first lines of all requests.
    """

    target: int
    rate: float | None = None
    drop_after: int | None = None
    passed: int = 0
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """What stands before an image's name."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def count(self, *words: str) -> int:
        """How many requests have all of these words."""
        return sum(all(word in line for word in words) for line in self.requests)

    def close(self) -> None:
        self._listener.close()
        for each in tuple(self._open):
            self._end(each)

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._open.add(inner)
            self._start(self._ask, inner, outer)
            self._start(self._answer, outer, inner)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _ask(self, inner: socket.socket, outer: socket.socket) -> None:
        try:
            while data := inner.recv(65536):
                self.requests.extend(
                    line for line in data.decode(errors="replace").split("\r\n") if " HTTP/1.1" in line
                )
                outer.sendall(data)
        except OSError:
            pass
        self._open.discard(inner)
        self._end(outer)

    def _answer(self, outer: socket.socket, inner: socket.socket) -> None:
        try:
            while data := outer.recv(16384):
                self.passed += len(data)
                if self.drop_after is not None and self.passed > self.drop_after:
                    self.drop_after = None
                    for each in tuple(self._open):
                        self._end(each)
                if self.rate:
                    time.sleep(len(data) / self.rate)
                inner.sendall(data)
        except OSError:
            pass
        self._end(inner)

    def _end(self, each: socket.socket) -> None:
        self._open.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
