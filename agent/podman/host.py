"""Podman for one user on this node: found out with a real container, once, and remembered while it holds."""

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ray_envd.agent import process
from ray_envd.agent.errors import EnvError, HostError
from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.faults import failure, fault_in
from ray_envd.agent.podman.info import RUNTIMES, PodmanInfo, read_info
from ray_envd.agent.podman.setup import Limits, Setup, limits_of, next_setup
from ray_envd.agent.process import Completed
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)
#: More than there are known changes; each attempt makes one.
_MOST_ATTEMPTS = 10
_TRIAL_SECONDS = 180.0  # storage without overlays copies the image, and re-owning its layers takes its time
#: containers.conf(5), storage.conf(5), containers-registries.conf(5); below the root and below a home.
_FILES = ("containers.conf", "storage.conf", "registries.conf")
_FOLDERS = ("/usr/share/containers", "/etc/containers")
#: What the runtime says once the container is there and only the command in it is not.
_STARTED = ("executable file", "not found")

_Stamps = Mapping[str, tuple[int, int] | None]


#: Of every container that is not a worker's, with the store whose daemon runs it.
_LABEL = "ray-envd.tools"
_LIGHT = ("--log-driver=none", "--no-healthcheck")
_REMOVE = ("rm", "--force", "--ignore", "--volumes", "--time=0")


@dataclass(frozen=True, slots=True)
class PodmanHost:
    """How containers are started for one user.

    Attributes:
        info: what podman says of itself.
        environment: podman's own, complete.
        setup: what works.
        limits: what the containers may be given.
        owner: the user.
        store: whose daemon this is, a name for what is swept.
    """

    info: PodmanInfo
    environment: Mapping[str, str]
    setup: Setup
    limits: Limits
    owner: Owner
    store: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        """The program with its global options; a command of podman follows."""
        return (self.info.program, *self.setup.global_options())

    @property
    def run_options(self) -> tuple[str, ...]:
        """What every ``podman run`` needs."""
        return self.setup.run_options(self.info, self.owner, self.limits)

    @property
    def worker_options(self) -> tuple[str, ...]:
        """What a worker's needs beside :attr:`run_options`."""
        return self.setup.worker_options()

    async def podman(self, *words: str) -> Completed:
        """Runs podman to its end; a failure is no exception.

        Raises:
            ToolMissingError: it has been removed.
        """
        return await process.run([*self.command, *words], env=self.environment, cwd="/", owner=self.owner)

    async def container(self, name: str, *words: str) -> Completed:
        """Runs a container to its end; nothing of it is left, not when it is cancelled either.

        Args:
            name: of the container.
            words: options beside :attr:`run_options`, the image, the command.

        Raises:
            ToolMissingError: podman has been removed.
        """
        options = ("--rm", f"--name={name}", f"--label={_LABEL}={self.store}", *_LIGHT)
        try:
            return await self.podman("run", *options, *self.run_options, *words)
        except asyncio.CancelledError:
            # Killed, podman does not come to it itself.
            removing = asyncio.ensure_future(self.remove(name))
            await asyncio.wait({removing})
            raise

    async def remove(self, *names: str) -> None:
        """Removes containers, running or not; those that are not there are none the worse."""
        with contextlib.suppress(EnvError):
            await self.podman(*_REMOVE, *names)

    async def sweep(self) -> None:
        """Removes what an earlier daemon of the store has left, killed while tools ran."""
        filters = ("--filter", f"label={_LABEL}={self.store}")
        listed = await self.podman("ps", "--all", "--quiet", *filters)
        if not listed.returncode and listed.lines:
            await self.remove(*listed.lines)


