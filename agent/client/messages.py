"""Messages as plain, typed records. Times are Unix seconds, sizes bytes."""

from dataclasses import dataclass

from ray_envd.agent.client.context import Context
from ray_envd.agent.client.errors import EnvFailedError
from ray_envd.agent.progress import Event as Progress

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Created:
    """An env is ready.

    Attributes:
        context: how to start something in it.
        cache_hit: nothing had to be built or fetched.
        seconds: the daemon's time from the request to the result.
        objects: ids of the objects that it stands on.
    """

    context: Context
    cache_hit: bool
    seconds: float
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prefetched:
    """One of several envs is in the store.

    Attributes:
        cache_hit: nothing had to be built or fetched.
        seconds: the daemon's time from the request to this result.
        objects: ids of the objects that it stands on.
    """

    cache_hit: bool
    seconds: float
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prefetching:
    """What there is to tell of one of several envs.

    Attributes:
        index: which of those that were asked for, from 0.
        event: a step; or at last the result, or the failure.
    """

    index: int
    event: Progress | Prefetched | EnvFailedError


#: What a creation tells: steps, then the result.
Event = Progress | Created


def short_id(object_id: str) -> str:
    """What people type for an object: kind and the digest's first twelve characters.

    A damaged one has a dot and a number behind its digest, and is only found by all of it.
    """
    kind, _, digest = object_id.partition("/")
    return object_id if "." in digest else f"{kind}/{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Object:
    """Something in the store.

    Attributes:
        bytes: of all its files, whoever else has them.
        exclusive_bytes: what removing it would free.
        damaged: why it is not handed out any more; empty while it is whole.
    """

    id: str
    kind: str
    summary: str
    bytes: int
    created: float
    last_used: float
    uses: int
    references: int
    pinned: bool
    build_seconds: float
    owner_uid: int
    exclusive_bytes: int
    fetched_bytes: int
    damaged: str

    @property
    def short_id(self) -> str:
        """What people type; see :func:`short_id`."""
        return short_id(self.id)


@dataclass(frozen=True, slots=True)
class Session:
    """A raylet that is attached, or was and may come back."""

    id: str
    session_dir: str
    ray_version: str
    python: str
    raylet_pid: int
    started: float
    envs: int
    references: int
    connected: bool
    owner_uid: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All that is stored and all who are attached."""

    objects: tuple[Object, ...]
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, and what to ask for the next; empty after the last."""

    listing: Listing
    next_token: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the daemon; see StatsReply in ``admin.proto``."""

    version: str
    pid: int
    uptime_seconds: float
    store: str
    objects: int
    object_bytes: int
    uv_cache_bytes: int
    budget_bytes: int
    reserved_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    sessions: int
    references: int
    hits: int
    misses: int
    builds: int
    failures: int
    building: int
    resident_bytes: int
    draining: bool
    apparent_bytes: int
    exclusive_bytes: int
    other_bytes: int
    damaged: int
    image_bytes: int
    warm_wanted: int
    warm_ready: int
    warm_failed: int

    @property
    def used_bytes(self) -> int:
        """What counts against the budget now."""
        return self.object_bytes + self.uv_cache_bytes + self.reserved_bytes

    @property
    def store_bytes(self) -> int:
        """What the store's folder takes on disk; images are in podman's storage."""
        return self.object_bytes - self.image_bytes + self.uv_cache_bytes + self.other_bytes

    @property
    def shared_bytes(self) -> int:
        """What several objects share, once; what uv's cache has as well is not among it."""
        return self.object_bytes - self.exclusive_bytes


@dataclass(frozen=True, slots=True)
class Victim:
    """An object that a collection removed, or would, and why.

    Attributes:
        object: as it was.
        reason: a sentence.
        frees_bytes: what its removal frees, those before it being gone.
        worth: seconds that keeping it was likely to save, for each gigabyte.
    """

    object: Object
    reason: str
    frees_bytes: int
    worth: float


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or would do."""

    victims: tuple[Victim, ...]
    freed_bytes: int
    remaining_bytes: int


@dataclass(frozen=True, slots=True)
class Removed:
    """An object that is gone."""

    id: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class User:
    """An env of a session that stands on an object."""

    session_id: str
    session_dir: str
    runtime_env: str
    references: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What the verification of one object came to.

    Attributes:
        done: how many objects have been verified, with this one.
        total: how many there are to verify.
        object: which.
        damage: why it is out of service; empty if it is whole.
        files: those that are not as they were.
        unlike_record: those that never were what their wheel's RECORD says.
        error: why it could not be verified; empty if it was.
        freed_bytes: what its removal freed; None if it stays.
        users: who stands on it.
    """

    done: int
    total: int
    object: Object
    damage: str
    files: tuple[str, ...]
    unlike_record: tuple[str, ...]
    error: str
    freed_bytes: int | None
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class EnvInfo:
    """One env of the gRPC session, as ``ray list runtime-envs`` would show it."""

    runtime_env: str
    references: int
    success: bool | None
    error: str | None
    creation_seconds: float | None


@dataclass(frozen=True, slots=True)
class EnvInfos:
    """Some envs, and how many there are in all."""

    envs: tuple[EnvInfo, ...]
    total: int
