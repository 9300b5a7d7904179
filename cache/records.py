"""What the store knows about an object, and how that is written down."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_envd.cache.errors import AmbiguousError, CorruptError, NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a marker says: everything about a committed object but its use.

    Attributes:
        summary: one line for people; holds no secret.
        bytes: what removing the object would free, measured when it was committed.
        created: unix seconds.
        build_seconds: what it cost to make.
        details: JSON that the installer keeps with it.
        pinned: not to be collected.
    """

    summary: str
    bytes: int
    created: float
    build_seconds: float
    details: Mapping[str, Any]
    pinned: bool = False

    def to_json(self) -> dict[str, Any]:
        """The form on disk."""
        return {
            "version": _VERSION,
            "summary": self.summary,
            "bytes": self.bytes,
            "created": self.created,
            "build_seconds": self.build_seconds,
            "details": dict(self.details),
            "pinned": self.pinned,
        }

    def with_pinned(self, *, pinned: bool) -> "Facts":
        """The same, pinned or not."""
        return replace(self, pinned=pinned)

    @classmethod
    def from_json(cls, value: Any) -> "Facts":
        """Reads :meth:`to_json`'s form.

        Raises:
            CorruptError: it is not of that form.
        """
        try:
            if value["version"] != _VERSION or not isinstance(value["details"], dict):
                raise CorruptError("not a marker of this version")
            return cls(
                summary=str(value["summary"]),
                bytes=int(value["bytes"]),
                created=float(value["created"]),
                build_seconds=float(value["build_seconds"]),
                details=value["details"],
                pinned=bool(value["pinned"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"not a marker: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """One object, as it was when asked for.

    Attributes:
        key: its name.
        path: its folder; final, since virtual environments hold absolute paths.
        summary: one line for people.
        bytes: what removing it would free, measured when it was committed.
        created: unix seconds.
        last_used: unix seconds; when it was last held.
        uses: how often it was held.
        pinned: not to be collected.
        build_seconds: what it cost to make.
        details: what the installer keeps with it; not to be changed.
    """

    key: ObjectKey
    path: Path
    summary: str
    bytes: int
    created: float
    last_used: float
    uses: int
    pinned: bool
    build_seconds: float
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """To which object a request was resolved.

    Attributes:
        key: the object; there as long as the link is.
        expires: unix seconds after which the request should be resolved anew; None for never. The store hands
            out expired links too: better than nothing when the network is away.
    """

    key: ObjectKey
    expires: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """An object under construction: an empty folder at its final path, to be filled as its owner.

    Attributes:
        key: its name.
        path: its folder.
        owner: whose it is.
    """

    key: ObjectKey
    path: Path
    owner: Owner


class Object:
    """The store's own, changing record of a committed object. Changed under the store's lock only."""

    __slots__ = ("_entry", "facts", "fingerprint", "holds", "key", "last_used", "links", "path", "uses")

    def __init__(
        self,
        key: ObjectKey,
        path: Path,
        facts: Facts,
        fingerprint: list[int],
        *,
        last_used: float,
        uses: int = 0,
        holds: int = 0,
        links: dict[str, float | None] | None = None,
    ) -> None:
        self.key, self.path, self.facts, self.fingerprint = key, path, facts, fingerprint
        self.last_used, self.uses, self.holds = last_used, uses, holds
        self.links = {} if links is None else links  # request digest -> when it expires; oldest first
        self._entry: Entry | None = None

    def touch(self, now: float) -> None:
        """Counts a use."""
        self.last_used = now  # before the count: see entry
        self.uses += 1

    @property
    def entry(self) -> Entry:
        """The record as others see it. May be read without the lock.

        It is kept until something changes. Uses only ever grow and are read first here, so an entry made
        while somebody counts a use has the old number and is not taken again.
        """
        entry, facts, uses = self._entry, self.facts, self.uses
        if entry is None or entry.uses != uses or entry.pinned != facts.pinned:
            entry = self._entry = Entry(
                key=self.key,
                path=self.path,
                summary=facts.summary,
                bytes=facts.bytes,
                created=facts.created,
                last_used=self.last_used,
                uses=uses,
                pinned=facts.pinned,
                build_seconds=facts.build_seconds,
                details=facts.details,
            )
        return entry

    def row(self) -> dict[str, Any]:
        """What the catalog keeps: a copy of the marker, which marker it was, the use and the links."""
        return {
            "facts": self.facts.to_json(),
            "marker": self.fingerprint,
            "uses": self.uses,
            "last_used": self.last_used,
            "links": self.links.copy(),
        }


def find(entries: Iterable[Entry], id_prefix: str, owner: int | None = None) -> Entry:
    """The one entry whose id (``kind/digest``), or digest alone, begins so; of all users, or of one.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: there are several.
    """
    kind, _, digest = id_prefix.rpartition("/")
    found = [
        entry
        for entry in entries
        if digest
        and entry.key.digest.startswith(digest)
        and kind in {"", entry.key.kind}
        and owner in {None, entry.key.owner}
    ]
    if not found:
        raise NotFoundError(f"no object {id_prefix!r}")
    if len(found) > 1:
        some = ", ".join(f"{entry.key.id} of uid {entry.key.owner}" for entry in sorted(found, key=_key)[:3])
        raise AmbiguousError(f"{id_prefix!r} stands for {len(found)} objects, among them {some}")
    return found[0]


def _key(entry: Entry) -> ObjectKey:
    return entry.key
