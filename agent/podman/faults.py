"""What podman says of a machine on which it cannot work, and what is to be done about it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_envd.agent.errors import (
    EnvError,
    HostError,
    InterruptedToolError,
    OutOfSpaceError,
    PassingHostError,
    ToolMissingError,
)
from ray_envd.agent.process import Completed

_TAIL = 15


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that may be wrong.

    Attributes:
        name: stable, for programs and tests.
        words: podman's, or its helpers'.
        cause: in one sentence.
        remedy: what an administrator does.
        error: as what it is raised.
    """

    name: str
    words: re.Pattern[str]
    cause: str
    remedy: str
    error: type[EnvError] = HostError


def _fault(name: str, words: str, cause: str, remedy: str, error: type[EnvError] = HostError) -> Fault:
    return Fault(name, re.compile(words, re.IGNORECASE), cause, remedy, error)


PODMAN_MISSING = _fault(
    "podman-missing",
    r"podman cannot be run",
    "podman is not installed on this node",
    "install podman and an OCI runtime, on Debian: apt-get install podman crun runc uidmap fuse-overlayfs",
    ToolMissingError,
)
NO_RUNTIME = _fault(
    "no-runtime",
    r"oci runtime.*not found|no valid executable found for oci runtime|invalid runtime",
    "no OCI runtime runs containers on this node",
    "install another runtime: runc runs where crun refuses the layout of the cgroups; on Debian: "
    "apt-get install runc",
    ToolMissingError,
)
#: The first that fits is told.
FAULTS: Sequence[Fault] = (
    _fault(
        "no-space",
        r"no space left on device|disk quota exceeded",
        "podman's storage has no room",
        "free space where podman keeps its images (`podman info --format '{{.Store.GraphRoot}}'`)",
        OutOfSpaceError,
    ),
    _fault(
        "newuidmap-missing",
        r'"newuidmap": executable file not found|command required for rootless mode',
        "newuidmap is missing, without which users cannot run containers",
        "install it, on Debian: apt-get install uidmap",
        ToolMissingError,
    ),
    _fault(
        "no-subuid",
        r"no sub[ug]id ranges found|cannot find (?:UID/GID|mappings) for user|potentially insufficient UIDs"
        r"|newuidmap: (?:uid range|write to)",
        "the user has no range of subordinate ids",
        "give him one: usermod --add-subuids 200000-265535 --add-subgids 200000-265535 USER; "
        "then, as him: podman system migrate",
    ),
    _fault(
        "no-user-namespaces",
        r"cannot clone|unshare.*operation not permitted|user namespaces are not enabled",
        "the kernel lets users make no user namespaces",
        "allow them: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=28633",
    ),
    _fault(
        "no-runtime-dir",
        r"XDG_RUNTIME_DIR|mkdir /run/user|creating runtime (?:temporary|static) files directory",
        "XDG_RUNTIME_DIR does not name a folder of the user's own",
        "start the raylet in a session of its user (loginctl enable-linger USER), or set XDG_RUNTIME_DIR to "
        "a folder of his with mode 0700 in the environment of `ray start`",
    ),
    _fault(
        "no-fuse",
        r"fuse: device not found|/dev/fuse|fuse-overlayfs.*(?:not found|no such file)",
        "the user's storage needs fuse-overlayfs and /dev/fuse",
        "install fuse-overlayfs and load the kernel's module (modprobe fuse)",
    ),
    _fault(
        "no-image",
        r"image not known|no such image|unable to find .* in local storage",
        "the image is not in podman's storage any more",
        "it is pulled again with the next attempt",
        PassingHostError,
    ),
    _fault(
        "busy",
        r"database is locked|resource temporarily unavailable|deadline exceeded|i/o timeout"
        r"|cannot allocate memory",
        "podman did not come to it",
        "it is tried again; if it happens again, see whether the node is overloaded",
        PassingHostError,
    ),
    NO_RUNTIME,
)


def fault_in(text: str) -> Fault | None:
    """The known fault of which podman speaks; None where its words are new."""
    return next((fault for fault in FAULTS if fault.words.search(text)), None)


def raised(fault: Fault, completed: Completed | None = None, *, field: str | None = None) -> EnvError:
    """The error of a fault."""
    output = completed.tail(_TAIL) if completed else ()
    return fault.error(fault.cause, field=field, remedy=fault.remedy, output=output)


def failure(completed: Completed, doing: str, *, field: str | None = None) -> EnvError:
    """The error of a run of podman that failed, by its words."""
    if completed.killed_by:
        return InterruptedToolError(
            f"podman was killed ({completed.killed_by}) before it could {doing}",
            field=field,
            remedy="it is tried again; if it happens again, see whether the node is short of memory",
            output=completed.tail(_TAIL),
        )
    fault = fault_in("\n".join(completed.lines))
    if fault is not None:
        return raised(fault, completed, field=field)
    return HostError(
        f"podman could not {doing}",
        field=field,
        remedy="run `ray-envd doctor` on this node",
        output=completed.tail(_TAIL),
    )