class Hosts:
    """Finds out about podman, for each user and environment once. One per daemon."""

    def __init__(self, store: str = "") -> None:
        """``store`` is the name by which containers are known to be this daemon's."""
        self._store = store
        self._infos: dict[str, tuple[_Stamps, PodmanInfo]] = {}
        self._setups: dict[str, tuple[_Stamps, Setup]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def info(self, owner: Owner, environment: Mapping[str, str]) -> PodmanInfo:
        """What podman says of itself; asked again once its program or its settings have changed.

        Args:
            owner: as whom.
            environment: the raylet's.

        Raises:
            EnvError: podman cannot be used, and why.
        """
        chosen = await asyncio.to_thread(podman_environment, owner, environment)
        key = _key(owner, chosen)
        async with self._locks.setdefault(key, asyncio.Lock()):
            return (await self._info(key, owner, chosen))[1]

    async def of(
        self, owner: Owner, environment: Mapping[str, str], image: str, *, raylet: int = 0
    ) -> PodmanHost:
        """How to start containers.

        Args:
            owner: as whom.
            environment: the raylet's.
            image: one that is there, for the first container.
            raylet: pid of the raylet, whose limits its containers have.

        Raises:
            EnvError: no container can be started, and why.
        """
        chosen = await asyncio.to_thread(podman_environment, owner, environment)
        limits = await asyncio.to_thread(limits_of, *([raylet] if raylet else []))
        key = _key(owner, chosen)
        async with self._locks.setdefault(key, asyncio.Lock()):
            stamps, info = await self._info(key, owner, chosen)
            known = self._setups.get(key)
            setup = known[1] if known is not None and known[0] == stamps else None
            if setup is None:
                setup = await _try_out(PodmanHost(info, chosen, Setup(), limits, owner, self._store), image)
                if known is None and self._store:
                    await PodmanHost(info, chosen, setup, limits, owner, self._store).sweep()
                self._setups[key] = stamps, setup
        return PodmanHost(info, chosen, setup, limits, owner, self._store)

    async def _info(
        self, key: str, owner: Owner, environment: Mapping[str, str]
    ) -> tuple[_Stamps, PodmanInfo]:
        stamps = await asyncio.to_thread(_stamps, owner, environment)
        known = self._infos.get(key)
        if known is not None and known[0] == stamps:
            return known
        info = await read_info(owner, environment)
        for note in info.notes:
            _log.warning("uid %d: %s", owner.uid, note)
        self._infos[key] = stamps, info
        return stamps, info


async def _try_out(host: PodmanHost, image: str) -> Setup:
    """The setup with which a container of the image starts as a worker's would."""
    said = dict[str, tuple[str, ...]]()
    for _ in range(_MOST_ATTEMPTS):
        completed = await _trial(host, *host.worker_options, "--entrypoint=python3", image, "-ISc", "pass")
        text = "\n".join(completed.lines)
        if not completed.returncode or all(words in text for words in _STARTED):
            return host.setup
        said[host.setup.runtime or host.info.runtime or "podman's own"] = completed.tail(3)
        changed = next_setup(host.setup, host.info, text)
        if changed is None:
            if len(said) > 1 and fault_in(text) is None:
                break
            raise failure(completed, "start a container")
        _log.info("podman does not start containers with %s, %s is tried", host.setup, changed)
        host = replace(host, setup=changed)
    raise _nothing_runs(said)


async def _trial(host: PodmanHost, *words: str) -> Completed:
    try:
        async with asyncio.timeout(_TRIAL_SECONDS):
            return await host.container(f"ray-envd-trial-{secrets.token_hex(8)}", *words)
    except TimeoutError as error:
        raise HostError(
            f"a container did not start within {_TRIAL_SECONDS:g} s",
            remedy="see why `podman run` of the image takes so long for the raylet's user",
        ) from error


def _nothing_runs(said: Mapping[str, tuple[str, ...]]) -> EnvError:
    return HostError(
        f"no OCI runtime starts a container: {', '.join(said)} were tried",
        remedy="make one of them run for the raylet's user (podman run --runtime NAME ...); where crun "
        "refuses the layout of the cgroups, install runc",
        output=[f"{runtime}: {line}" for runtime, lines in said.items() for line in lines],
    )


def _key(owner: Owner, environment: Mapping[str, str]) -> str:
    return json.dumps([owner.uid, owner.gid, sorted(environment.items())])


def _stamps(owner: Owner, environment: Mapping[str, str]) -> _Stamps:
    """Size and time of everything that decides what podman does; blocking."""
    home = environment.get("XDG_CONFIG_HOME") or f"{environment['HOME']}/.config"
    folders = (*_FOLDERS, f"{home}/containers")
    paths = [f"{folder}/{name}" for folder in folders for name in _FILES]
    paths += [value for name, value in environment.items() if name.startswith("CONTAINERS_")]
    programs = (shutil.which(name, path=environment["PATH"]) for name in ("podman", *RUNTIMES))
    paths += [program for program in programs if program]
    with acting_as(owner):
        return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
