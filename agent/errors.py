"""Typed failures of preparing a runtime env, each with its retry class.

A failure becomes text for the data scientist in exactly one place, :meth:`EnvError.__str__`: what
failed, why, what to do, the tool's last words and where the rest of them stands. Whoever raises one
passes values through :mod:`ray_envd.agent.redaction` first.
"""

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar


class Retry(Enum):
    """Whether another attempt can succeed without anybody changing anything.

    ``LATER``: once somebody else has gone. It was waited for as long as that makes sense, so the manager does
    not try again; whoever asks later may have it.
    """

    PERMANENT = "permanent"
    LATER = "later"
    TRANSIENT = "transient"


class EnvError(Exception):
    """A runtime env could not be prepared.

    Attributes:
        code: stable name for programs (JSON output, metrics, gRPC details).
        retry: whether the manager tries again, and how long the failure is remembered.
        field: the runtime env's field, e.g. ``pip``; None when it is not one field's fault.
        cause: one sentence.
        remedy: what the user can do; may be empty.
        output: the tool's last lines.
        log: path of the tool's full output.
    """

    code: ClassVar[str] = "internal"
    retry: ClassVar[Retry] = Retry.PERMANENT
    title: ClassVar[str] = "could not be prepared"

    def __init__(
        self,
        cause: str,
        *,
        field: str | None = None,
        remedy: str = "",
        output: Sequence[str] = (),
        log: str | None = None,
    ) -> None:
        """See the class: the arguments are its attributes."""
        super().__init__(cause)
        self.cause = cause
        self.field = field
        self.remedy = remedy
        self.output = tuple(output)
        self.log = log

    def __str__(self) -> str:
        """The message a user reads in RuntimeEnvSetupError."""
        subject = f"runtime_env[{self.field!r}]" if self.field else "runtime_env"
        lines = [f"{subject} {self.title}: {self.cause}"]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        if self.output:
            lines.append("  last lines of the tool:")
            lines.extend(f"    {line}" for line in self.output)
        if self.log:
            lines.append(f"  full log: {self.log}")
        return "\n".join(lines)


class InvalidSpecError(EnvError):
    """The runtime env itself is wrong: type, unknown option, malformed URI."""

    code = "invalid_spec"
    title = "is not valid"


class UnsupportedError(EnvError):
    """A field or option that this version does not serve."""

    code = "unsupported"
    title = "is not supported"


class ResolutionError(EnvError):
    """No set of packages satisfies the requirements."""

    code = "resolution"
    title = "could not be resolved"


class DownloadError(EnvError):
    """A file could not be had for a reason that lasts: not found, wrong hash, malformed archive."""

    code = "download"
    title = "could not be downloaded"


class NetworkError(DownloadError):
    """A file could not be had for a reason that may pass: connection refused, reset, 5xx, truncated."""

    retry = Retry.TRANSIENT


class ArchiveError(DownloadError):
    """An archive is damaged or would write where it must not."""

    code = "archive"
    title = "holds a bad archive"


class BuildError(EnvError):
    """A tool failed while it built or installed."""

    code = "build"
    title = "could not be installed"


class ContainerError(EnvError):
    """No container starts with what the runtime env says of it: an option, the image, or this node.

    Somebody may set that right on the node, so it is not held against the runtime env for long.
    """

    code = "container"
    retry = Retry.LATER
    title = "cannot be started in its container"


class InterruptedToolError(BuildError):
    """A tool or its child was killed from outside: by the kernel where memory is short, or by somebody."""

    code = "interrupted"
    retry = Retry.TRANSIENT
    title = "was interrupted"


class ToolMissingError(EnvError):
    """A program that is needed is not on this node."""

    code = "tool_missing"
    title = "needs a program that is missing"


class HostError(EnvError):
    """The node cannot run containers as it is set up."""

    code = "host"
    title = "needs containers, which this node cannot run"


class PassingHostError(HostError):
    """Podman could not do it now: it was too busy, or what it had was taken away meanwhile."""

    code = "host_now"
    retry = Retry.TRANSIENT
    title = "needs containers, which this node could not run just now"


class OutOfSpaceError(EnvError):
    """The disk or the budget has no room now, and nothing that would be waited for gives any."""

    code = "no_space"
    retry = Retry.LATER
    title = "does not fit on the disk"


class DiskFullError(OutOfSpaceError):
    """A write failed for want of space: somebody else filled the disk, or the object is larger than thought.

    It is tried again once the disk has room.
    """

    retry = Retry.TRANSIENT


class NeverFitsError(OutOfSpaceError):
    """The object is larger than the whole budget: waiting does not help."""

    retry = Retry.PERMANENT


class SetupTimeoutError(EnvError):
    """The waiter's setup_timeout_seconds has passed."""

    code = "timeout"
    retry = Retry.TRANSIENT
    title = "was not ready in time"


class UnwantedError(EnvError):
    """Nobody in the cluster wants the env any more: the job has ended, or its tasks were cancelled."""

    code = "unwanted"
    retry = Retry.TRANSIENT
    title = "is not wanted any more"


class DeniedError(EnvError):
    """The policy of this daemon refuses it."""

    code = "denied"
    title = "is refused"


class DrainingError(EnvError):
    """The daemon is shutting down and takes no new work."""

    code = "draining"
    retry = Retry.TRANSIENT
    title = "cannot be prepared now"


def unexpected(bug: Exception) -> EnvError:
    """What is told of a defect of ours; its traceback belongs into the daemon's log."""
    return EnvError(f"unexpected {type(bug).__name__}", remedy="the daemon's log holds the details")
