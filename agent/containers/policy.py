"""What a runtime env may ask of ``podman run``: options and mounts, judged by the daemon's settings.

A runtime env comes from whoever may submit a job. What limits a container is allowed, what gives it more of
the host than Ray needs is refused unless the settings allow it, and so is all that nobody has thought about.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_envd.agent.errors import DeniedError, EnvError, InvalidSpecError
from ray_envd.agent.image_spec import ImageSpec, Mount
from ray_envd.agent.run_options import Option, parse_options

_ALLOWED = frozenset({
    "add-host", "blkio-weight", "cap-drop", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime",
    "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "dns", "dns-option", "dns-search", "hostname",
    "log-driver", "memory", "memory-reservation", "memory-swap", "memory-swappiness", "no-hosts",
    "oom-score-adj", "pids-limit", "read-only", "read-only-tmpfs", "stop-signal", "stop-timeout", "tmpfs",
    "tz", "ulimit", "umask", "unsetenv", "workdir",
})  # fmt: skip
#: What each container has anyway: stock's users may have written it down.
_AS_IT_IS = frozenset({
    Option("network", "host"), Option("pid", "host"), Option("ipc", "host"),
    Option("rm"), Option("rm", "true"),
})  # fmt: skip
#: What no setting allows, because no worker of Ray's can be started so.
_NEVER = {
    "pid": "a worker in a pid namespace of its own makes the raylet kill its whole cluster",
    "init": "it does not go together with the host's pid namespace, which Ray needs",
    "ipc": "Ray's workers share memory with their raylet",
    "shm-size": "shared memory is the host's, as Ray's object store needs: limit it with --memory",
    "network": "Ray's workers and their raylet reach each other by the host's network",
    "userns": "the worker must be the user that the raylet runs as",
    "uidmap": "the worker must be the user that the raylet runs as",
    "gidmap": "the worker must be the user that the raylet runs as",
    "subuidname": "the worker must be the user that the raylet runs as",
    "subgidname": "the worker must be the user that the raylet runs as",
    "entrypoint": "the container runs Ray's worker",
    "name": "containers have names by which ray-envd finds them again",
    "replace": "containers have names by which ray-envd finds them again",
    "rm": "nothing of a worker stays behind",
    "rmi": "images stay for others who use them",
    "restart": "the raylet decides which workers run",
    "detach": "the raylet watches the process that it has started",
    "pull": "which image is meant is decided once, before the worker starts: set 'pull_policy'",
    "rootfs": "the container is made of the image",
    "pod": "a worker stands alone",
    "pod-id-file": "a worker stands alone",
    "init-ctr": "a worker stands alone",
    "volumes-from": "mounts are named one by one, in 'mounts'",
    "env-file": "a file of this node is not part of the runtime env: write the variables into env_vars",
    "env-host": "variables are named one by one, in env_vars",
    "preserve-fds": "the worker's variables come this way",
    "preserve-fd": "the worker's variables come this way",
    "cidfile": "it writes to the host",
    "pidfile": "it writes to the host",
    "conmon-pidfile": "it writes to the host",
}
#: Why some others are refused; an administrator may think otherwise.
_REASONS = {
    "privileged": "it takes the container's walls away",
    "cap-add": "it gives rights over the host",
    "device": "it gives a device of the host; GPUs are nvidia.com/gpu=all",
    "security-opt": "it weakens the container's walls; no-new-privileges may be set",
    "group-add": "it gives rights over the host; keep-groups may be set",
    "annotation": "some runtimes take annotations for orders",
    "log-opt": "it can name files of the host",
    "user": "the worker must be the user that the raylet runs as",
}
_NO_NEW_PRIVILEGES = re.compile(r"no-new-privileges(?:[:=]true)?")
_GPU = "nvidia.com/gpu="
_LABEL_PREFIX = "ray-envd."
_ENV_NAME = re.compile(r"[^=\0]+")


@dataclass(frozen=True, slots=True)
class Policy:
    """The daemon's settings for containers.

    Attributes:
        options: long names, without dashes, that are allowed beside the usual ones.
        mounts: below these folders of the host everything may be mounted.
        memory: bytes of a container that says nothing of it; None: no limit.
        cpus: cores of a container that says nothing of them; None: no limit.
    """

    options: frozenset[str] = frozenset()
    mounts: tuple[Path, ...] = ()
    memory: int | None = None
    cpus: float | None = None


@dataclass
class Asked:
    """What a runtime env may have.

    Attributes:
        arguments: of ``podman run``, one word an option.
        variables: for the worker; never to be put into arguments.
        mounts: not looked for yet.
        has_gpus: it says itself which GPUs.
    """

    arguments: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    has_gpus: bool = False

    @property
    def limits(self) -> list[str]:
        """The arguments by which memory and cores are limited."""
        return [word for word in self.arguments if word.startswith(("--memory", "--cpu", "--pids-limit"))]


def judge(spec: ImageSpec, policy: Policy, environment: Mapping[str, str]) -> Asked:
    """What of the options of a runtime env goes to podman.

    Args:
        spec: of the runtime env.
        policy: of the daemon.
        environment: the raylet's, which ``--env NAME`` without a value means.

    Raises:
        DeniedError: an option is not allowed.
        InvalidSpecError: one is no option, or cannot be had with Ray.
    """
    asked = Asked(mounts=list(spec.mounts))
    options = parse_options(spec.run_options, spec.field)
    given = {option.name for option in options}
    memory, cpus = spec.memory or policy.memory, spec.cpus or policy.cpus
    if memory is not None and "memory" not in given:
        asked.arguments.append(f"--memory={memory}b")
    if cpus is not None and not given & {"cpus", "cpu-quota", "cpu-period"}:
        asked.arguments.append(f"--cpus={cpus:g}")
    for option in options:
        taken = _TAKEN.get(option.name)
        if taken is not None and taken(option, asked, spec.field, environment):
            continue
        if option in _AS_IT_IS:
            continue
        _require(option, policy, spec.field)
        asked.arguments.append(option.word)
    return asked


def _require(option: Option, policy: Policy, field: str) -> None:
    name = option.name
    if name in _NEVER:
        raise InvalidSpecError(
            f"'--{name}' in 'run_options' cannot be had: {_NEVER[name]}", field=field, remedy="leave it out"
        )
    if name not in _ALLOWED and name not in policy.options:
        reason = _REASONS.get(name, "it is none of those that only limit a container")
        raise DeniedError(
            f"'--{name}' in 'run_options' is not allowed: {reason}",
            field=field,
            remedy="leave it out, or have the daemon's setting container_options allow it:"
            f" container_options=--{name}",
        )


# what is not simply passed on


def _variable(option: Option, asked: Asked, field: str, environment: Mapping[str, str]) -> bool:
    """Values never stand in arguments, where everybody can read them."""
    name, equals, value = (option.value or "").partition("=")
    if not _ENV_NAME.fullmatch(name):
        raise InvalidSpecError(
            "'--env' in 'run_options' names no variable", field=field, remedy="write it into env_vars"
        )
    if equals:
        asked.variables[name] = value
    elif name in environment:
        asked.variables[name] = environment[name]
    return True


def _volume(option: Option, asked: Asked, field: str, _environment: Mapping[str, str]) -> bool:
    parts = (option.value or "").split(":")
    modes = set(parts[2].split(",")) if len(parts) > 2 else set()  # noqa: PLR2004 - source:target:modes
    if not 1 < len(parts) <= 3 or not parts[0].startswith("/") or modes - {"ro", "rw"}:  # noqa: PLR2004 - as above
        raise _bad_mount("--volume", option, field)
    asked.mounts.append(_plain(Mount(parts[0], parts[1], "ro" in modes), option, field))
    return True


def _mount(option: Option, asked: Asked, field: str, _environment: Mapping[str, str]) -> bool:
    pairs = [part.partition("=") for part in (option.value or "").split(",")]
    values = {name: value for name, _, value in pairs}
    read_only = values.pop("ro", values.pop("readonly", "false")) in {"", "true"}
    kind = values.pop("type", "volume")
    source = values.pop("src", values.pop("source", ""))
    target = values.pop("dst", values.pop("target", values.pop("destination", "")))
    if kind != "bind" or values:
        raise _bad_mount("--mount", option, field)
    asked.mounts.append(_plain(Mount(source, target, read_only), option, field))
    return True


def _plain(mount: Mount, option: Option, field: str) -> Mount:
    for path in (mount.source, mount.target):
        if not path.startswith("/") or os.path.normpath(path) != path or set(path) & set(":,\0\n"):
            raise _bad_mount(f"--{option.name}", option, field)
    return mount


def _bad_mount(name: str, option: Option, field: str) -> EnvError:
    return InvalidSpecError(
        f"'{name}' in 'run_options' mounts no folder of the host: {option.value!r}",
        field=field,
        remedy="write it into 'mounts': \"/data:/data:ro\"",
    )


def _gpus(option: Option, asked: Asked, field: str, _environment: Mapping[str, str]) -> bool:
    """The ``--gpus`` of docker, which podman 4 does not know, as devices by CDI."""
    value = (option.value or "").strip('"')
    if value == "all":
        names = ["all"]
    elif value.isdecimal() and int(value) > 0:
        names = [str(number) for number in range(int(value))]
    elif re.fullmatch(r"device=[\w,.-]+", value, re.ASCII):
        names = value.removeprefix("device=").split(",")
    else:
        raise InvalidSpecError(
            f"'--gpus' in 'run_options' is {value!r}",
            field=field,
            remedy="write --gpus=all, --gpus=2 or --gpus=device=0,1",
        )
    asked.arguments += [f"--device={_GPU}{name}" for name in names if name]
    asked.has_gpus = True
    return True


def _device(option: Option, asked: Asked, _field: str, _environment: Mapping[str, str]) -> bool:
    if not (option.value or "").startswith(_GPU):
        return False
    asked.arguments.append(option.word)
    asked.has_gpus = True
    return True


def _security(option: Option, asked: Asked, _field: str, _environment: Mapping[str, str]) -> bool:
    if not _NO_NEW_PRIVILEGES.fullmatch(option.value or ""):
        return False
    asked.arguments.append(option.word)
    return True


def _groups(option: Option, asked: Asked, _field: str, _environment: Mapping[str, str]) -> bool:
    if option.value != "keep-groups":
        return False
    asked.arguments.append(option.word)
    return True


def _label(option: Option, asked: Asked, field: str, _environment: Mapping[str, str]) -> bool:
    if (option.value or "").startswith(_LABEL_PREFIX):
        raise InvalidSpecError(
            f"labels that begin with {_LABEL_PREFIX!r} are ray-envd's own",
            field=field,
            remedy="give the label another name",
        )
    asked.arguments.append(option.word)
    return True


#: Each says whether it has taken the option; what it has not is judged like all others.
_TAKEN: Mapping[str, Callable[[Option, Asked, str, Mapping[str, str]], bool]] = {
    "env": _variable,
    "volume": _volume,
    "mount": _mount,
    "gpus": _gpus,
    "device": _device,
    "security-opt": _security,
    "group-add": _groups,
    "label": _label,
}
