"""What podman says of itself for one user."""

import asyncio
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent import process
from ray_envd.agent.errors import HostError, ToolMissingError
from ray_envd.agent.podman.faults import NO_RUNTIME, PODMAN_MISSING, failure, raised
from ray_envd.cache.owner import Owner

#: In the order in which they are tried where the configured one does not run.
RUNTIMES = ("crun", "runc")
_OLDEST = (4, 0)


@dataclass(frozen=True, slots=True)
class PodmanInfo:
    """Of ``podman info``.

    Attributes:
        program: absolute path.
        version: as it says it.
        rootless: whether containers have a user namespace made by an ordinary user.
        cgroups: ``v1``, ``v2``, or ``hybrid``: the first with a mount of the second for systemd.
        cgroup_manager: ``systemd`` or ``cgroupfs``.
        runtime: name of the OCI runtime that is configured, or was found in its place; empty where that does
            not even tell its version.
        driver: of the storage.
        graph_root: where images lie.
        run_root: the state of containers.
        registries: as in registries.conf, by name, and ``search``.
        selinux: whether it labels files.
    """

    program: str
    version: str
    rootless: bool
    cgroups: str
    cgroup_manager: str
    runtime: str
    driver: str
    graph_root: Path
    run_root: Path
    registries: Mapping[str, Any]
    selinux: bool

    @property
    def limits_count(self) -> bool:
        """Whether limits of memory and CPUs take effect: rootless and without cgroups v2 they are ignored."""
        return not self.rootless or self.cgroups == "v2"

    @property
    def notes(self) -> tuple[str, ...]:
        """What works, but not well; each with its remedy."""
        found = []
        if self.driver == "vfs":
            found.append(
                "podman's storage driver is vfs: each container copies its whole image; set driver = "
                '"overlay" in storage.conf, which needs an empty storage (podman system reset)'
            )
        if not self.limits_count:
            found.append("limits of memory and CPUs are ignored for users' containers without cgroups v2")
        return tuple(found)


async def read_info(owner: Owner, environment: Mapping[str, str]) -> PodmanInfo:
    """Asks podman; some 60 ms.

    Args:
        owner: as whom.
        environment: of :func:`.environment.podman_environment`.

    Raises:
        ToolMissingError: podman or every OCI runtime is missing.
        HostError: podman does not work for this user, or is too old.
    """
    program = await asyncio.to_thread(shutil.which, "podman", path=environment["PATH"])
    if program is None:
        raise raised(PODMAN_MISSING)
    completed = None
    # Where the configured runtime is not installed podman says nothing else, whatever it is asked.
    for runtime in (None, *RUNTIMES):
        chosen = () if runtime is None else ("--runtime", runtime)
        argv = [program, *chosen, "info", "--format", "json"]
        try:
            completed = await process.run(argv, env=environment, cwd="/", owner=owner)
        except ToolMissingError as error:
            raise raised(PODMAN_MISSING) from error
        if not completed.returncode:
            return _checked(await asyncio.to_thread(_parsed, program, completed.lines))
        if not NO_RUNTIME.words.search("\n".join(completed.lines)):
            raise failure(completed, "say how it is set up")
    raise raised(NO_RUNTIME, completed)


def _parsed(program: str, lines: Sequence[str]) -> PodmanInfo:
    # Warnings go before and behind the document. Parts of it stand at the margin too: registries do.
    start = next((i for i, line in enumerate(lines) if line == "{"), 0)
    try:
        said, _ = json.JSONDecoder().raw_decode("\n".join(lines[start:]))
        host, store = said["host"], said["store"]
        version = str(host["cgroupVersion"])
        hybrid = version == "v1" and Path("/sys/fs/cgroup/unified").is_dir()
        return PodmanInfo(
            program=program,
            version=str(said["version"]["Version"]),
            rootless=bool(host["security"]["rootless"]),
            cgroups="hybrid" if hybrid else version,
            cgroup_manager=str(host["cgroupManager"]),
            runtime=str((host["ociRuntime"] or {}).get("name", "")),
            driver=str(store["graphDriverName"]),
            graph_root=Path(store["graphRoot"]),
            run_root=Path(store["runRoot"]),
            registries=said.get("registries") or {},
            selinux=bool(host["security"].get("selinuxEnabled")),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise HostError(
            "what podman says of itself cannot be understood",
            remedy="run `podman info` on this node as the raylet's user",
            output=lines[-5:],
        ) from error


def _checked(info: PodmanInfo) -> PodmanInfo:
    parts = re.match(r"(\d+)\.(\d+)", info.version)
    if parts is None or (int(parts[1]), int(parts[2])) < _OLDEST:
        raise HostError(f"podman is {info.version}", remedy="install podman 4.0 or later")
    return info
