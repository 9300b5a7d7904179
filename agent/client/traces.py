"""Lines of a trace, as the daemon tells them and as files hold them."""

from dataclasses import dataclass
from typing import Any

from ray_envd.agent.pb import admin_pb2 as pb


@dataclass(frozen=True, slots=True)
class Happening:
    """Something happened to an object.

    Attributes:
        time: unix seconds.
        event: ``stored`` (it was there when the trace began), ``build``, ``acquire``, ``release``, ``evict``;
            ``lost`` is of no object and says how many lines are missing.
        number: how many references, or lines.
        owner: uid.
        kind, digest: the object's name.
        bytes: of what is ``stored`` or was built, those that it shares with nobody.
        units: ids and bytes of what it may share.
        build_seconds: what it took to build.
        fetched_bytes: what was downloaded for it.
    """

    time: float
    event: str
    number: int
    owner: int
    kind: str
    digest: str
    bytes: int
    units: tuple[tuple[str, int], ...]
    build_seconds: float
    fetched_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The form in files; it has what means something for the event."""
        line: dict[str, Any] = {"time": self.time, "event": self.event}
        if self.event in {"acquire", "release", "lost"}:
            line["number"] = self.number
        if self.event != "lost":
            line |= {"owner": self.owner, "kind": self.kind, "digest": self.digest}
        if self.event in {"stored", "build"}:
            line |= {"bytes": self.bytes, "units": self.units}
            line |= {"build_seconds": self.build_seconds, "fetched_bytes": self.fetched_bytes}
        return line


def happening(message: pb.TraceEvent) -> Happening:
    """One line."""
    return Happening(
        time=message.time,
        event=message.event,
        number=message.number,
        owner=message.owner_uid,
        kind=message.kind,
        digest=message.digest,
        bytes=message.bytes,
        units=tuple((unit.id, unit.bytes) for unit in message.units),
        build_seconds=message.build_seconds,
        fetched_bytes=message.fetched_bytes,
    )
