"""An image's Python as what environments are built on."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Image
from ray_envd.agent.containers.pythons import Found, choose, search, understood
from ray_envd.agent.containers.tool_container import Mount, ToolPlace, tool_container
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.podman.host import Hosts, PodmanHost
from ray_envd.agent.python.bytecode import compile_modules
from ray_envd.agent.python.interpreter import PROBE_SCRIPT, Interpreter, Interpreters
from ray_envd.agent.python.platform import Runner
from ray_envd.agent.python.remembered import Remembered
from ray_envd.agent.python.tools import our_uv
from ray_envd.cache.layout import UserDirs
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)
#: What of the raylet's own environment means the same beside an image's Python: how packages are fetched,
#: and whose files say so. All else (PATH, PYTHONPATH, compilers) speaks of the host. ``env_vars`` all pass.
_SHARED = frozenset(
    {
        "CURL_CA_BUNDLE",
        "HOME",
        "NETRC",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "SSL_CLIENT_CERT",
        "XDG_CONFIG_DIRS",
        "XDG_CONFIG_HOME",
    }
)
_SHARED_PREFIXES = ("GIT_", "PIP_", "UV_")
_MOST_USED = 256  # images of users whose environments can be compiled
_PROXIES = frozenset({"all_proxy", "http_proxy", "https_proxy", "no_proxy"})


@dataclass(frozen=True)
class ImagePlatform:
    """The Python of one image; see :class:`ray_envd.agent.python.platform.Platform`.

    Attributes:
        interpreter: the one that imports Ray; all of its paths are paths in the image.
        image: podman's id.
        worker_path: of Ray's ``default_worker.py`` in the image.
        host: podman for the session's owner.
    """

    interpreter: Interpreter
    image: str
    worker_path: str
    host: PodmanHost
    _dirs: UserDirs = field(repr=False)
    _raylet: Mapping[str, str] = field(repr=False)
    _field: str = ""

    @asynccontextmanager
    async def tools(
        self, owner: Owner, *, read: Sequence[Path], write: Sequence[Path]
    ) -> AsyncIterator[Runner]:
        """A container of the image, in which tools run one after the other."""
        place = ToolPlace(
            host=self.host,
            image=self.image,
            python=self.interpreter.executable,
            staging=self._dirs.staging,
            field=self._field,
            passes=self._passes,
        )
        mounts = await asyncio.to_thread(self._mounts, owner, read, write)
        async with tool_container(place, mounts) as run:
            yield run

    def _mounts(self, owner: Owner, read: Sequence[Path], write: Sequence[Path]) -> list[Mount]:
        """The owner's folder as one, so that uv can link between its cache and the environments."""
        inside = [self._dirs.root]
        mounts = {self._dirs.root: Mount(self._dirs.root, read_only=False)}
        with acting_as(owner):
            for path, read_only in [(path, False) for path in write] + [(path, True) for path in read]:
                if path.exists() and not any(path.is_relative_to(folder) for folder in inside):
                    mounts.setdefault(path, Mount(path, read_only=read_only))
        uv = Path(our_uv())
        mounts.setdefault(uv, Mount(uv))
        return list(mounts.values())

    def _passes(self, name: str, value: str) -> bool:
        if self._raylet.get(name) != value:
            return True
        return name in _SHARED or name.lower() in _PROXIES or name.startswith(_SHARED_PREFIXES)


class Platforms:
    """Finds out what Python an image has, once per image. One per daemon.

    Attributes:
        on_used: called when a user's session uses an image for the first time since the daemon started.
    """

    def __init__(self, hosts: Hosts, interpreters: Interpreters) -> None:
        self._hosts, self._interpreters = hosts, interpreters
        #: The last platform of each user's image: what compiles his environments over it.
        self._used: dict[tuple[int, str], ImagePlatform] = {}
        self.on_used: Callable[[], None] = lambda: None
        self._found: dict[tuple[int, str, str, str], Sequence[Found]] = {}

    async def of(self, image: Image, spec: ImageSpec, bench: Bench) -> ImagePlatform:
        """The platform of an image.

        Raises:
            EnvError: it has no Python, none with Ray, or Ray of another version than the raylet's.
        """
        session = bench.session
        raylets = await self._interpreters.probe(
            session.python, owner=session.owner, environment=session.environment
        )
        host = await self._hosts.of(session.owner, session.environment, image.id, raylet=session.raylet_pid)
        ray_version = session.ray_version or raylets.ray_version or ""
        found = await self._look(image, spec, ray_version, host, bench)
        interpreter, worker_path = choose(
            found, spec, ray_version=ray_version, python_version=raylets.version
        )
        dirs = bench.store.layout.user(session.owner.uid)
        platform = ImagePlatform(
            interpreter, image.id, worker_path, host, dirs, session.environment, spec.field
        )
        self._note_used(session.owner, platform)
        return platform

    def _note_used(self, owner: Owner, platform: ImagePlatform) -> None:
        is_new = not self.is_ready(owner.uid, platform.image)
        self._used[owner.uid, platform.image] = platform
        while len(self._used) > _MOST_USED:
            del self._used[next(iter(self._used))]
        if is_new:
            self.on_used()

    def is_ready(self, uid: int, image: str) -> bool:
        """Whether :meth:`compile` can work: a session of this user has used the image."""
        return (uid, image) in self._used

    async def compile(self, owner: Owner, image: str, site_packages: Path, *, seconds: float) -> None:
        """Compiles what was built over an image, in a container of it, at a low priority.

        Raises:
            EnvError: no container can be started.
        """
        platform = self._used[owner.uid, image]
        async with platform.tools(owner, read=[], write=[]) as run:
            python = Path(platform.interpreter.executable)
            await compile_modules(python, site_packages, owner, seconds=seconds, run=run)

    async def _look(
        self, image: Image, spec: ImageSpec, ray_version: str, host: PodmanHost, bench: Bench
    ) -> Sequence[Found]:
        key = (bench.session.owner.uid, image.id, spec.worker_path, ray_version)
        if (known := self._found.get(key)) is not None:
            return known

        async def look(own: Bench) -> Sequence[Found]:
            found = await own.thread(_recall, own, key)
            if found is None:
                own.reporter(spec.field)("looking for its Python")
                found = await search(host, image.id, spec, ray_version)
                await own.thread(_keep, own, key, found)
            self._found[key] = found
            return found

        return await bench.share(("pythons", *key), look)


def _lasting(key: tuple[int, str, str, str]) -> list[object]:
    """A key that tells daemons apart too: the version of the script decides what it says."""
    return ["image", hashlib.sha256(PROBE_SCRIPT.read_bytes()).hexdigest(), *key]


def _recall(bench: Bench, key: tuple[int, str, str, str]) -> list[Found] | None:
    """What was found before; None if nothing that can be understood was."""
    owner = bench.session.owner
    remembered = Remembered(bench.store.user_dir(owner).interpreters)
    with acting_as(owner):
        kept = remembered.get(_lasting(key))
    try:
        return None if kept is None else understood(kept["found"], key[1])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # not what a search writes: somebody's own doing


def _keep(bench: Bench, key: tuple[int, str, str, str], found: Sequence[Found]) -> None:
    owner = bench.session.owner
    try:
        remembered = Remembered(bench.store.user_dir(owner).interpreters)
        with acting_as(owner):
            remembered.put(_lasting(key), {"found": [each.said for each in found]})
    except OSError as error:
        _log.warning("what was found of an image's Python is not kept: %s", error)
