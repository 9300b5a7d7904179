"""What the store knows about an object, and how that is written down."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_envd.cache.errors import AmbiguousError, CorruptError, NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner
from ray_envd.cache.sizes import Size, Unit
from ray_envd.cache.stamps import Stamps
from ray_envd.cache.worth import warmed

#: Keys were only ever added to version 1: an older daemon reads these markers, this one reads its.
_VERSION = 1
#: Of an object in another folder than its key's first. The first versions know of no other: they would take a
#: damaged object that stands there for this one, so they must not be able to read this.
_MOVED = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What a marker says: everything about a committed object but its use.

    Attributes:
        summary: one line for people; holds no secret.
        size: what it weighs, measured when it was committed or sealed.
        created: unix seconds.
        build_seconds: what it cost to make.
        details: JSON that the installer keeps with it.
        pinned: not to be collected.
        fetched_bytes: what was downloaded to make it.
        generation: which of the folders of its key is its own; 0 but after damage.
        damaged: why it must not be handed out; empty while it is whole.
        stamps: what some of its files look like while it is whole.
        sealed: nothing is added to its tree any more.
        epoch: when it was committed, see :mod:`ray_envd.cache.epochs`.
    """

    summary: str
    size: Size
    created: float
    build_seconds: float
    details: Mapping[str, Any]
    pinned: bool = False
    fetched_bytes: int = 0
    generation: int = 0
    damaged: str = ""
    stamps: Stamps = field(default_factory=dict)
    sealed: bool = False
    epoch: int = 0

    def to_json(self) -> dict[str, Any]:
        """The form on disk."""
        return {
            "version": _MOVED if self.generation else _VERSION,
            "summary": self.summary,
            "bytes": self.size.private,
            "units": [[unit.id, unit.bytes, unit.sample] for unit in self.size.units],
            "created": self.created,
            "build_seconds": self.build_seconds,
            "details": dict(self.details),
            "pinned": self.pinned,
            "fetched_bytes": self.fetched_bytes,
            "generation": self.generation,
            "damaged": self.damaged,
            "stamps": dict(self.stamps),
            "sealed": self.sealed,
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Facts":
        """Reads :meth:`to_json`'s form, also as the first versions wrote it.

        Raises:
            CorruptError: it is not of that form.
        """
        try:
            if value["version"] not in {_VERSION, _MOVED} or not isinstance(value["details"], dict):
                raise CorruptError("not a marker of this version")
            units = (Unit(str(name), int(size), str(sample)) for name, size, sample in value.get("units", ()))
            return cls(
                summary=str(value["summary"]),
                size=Size(int(value["bytes"]), tuple(units)),
                created=float(value["created"]),
                build_seconds=float(value["build_seconds"]),
                details=value["details"],
                pinned=bool(value["pinned"]),
                fetched_bytes=int(value.get("fetched_bytes", 0)),
                generation=int(value.get("generation", 0)),
                damaged=str(value.get("damaged", "")),
                stamps=dict(value.get("stamps", {})),
                sealed=bool(value.get("sealed", False)),
                epoch=int(value.get("epoch", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"not a marker: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """One object, as it was when asked for.

    Attributes:
        key: its name.
        path: its folder; final, since virtual environments hold absolute paths.
        facts: what its marker says.
        last_used: unix seconds; when it was last held, or given up by the last who had it.
        uses: how often it was held.
        heat: uses, of which older ones count less; as of ``last_used``.
        since: unix seconds of its first use, that of an object which was evicted and built again included.
    """

    key: ObjectKey
    path: Path
    facts: Facts
    last_used: float
    uses: int
    heat: float = 1.0
    since: float = 0.0

    @property
    def id(self) -> str:
        """How people name it: ``kind/digest``, of a damaged one with its generation behind a dot."""
        return f"{self.key.id}.{self.generation}" if self.damaged else self.key.id

    @property
    def summary(self) -> str:
        """One line for people."""
        return self.facts.summary

    @property
    def size(self) -> Size:
        """What it weighs."""
        return self.facts.size

    @property
    def created(self) -> float:
        """Unix seconds."""
        return self.facts.created

    @property
    def pinned(self) -> bool:
        """Not to be collected."""
        return self.facts.pinned

    @property
    def build_seconds(self) -> float:
        """What it cost to make."""
        return self.facts.build_seconds

    @property
    def fetched_bytes(self) -> int:
        """What was downloaded to make it."""
        return self.facts.fetched_bytes

    @property
    def details(self) -> Mapping[str, Any]:
        """What the installer keeps with it; not to be changed."""
        return self.facts.details

    @property
    def generation(self) -> int:
        """Which of the folders of its key is its own."""
        return self.facts.generation

    @property
    def damaged(self) -> str:
        """Why it must not be handed out; empty while it is whole."""
        return self.facts.damaged


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
        generation: which of the key's folders it is.
    """

    key: ObjectKey
    path: Path
    owner: Owner
    generation: int = 0


class Object:
    """The store's own, changing record of a committed object. Changed under the store's lock only."""

    __slots__ = (
        "_entry",
        "facts",
        "fingerprint",
        "heat",
        "holds",
        "key",
        "last_used",
        "links",
        "path",
        "since",
        "uses",
    )

    def __init__(
        self,
        key: ObjectKey,
        path: Path,
        facts: Facts,
        fingerprint: list[int],
        *,
        last_used: float,
        uses: int = 0,
        heat: float = 1.0,
        since: float | None = None,
        holds: int = 0,
        links: dict[str, float | None] | None = None,
    ) -> None:
        self.key, self.path, self.facts, self.fingerprint = key, path, facts, fingerprint
        self.last_used, self.uses, self.heat, self.holds = last_used, uses, heat, holds
        self.since = facts.created if since is None else since
        self.links = {} if links is None else links  # request digest -> when it expires; oldest first
        self._entry: Entry | None = None

    def touch(self, now: float) -> None:
        """Counts a use."""
        self.heat = warmed(self.heat, self.last_used, now) + 1.0
        self.last_used = now  # before the count: see entry
        self.uses += 1

    def rest(self, now: float) -> None:
        """Its last user has gone: it was in use up to now, which is no use more."""
        self.heat = warmed(self.heat, self.last_used, now)
        self.last_used = now

    @property
    def entry(self) -> Entry:
        """The record as others see it. May be read without the lock.

        It is kept until something changes. Uses only ever grow and are read first here, so an entry made
        while somebody counts a use has the old number and is not taken again.
        """
        entry, facts, uses, last_used = self._entry, self.facts, self.uses, self.last_used
        known = entry is not None and entry.uses == uses and entry.last_used == last_used
        if entry is None or not known or entry.facts is not facts:
            entry = self._entry = Entry(self.key, self.path, facts, last_used, uses, self.heat, self.since)
        return entry

    def row(self) -> dict[str, Any]:
        """What the catalog keeps: a copy of the marker, which marker it was, the use and the links."""
        return {
            "facts": self.facts.to_json(),
            "marker": self.fingerprint,
            "uses": self.uses,
            "heat": self.heat,
            "since": self.since,
            "last_used": self.last_used,
            "links": self.links.copy(),
        }


def find(entries: Iterable[Entry], id_prefix: str, owner: int | None = None) -> Entry:
    """The one entry whose id (``kind/digest``), or digest alone, begins so; of all users, or of one.

    A damaged one is found by its whole digest, the dot and its generation, or if there is no other.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: there are several.
    """
    kind, _, digest = id_prefix.rpartition("/")
    found = [
        entry
        for entry in entries
        if digest
        and entry.id.rpartition("/")[2].startswith(digest)
        and kind in {"", entry.key.kind}
        and owner in {None, entry.key.owner}
    ]
    found = [entry for entry in found if not entry.damaged] or found
    if not found:
        raise NotFoundError(f"no object {id_prefix!r}")
    if len(found) > 1:
        some = ", ".join(f"{entry.id} of uid {entry.key.owner}" for entry in sorted(found, key=_key)[:3])
        raise AmbiguousError(f"{id_prefix!r} stands for {len(found)} objects, among them {some}")
    return found[0]


def _key(entry: Entry) -> ObjectKey:
    return entry.key
