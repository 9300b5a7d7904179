"""Whether workers can run in containers: podman for one user, tried with a real container.

Runtime envs without an image need nothing of it, so a node without podman is fine.
"""

import asyncio
import os
import secrets
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray_envd.agent.doctor import registries
from ray_envd.agent.doctor.finding import Finding, fail, ok, warn
from ray_envd.agent.doctor.rootless import id_mappers, runtime_folder, subordinate_ids
from ray_envd.agent.errors import EnvError
from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.faults import PODMAN_MISSING, failure
from ray_envd.agent.podman.host import Hosts, PodmanHost
from ray_envd.agent.podman.info import PodmanInfo
from ray_envd.agent.podman.setup import Setup, limits_of
from ray_envd.cache.owner import Owner, acting_as

_QUEUES = Path("/dev/mqueue")
_RUN = Path("/run")


def examine(owner: Owner, environment: Mapping[str, str], addresses: Sequence[str] = ()) -> list[Finding]:
    """Every check; blocking, with an event loop of its own. Some seconds, longer if podman does not work.

    A tiny image is imported into the user's storage and removed again. Podman makes that storage if there is
    none, as it would for his first worker.

    Args:
        owner: as whom containers run.
        environment: his raylets'.
        addresses: registries to look at, ``host[:port]``.
    """
    chosen = podman_environment(owner, environment)
    if shutil.which("podman", path=chosen["PATH"]) is None:
        found = "it is not installed: no runtime env can name an image"
        return [warn("podman", found, f"{PODMAN_MISSING.remedy} (only containers need it)")]
    findings = [message_queues()]
    if owner.uid:
        findings += [subordinate_ids(owner), id_mappers(chosen["PATH"]), runtime_folder(owner, chosen)]
    return [*findings, *asyncio.run(_ask_podman(owner, chosen, addresses))]


async def _ask_podman(owner: Owner, chosen: Mapping[str, str], addresses: Sequence[str]) -> list[Finding]:
    hosts = Hosts()
    try:
        info = await hosts.info(owner, chosen)
    except EnvError as error:
        return [_failed("podman", error)]
    kind = "rootless" if info.rootless else "rootful"
    findings = [
        ok("podman", f"{info.version} ({info.program}), {kind}, cgroups {info.cgroups}"),
        storage(info),
        limits(info),
        await asyncio.to_thread(service, owner, chosen),
        *[await registries.look(each, info, chosen, owner) for each in addresses],
    ]
    try:
        host = await _started(hosts, info, chosen, owner)
    except EnvError as error:
        return [*findings, _failed("containers", error)]
    return [*findings, containers(host)]


async def _started(hosts: Hosts, info: PodmanInfo, chosen: Mapping[str, str], owner: Owner) -> PodmanHost:
    """Starts a container. It needs an image, and the user may have none."""
    plain = PodmanHost(info, chosen, Setup(runtime=info.runtime or None), limits_of(), owner)
    name = f"localhost/ray-envd-doctor:{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="ray-envd-doctor-") as folder:
        archive = await asyncio.to_thread(_write_archive, Path(folder), name)
        imported = await plain.podman("import", "--quiet", str(archive), name)
    if imported.returncode:
        raise failure(imported, "import an image")
    try:
        return await hosts.of(owner, chosen, name)
    finally:
        await plain.podman("rmi", "--force", name)


def _write_archive(folder: Path, name: str) -> Path:
    """One empty folder; its name makes the image one that nobody else has."""
    folder.chmod(0o755)  # podman reads as the user
    path = folder / "image.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo(name.rpartition(":")[2])
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
    path.chmod(0o644)
    return path


def containers(host: PodmanHost) -> Finding:
    """How containers are started, which was found out with one."""
    setup, notes = host.setup, []
    if setup.runtime not in {None, host.info.runtime}:
        notes.append(f"{host.info.runtime}, which podman would take, does not run containers here")
    if setup.cgroup_manager is not None:
        notes.append(f"cgroups by {setup.cgroup_manager}, since systemd is not there")
    if setup.own_limits:
        options = " ".join(host.limits.options())
        notes.append(f"podman's own limits are refused (no CAP_SYS_RESOURCE), so ray-envd gives {options}")
    started = f"one was started by {setup.runtime or host.info.runtime}"
    return ok("containers", "; ".join([started, *notes]))


def storage(info: PodmanInfo) -> Finding:
    """Overlays of layers, or copies."""
    check = "container storage"
    if info.driver == "vfs":
        found, _, remedy = info.notes[0].partition("; ")
        return warn(check, f"{found} ({info.graph_root})", remedy)
    return ok(check, f"{info.driver} in {info.graph_root}")


def limits(info: PodmanInfo) -> Finding:
    """Whether ``memory`` and ``cpus`` of an image do something."""
    check = "container limits"
    if info.limits_count:
        return ok(check, "memory and CPUs can be limited")
    return warn(
        check,
        f"with cgroups {info.cgroups} limits of memory and CPUs are ignored for containers of ordinary users",
        "boot with cgroups v2 (systemd.unified_cgroup_hierarchy=1), or run the raylets as root",
    )


def message_queues(folder: Path = _QUEUES) -> Finding:
    """Podman mounts them when it shares the host's IPC namespace."""
    check = "message queues"
    if folder.is_dir():
        return ok(check, f"{folder} is there")
    return warn(
        check,
        f"{folder} is missing: containers share the host's /dev/shm only, which is all that Ray needs",
        f"mkdir {folder} && mount -t mqueue none {folder}, if jobs use System V or POSIX queues",
    )


def service(owner: Owner, chosen: Mapping[str, str], run: Path = _RUN) -> Finding:
    """Podman's API: a service that runs, or one that is started when it is needed."""
    check = "podman service"
    folder = run if owner.uid == 0 else chosen.get("XDG_RUNTIME_DIR")
    if folder is None:
        return ok(check, "ray-envd starts one when it needs it")
    path = Path(folder, "podman", "podman.sock")
    with acting_as(owner), socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fspath(path))
        except OSError as error:
            return ok(check, f"none on {path} ({error.strerror}): ray-envd starts one when it needs it")
    return ok(check, f"one listens on {path}")


def _failed(check: str, error: EnvError) -> Finding:
    said = f" ({error.output[-1].strip()})" if error.output else ""
    # Others send people here; from here they go to podman itself.
    here = not error.remedy or "ray-envd doctor" in error.remedy
    remedy = "make `podman run` work for the raylet's user" if here else error.remedy
    return fail(check, f"{error.cause}{said}", remedy)
