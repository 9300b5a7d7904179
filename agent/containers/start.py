"""How a worker is started in a container: within the policy, and tried before any raylet does it."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.gpus import gpu_options
from ray_envd.agent.containers.images import Image
from ray_envd.agent.containers.mounts import (
    TOKEN_PATH_VARIABLE,
    asked_mounts,
    options,
    own_mounts,
    token_path,
)
from ray_envd.agent.containers.plan import name_prefix
from ray_envd.agent.containers.platform import ImagePlatform
from ray_envd.agent.containers.policy import Asked, Policy, judge
from ray_envd.agent.context import Container
from ray_envd.agent.errors import ContainerError, EnvError, InterruptedToolError
from ray_envd.agent.fetch import local_directory
from ray_envd.agent.image_spec import ImageSpec, Mount
from ray_envd.agent.podman.host import Hosts, PodmanHost
from ray_envd.agent.process import Completed
from ray_envd.agent.sessions import Session

#: The first container of a user without root's rights re-owns the layers of the image, which takes its time.
_TRIAL_SECONDS = 120.0
_MOST_REMEMBERED = 1024
_KILLED = 128  # and more: a signal's number is added


class Starts:
    """Decides how the containers of an image are run. One per daemon."""

    def __init__(self, hosts: Hosts, policy: Policy, attend: Callable[[Session], Awaitable[None]]) -> None:
        """The starts of all sessions.

        Args:
            hosts: podman of each user.
            policy: of the daemon.
            attend: awaited with each session that will have containers.
        """
        self._hosts, self._policy, self._attend = hosts, policy, attend
        self._tried: dict[str, None] = {}

    async def require_allowed(self, spec: ImageSpec, bench: Bench) -> None:
        """Judges options and mounts, before an image is pulled for what may not run.

        Raises:
            DeniedError, InvalidSpecError: as of :meth:`container`.
        """
        asked = judge(spec, self._policy, bench.session.environment)
        await bench.thread(self._mounts, asked, spec, bench)

    async def container(
        self, image: Image, platform: ImagePlatform, spec: ImageSpec, bench: Bench
    ) -> Container:
        """What a worker of this runtime env starts in. Such a container has run when this returns.

        Raises:
            DeniedError: an option or mount that the policy does not allow.
            InvalidSpecError: an option that podman or Ray cannot do with.
            ContainerError: no container starts with these options.
        """
        session = bench.session
        asked = judge(spec, self._policy, session.environment)
        host = await self._hosts.of(session.owner, session.environment, image.id, raylet=session.raylet_pid)
        if asked.limits and not host.info.limits_count:
            bench.reporter(spec.field)(
                "warning:", f"{' '.join(asked.limits)} will not limit anything: cgroups v2 is needed for that"
            )
        mounts = await bench.thread(self._mounts, asked, spec, bench)
        gpus = await bench.thread(gpu_options, session.environment) if not asked.has_gpus else []
        container = Container(
            podman=host.command,
            arguments=(
                *_always(host, session, bench.store.layout.root),
                *options(mounts),
                *gpus,
                *asked.arguments,
            ),
            environment=host.environment,
            image=image.id,
            python=platform.interpreter.executable,
            worker_path=platform.worker_path,
            variables={**_told(session), **asked.variables},
            python_path=asked.variables.get("PYTHONPATH") or image.variables.get("PYTHONPATH", ""),
        )
        await self._try_once(container, host, spec, bench)
        await self._attend(session)
        return container

    def _mounts(self, asked: Asked, spec: ImageSpec, bench: Bench) -> list[Mount]:
        """Blocking. A ``local://`` folder is one of the host as well, and judged as others are."""
        session = bench.session
        ours = own_mounts(session, bench.store.user_dir(session.owner).objects)
        local = [Mount(path, path, read_only=False) for path in _local_folders(bench.spec.fields)]
        theirs = asked_mounts(asked.mounts, self._policy, session.owner, spec.field, ours=ours)
        folders = asked_mounts(local, self._policy, session.owner, "working_dir", ours=())
        # By target: podman takes no two mounts at one place.
        return list({mount.target: mount for mount in (*folders, *theirs, *ours)}.values())

    async def _try_once(self, container: Container, host: PodmanHost, spec: ImageSpec, bench: Bench) -> None:
        """A raylet would try a container that cannot start again and again, and start nothing else."""
        digest = _digest(container)
        if digest in self._tried:
            return
        await bench.share(("trial", digest), partial(_try, container, host, spec))
        self._tried[digest] = None
        while len(self._tried) > _MOST_REMEMBERED:
            del self._tried[next(iter(self._tried))]


def _always(host: PodmanHost, session: Session, store: Path) -> tuple[str, ...]:
    """What no worker's container is without."""
    return (
        "--rm",
        *host.run_options,
        *host.worker_options,
        "--log-driver=none",  # the worker writes its logs where Ray looks for them
        "--no-healthcheck",
        f"--label=ray-envd.session={session.id}",
        f"--label=ray-envd.store={store}",
    )


def _told(session: Session) -> dict[str, str]:
    """Variables that mean something else in the container than in the raylet's environment."""
    token = token_path(session)
    return {} if token is None else {TOKEN_PATH_VARIABLE: token}


def _local_folders(fields: Mapping[str, object]) -> list[str]:
    modules = fields.get("py_modules")
    uris = [fields.get("working_dir"), *(modules if isinstance(modules, list) else [])]
    folders = [local_directory(uri, "working_dir") for uri in uris if isinstance(uri, str)]
    return [str(folder) for folder in folders if folder is not None]


def _digest(container: Container) -> str:
    parts = [container.podman, container.arguments, sorted(container.environment.items())]
    return hashlib.sha256(json.dumps([*parts, container.image, container.python]).encode()).hexdigest()


async def _try(container: Container, host: PodmanHost, spec: ImageSpec, bench: Bench) -> None:
    """One container with everything but the worker.

    Raises:
        ContainerError: it does not start; with podman's last lines.
    """
    report = bench.reporter(spec.field)
    report("trying a container of", str(spec.reference))
    name = f"{name_prefix(bench.session.id)}-trial-{secrets.token_hex(4)}"
    argv = ["run", "--name", name, *container.arguments, f"--entrypoint={container.python}"]
    try:
        async with asyncio.timeout(_TRIAL_SECONDS):
            completed = await host.podman(*argv, container.image, "-I", "-S", "-c", "pass")
    except TimeoutError as error:
        await _remove(host, name)
        raise ContainerError(
            f"a container did not start within {_TRIAL_SECONDS:g} s",
            field=spec.field,
            remedy="see why `podman run` takes so long on this node",
        ) from error
    except asyncio.CancelledError:
        await asyncio.shield(_remove(host, name))
        raise
    if completed.returncode:
        raise _refused(completed, spec, bench)


async def _remove(host: PodmanHost, name: str) -> None:
    await host.podman("rm", "--force", "--ignore", "--time=0", name)


def _refused(completed: Completed, spec: ImageSpec, bench: Bench) -> EnvError:
    output = tuple(bench.spec.redactor(line) for line in completed.tail(8))
    if completed.returncode < 0:
        return InterruptedToolError(
            f"podman was killed by {completed.killed_by}", field=spec.field, output=output
        )
    killed = completed.returncode > _KILLED
    return ContainerError(
        f"Python was killed by signal {completed.returncode - _KILLED} in a container of {spec.reference}"
        if killed
        else f"podman does not start a container of {spec.reference}",
        field=spec.field,
        remedy="give it more memory"
        if killed
        else "change 'run_options', or what podman complains of on this node",
        output=output,
    )
