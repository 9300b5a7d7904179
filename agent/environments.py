"""Python environments in the store: from a pip or uv field to what a worker runs in.

Request → (offline, then online) → locked set → object, each step at most once however many ask. What a
request was resolved to is remembered: for good where it is pinned, else for a time; where that has passed and
the index is out of reach, what was resolved before still serves.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.errors import NetworkError
from ray_envd.agent.python.build import build, worker_facts
from ray_envd.agent.python.contents import contents
from ray_envd.agent.python.estimate import UNPACKED, estimate, linked, local_bytes
from ray_envd.agent.python.interpreter import Interpreter, Interpreters
from ray_envd.agent.python.platform import HostPlatform, Platform, Runner
from ray_envd.agent.python.request import Request, read
from ray_envd.agent.python.resolve import Lock, resolve
from ray_envd.agent.python.shadow import build_shadow
from ray_envd.agent.python.spec import PackagesSpec
from ray_envd.agent.python.surroundings import Surroundings, require_seen, surroundings
from ray_envd.agent.python.tools import Toolbox, Work, our_uv
from ray_envd.agent.python.versions import wants_other_uv, with_uv_version
from ray_envd.agent.python.wheel_files import wheel_files
from ray_envd.agent.room import Report, Room
from ray_envd.agent.workshop import Made
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import remove_tree
from ray_envd.cache.store import Build, Entry, Store

#: Set aside where the real pip resolves while it installs, and for another uv; corrected while they are
#: built.
_GUESS_BYTES = 64 * 1024**2
#: Metadata of what an interpreter has: a folder and a few small files for each distribution.
_SHADOW_BYTES = 2 * 1024**2
_IMAGE_DIGITS = 12  # as podman shows them
#: What an environment cannot do without: how its interpreter finds its packages, and on the host the
#: interpreter that it leads to. That of an image is in the image, which does not change.
_CONFIGURATION, _INTERPRETER = "venv/pyvenv.cfg", "venv/bin/python"

#: On the host everything is there already.
_NOTHING = Surroundings((), ())


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment of the store.

    Attributes:
        entry: the object, held.
        interpreter: what it stands on.
        is_new: whether it was built for this request.
    """

    entry: Entry
    interpreter: Interpreter
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read.

    Attributes:
        digests: content digests of its local files.
        digest: of all of it, on this interpreter: the first level of keys.
    """

    request: Request
    platform: Platform
    digests: Mapping[Path, str]
    digest: str


class Environments:
    """Obtains environments. One per daemon."""

    def __init__(self, store: Store, interpreters: Interpreters, *, resolution_ttl: float) -> None:
        self._store, self._interpreters, self._ttl = store, interpreters, resolution_ttl
        our_uv()  # looks at the disk when it is asked first; here nobody waits for it

    async def obtain(self, spec: PackagesSpec, bench: Bench, *, field: str = "") -> Environment:
        """The environment of a spec on the session's interpreter, held.

        Args:
            spec: what.
            bench: for whom.
            field: named in progress and errors; the spec's own if empty.

        Raises:
            EnvError: it cannot be resolved or built.
        """
        field = field or spec.field
        asked = await self._read(spec, bench)
        known = await bench.linked(asked.digest)
        if known is not None:
            return Environment(known, asked.platform.interpreter, is_new=False)
        try:
            key, built = await bench.share(
                ("environment", asked.digest), partial(self._resolve_and_build, field, asked)
            )
        except NetworkError as error:
            known = await bench.linked(asked.digest, expired=True)
            if known is None:
                raise
            bench.reporter(field)("index not reachable, the last resolution is used", error.cause)
            return Environment(known, asked.platform.interpreter, is_new=False)
        entry = bench.hold(key)
        if entry is None:  # collected between its commit and now
            return await self.obtain(spec, bench, field=field)
        return Environment(entry, asked.platform.interpreter, is_new=built)

    async def at_hand(self, spec: PackagesSpec, bench: Bench) -> Environment | None:
        """The environment of a spec if it is there, held; nothing is resolved or built for it.

        One of local files is not looked for: they would have to be read.

        Raises:
            EnvError: the spec means nothing on this node.
        """
        asked = await self._read(spec, bench, local_files=False)
        known = None if asked.request.local_files else bench.there(asked.digest)
        return None if known is None else Environment(known, asked.platform.interpreter, is_new=False)

    async def _read(self, spec: PackagesSpec, bench: Bench, *, local_files: bool = True) -> _Asked:
        platform, owner = await self._platform(bench), bench.session.owner
        request = await read(spec, platform.interpreter, environment=bench.environment, owner=owner)
        files = request.local_files if local_files else []
        digests = await bench.thread(contents, files, owner) if files else {}
        digest = digest_of("environment", owner.uid, request.digest(platform.interpreter, digests))
        return _Asked(request, platform, digests, digest)

    async def _resolve_and_build(self, field: str, asked: _Asked, bench: Bench) -> tuple[ObjectKey, bool]:
        request, platform, owner = asked.request, asked.platform, bench.session.owner
        around = _NOTHING
        if platform.image:
            _require_seen(request, bench, field)
            around = await bench.thread(
                _surroundings, request, platform.interpreter, bench.environment, owner
            )
        async with platform.tools(owner, read=around.read, write=around.write) as run:
            return await self._build_with(run, field, asked, bench)

    async def _build_with(
        self, run: Runner, field: str, asked: _Asked, bench: Bench
    ) -> tuple[ObjectKey, bool]:
        request, interpreter = asked.request, asked.platform.interpreter
        workdir = await bench.thread(_make_workdir, self._store, bench.session.owner)
        work = self._work(field, interpreter, workdir, bench, run)
        try:
            shadow = await self._shadow(interpreter, work, bench)
            venv = shadow.path / "venv"
            work = await self._wanted_uv(request, work, venv, bench)
            fresh = not request.is_pinned
            with bench.workshop.metrics.builds.phase("python", "resolve"):
                lock = await resolve(request, work, shadow=venv, file_digests=asked.digests, fresh=fresh)
            if lock.pins:
                work.report("resolved", ", ".join(lock.named))
            key = bench.key("python", lock.digest)
            fill = partial(_fill, request, lock, work, venv)
            size = _GUESS_BYTES
            if request.engine == "uv":
                size = linked(len(lock.lines)) + await bench.thread(local_bytes, lock, request, work)
            _, built = await bench.obtain(
                key, fill, field=field, summary=_summary(request, lock), reserve=size
            )
        finally:
            await asyncio.shield(bench.thread(_remove, workdir, bench.session.owner))
        await bench.link(asked.digest, key, None if request.is_pinned else self._ttl)
        return key, built

    async def _shadow(self, interpreter: Interpreter, work: Work, bench: Bench) -> Entry:
        async def fill(target: Build, report: Report, _room: Room) -> Made:
            report("reading the interpreter", f"{interpreter.executable} ({interpreter.version})")
            await build_shadow(interpreter, target.path / "venv", owner=bench.session.owner)
            return Made({"interpreter": interpreter.executable}, stamped=_stamped(interpreter))

        key = bench.key("base", interpreter.digest)
        summary = f"metadata of {interpreter.executable}"
        if interpreter.image:
            summary += f" in image {interpreter.image[:_IMAGE_DIGITS]}"
        entry, _ = await bench.obtain(key, fill, field=work.field, summary=summary, reserve=_SHADOW_BYTES)
        return entry

    async def _wanted_uv(self, request: Request, work: Work, shadow: Path, bench: Bench) -> Work:
        """The same work with the uv that ``uv_version`` asks for, kept as an object of the store."""
        if not await bench.thread(wants_other_uv, request):
            return work

        async def fill(target: Build, _report: Report, room: Room) -> Made:
            room.writes_to_uv_cache()
            await with_uv_version(request, work, shadow=shadow, folder=target.path)
            return Made({})

        key = bench.key("tool", digest_of("uv", request.tool_version, work.interpreter.digest))
        summary = f"uv{request.tool_version}"
        entry, _ = await bench.obtain(key, fill, field=work.field, summary=summary, reserve=_GUESS_BYTES)
        return await with_uv_version(request, work, shadow=shadow, folder=entry.path)

    async def _platform(self, bench: Bench) -> Platform:
        if bench.platform is not None:
            # A cancelled waiter must not take the future from the others.
            return await asyncio.shield(bench.platform)
        session = bench.session
        return HostPlatform(
            await self._interpreters.probe(
                session.python, owner=session.owner, environment=session.environment
            )
        )

    def _work(self, field: str, interpreter: Interpreter, workdir: Path, bench: Bench, run: Runner) -> Work:
        folders = self._store.layout.user(bench.session.owner.uid)
        return Work(
            field=field,
            tools=Toolbox.bundled(folders.uv_cache),
            interpreter=interpreter,
            workdir=workdir,
            logs=folders.logs,
            environment=bench.environment,
            owner=bench.session.owner,
            report=bench.reporter(field),
            redact=bench.spec.redactor,
            run=run,
        )


async def _fill(
    request: Request, lock: Lock, work: Work, shadow: Path, target: Build, _report: Report, room: Room
) -> Made:
    room.writes_to_uv_cache()
    downloads = _Downloads(lock, request, work, room, shadow)
    work = replace(work, report=downloads)
    built = await build(
        lock, request, work, shadow=shadow, target=target.path / "venv", ahead=downloads.ahead
    )
    facts = worker_facts(target.path / "venv", work.interpreter)
    details = {
        "python": facts.py_executable,
        "path": list(facts.path),
        "variables": facts.variables,
        "site_packages": str(built.site_packages),
        "pins": [list(pin) for pin in lock.pins],
    }
    if image := work.interpreter.image:
        details["image"] = image
    units = await asyncio.to_thread(_units, built.site_packages, target)
    return Made(details, fetched_bytes=downloads.fetched, units=units, stamped=_stamped(work.interpreter))


def _stamped(interpreter: Interpreter) -> tuple[str, ...]:
    return (_CONFIGURATION,) if interpreter.image else (_INTERPRETER, _CONFIGURATION)


def _units(site_packages: Path, target: Build) -> dict[str, str]:
    with acting_as(target.owner):
        return wheel_files(site_packages, target.path)


class _Downloads:
    """Sees to room for what uv downloads, from what it knows before and what it says meanwhile.

    Attributes:
        fetched: bytes of the downloads, as far as uv has told.
    """

    def __init__(self, lock: Lock, request: Request, work: Work, room: Room, shadow: Path) -> None:
        self._lock, self._request, self._work, self._room, self._shadow = lock, request, work, room, shadow
        self._announced: dict[str, int] = {}
        self.fetched = 0

    async def ahead(self, lock_file: Path) -> None:
        """Goes on once what is ahead has room."""
        lines = len(self._lock.lines)
        found = await estimate(lines, self._request, self._work, shadow=self._shadow, lock_file=lock_file)
        self.fetched = found.downloads
        await self._room.secure(found.bytes)

    def __call__(self, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        """A step of the build."""
        if phase == "downloading" and total:
            self._announced[detail] = total
            downloads = sum(self._announced.values())
            self.fetched = max(self.fetched, downloads)
            self._room.need(linked(len(self._lock.lines)) + downloads * UNPACKED)
        self._work.report(phase, detail, done=done, total=total)


def _summary(request: Request, lock: Lock) -> str:
    """What a person calls the environment: what it adds to the interpreter."""
    if lock.pins:
        return lock.shown
    return "nothing but the interpreter" if request.engine == "uv" else "made by pip"


def _make_workdir(store: Store, owner: Owner) -> Path:
    workdir = store.user_dir(owner).staging / f"environment-{secrets.token_hex(8)}"
    with acting_as(owner):
        workdir.mkdir(mode=0o700)
    return workdir


def _remove(folder: Path, owner: Owner) -> None:
    with acting_as(owner), contextlib.suppress(OSError):
        remove_tree(folder)


def _require_seen(request: Request, bench: Bench, field: str) -> None:
    mounts = bench.spec.image.mounts if bench.spec.image is not None else ()
    mounted = [Path(mount.source) for mount in mounts if mount.source == mount.target]
    require_seen(request, [bench.session.runtime_env_dir, *mounted], field)


def _surroundings(
    request: Request, interpreter: Interpreter, environment: Mapping[str, str], owner: Owner
) -> Surroundings:
    with acting_as(owner):
        return surroundings(request, interpreter, environment)
