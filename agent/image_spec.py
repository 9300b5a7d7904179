"""What a runtime env says of its container: our field ``image``, and Ray's ``image_uri`` and ``container``.

Ray's driver refuses its own two fields beside most others, and lets ``image`` pass because it does not know
it. All three mean the same here, and go together with every other field.
"""

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_envd.agent.errors import EnvError, InvalidSpecError
from ray_envd.agent.humanize import DURATION_FORMS, SIZE_FORMS, parse_bytes, parse_pull_policy
from ray_envd.agent.image_reference import Reference, parse_reference

#: Each field with the name of its image inside, where it is an object.
IMAGE_FIELDS = {"image": "uri", "image_uri": "image_uri", "container": "image"}
_KEYS = {
    "image": {"uri", "run_options", "pull_policy", "memory", "cpus", "mounts"},
    "image_uri": {"image_uri"},
    "container": {"image", "run_options", "worker_path"},
}
_LEAST_MEMORY = 6 * 1024**2  # podman's own


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host in the container; absolute paths without ``..``."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The container of one runtime env.

    Attributes:
        field: which of the fields says so; for messages.
        reference: the image.
        run_options: more arguments of ``podman run``, not judged yet.
        max_age: seconds for which a tag that was looked up before is taken to mean the same image: infinity
            where the image's presence is enough (``missing``), 0 for ``always``. None: the daemon's setting.
        memory: bytes; None: the daemon's setting.
        cpus: number of cores; None: the daemon's setting.
        mounts: not judged yet.
        worker_path: of Ray's ``default_worker.py`` in the image; empty where it is to be found.
    """

    field: str
    reference: Reference
    run_options: tuple[str, ...] = ()
    max_age: float | None = None
    memory: int | None = None
    cpus: float | None = None
    mounts: tuple[Mount, ...] = ()
    worker_path: str = ""


def parse_image(whole: Mapping[str, Any]) -> ImageSpec | None:
    """The container that a runtime env names; None if it names none.

    Raises:
        InvalidSpecError: it is not of the right form, or there are two.
    """
    given = [name for name in IMAGE_FIELDS if whole.get(name)]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidSpecError(
            f"{given[0]!r} and {given[1]!r} cannot both be given",
            field=given[1],
            remedy="name the image once, in 'image'",
        )
    field = given[0]
    value = whole[field]
    if isinstance(value, str):
        value = {IMAGE_FIELDS[field]: value}
    elif not isinstance(value, dict) or field == "image_uri":
        form = "a string" if field == "image_uri" else "a string or an object"
        raise InvalidSpecError(f"it must be {form}, not {type(value).__name__}", field=field)
    if unknown := sorted(value.keys() - _KEYS[field]):
        raise InvalidSpecError(
            f"{unknown[0]!r} is not known",
            field=field,
            remedy=f"it may have {', '.join(sorted(_KEYS[field]))}",
        )
    return _read(field, value)


def _read(field: str, value: Mapping[str, Any]) -> ImageSpec:
    return ImageSpec(
        field=field,
        reference=parse_reference(_text(value, IMAGE_FIELDS[field], field), field),
        run_options=_options(value, field),
        max_age=_max_age(value, field),
        memory=_memory(value, field),
        cpus=_cpus(value, field),
        mounts=tuple(_mount(each, field) for each in _list(value, "mounts", field)),
        worker_path=_text(value, "worker_path", field) if value.get("worker_path") else "",
    )


def _text(value: Mapping[str, Any], name: str, field: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidSpecError(f"{name!r} must be a string that is not empty", field=field)
    return text


def _list(value: Mapping[str, Any], name: str, field: str) -> list[Any]:
    found = value.get(name) or []
    if not isinstance(found, list):
        raise InvalidSpecError(f"{name!r} must be a list, not {type(found).__name__}", field=field)
    return found


def _options(value: Mapping[str, Any], field: str) -> tuple[str, ...]:
    options = _list(value, "run_options", field)
    if not all(isinstance(each, str) and each and "\0" not in each for each in options):
        raise InvalidSpecError(
            "'run_options' must be a list of strings", field=field, remedy='write ["--cpus=2", "--memory=4g"]'
        )
    return tuple(options)


def _max_age(value: Mapping[str, Any], field: str) -> float | None:
    policy = value.get("pull_policy")
    if policy is None:
        return None
    try:
        return parse_pull_policy(str(policy))
    except ValueError:
        raise InvalidSpecError(
            f"'pull_policy' is {policy!r}",
            field=field,
            remedy=f"write missing, always, or how long a tag is trusted: {DURATION_FORMS}",
        ) from None


def _memory(value: Mapping[str, Any], field: str) -> int | None:
    memory = value.get("memory")
    if memory is None:
        return None
    try:
        size = parse_bytes(str(memory))
    except ValueError:
        size = 0
    if isinstance(memory, bool) or size < _LEAST_MEMORY:
        raise InvalidSpecError(
            f"'memory' is {memory!r}", field=field, remedy=f"{SIZE_FORMS}; 6 MiB is the least"
        )
    return size


def _cpus(value: Mapping[str, Any], field: str) -> float | None:
    cpus = value.get("cpus")
    if cpus is None:
        return None
    if isinstance(cpus, bool) or not isinstance(cpus, int | float) or not 0 < cpus < math.inf:
        raise InvalidSpecError(
            f"'cpus' is {cpus!r}", field=field, remedy="write a number above 0, such as 1.5"
        )
    return float(cpus)


def _mount(value: Any, field: str) -> Mount:
    """``source:target[:ro|:rw]`` as podman's ``--volume`` has it, or an object; read-only but for rw."""
    if isinstance(value, str):
        place, _, rest = value.partition(":")
        there, _, mode = rest.partition(":")
        value = {"source": place, "target": there or place, "read_only": mode != "rw"}
        if mode not in {"", "ro", "rw"}:
            raise _bad_mount(f"{mode!r} is neither ro nor rw", field)
    if not isinstance(value, dict) or value.keys() - {"source", "target", "read_only"}:
        raise _bad_mount(f"{value!r} is no mount", field)
    read_only = value.get("read_only", True)
    source, target = (value.get(name, value.get("source")) for name in ("source", "target"))
    for path in (source, target):
        if not isinstance(path, str) or not _is_plain(path):
            raise _bad_mount(f"{path!r} is not an absolute path without '..', ':' and ','", field)
    if not isinstance(read_only, bool):
        raise _bad_mount(f"'read_only' is {read_only!r}", field)
    return Mount(str(source), str(target), read_only)


def _is_plain(path: str) -> bool:
    return posixpath.isabs(path) and posixpath.normpath(path) == path and not set(path) & set(":,\0\n")


def _bad_mount(reason: str, field: str) -> EnvError:
    return InvalidSpecError(
        f"in 'mounts' {reason}",
        field=field,
        remedy='write "/data:/data:ro" or {"source": "/data", "target": "/data", "read_only": true}',
    )
