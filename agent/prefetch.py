"""Preparing runtime envs before anybody asks for them: for ``AdminService.Prefetch`` and for the warm file.

Each is prepared as for a worker, in a session of its own that ends with it: what would fail for a worker
fails here, and nothing stays but the objects. Environments are known by interpreter and user, so both must be
those of the raylets that will ask.
"""

import logging
import os
import pwd
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ray_envd.agent.envs import ReadyEnv
from ray_envd.agent.errors import DeniedError, EnvError, InvalidSpecError, unexpected
from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.progress import Listener
from ray_envd.agent.room import disk_full
from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner

_log = logging.getLogger(__name__)
_IDS = re.compile(r"(?P<uid>[0-9]{1,9})(?::(?P<gid>[0-9]{1,9}))?")
#: Sees to it that objects stay; called while they are referenced. NotFoundError: they were damaged just now.
Keep = Callable[[Sequence[ObjectKey]], Awaitable[None]]


@dataclass(frozen=True)
class Wish:
    """A runtime env, and for whom.

    Attributes:
        serialized: JSON, as Ray serializes it.
        python: path of the interpreter; empty: the daemon's default.
        user: whose raylets will ask, see :func:`owner_of`; empty: the daemon's own user.
        environment: what downloads and tools see besides the user's plain environment; may hold secrets.
        timeout: seconds; -1 for none, 0 for Ray's default.
    """

    serialized: str
    python: str = ""
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: int = 0


class Prefetcher:
    """Prepares wishes; as many at once as are asked for, since slots bound what runs."""

    def __init__(self, manager: Manager, sessions: LocalSessions) -> None:
        self._manager, self._sessions = manager, sessions

    async def run(self, wish: Wish, listener: Listener, *, turn: str, keep: Keep) -> ReadyEnv:
        """Prepares one, and returns it once it is not referenced any more.

        Args:
            wish: which.
            listener: hears the steps.
            turn: those with the same take one turn together where builds wait.
            keep: what to do with its objects before they may be collected: :meth:`pin`, :meth:`let_be` …

        Raises:
            EnvError: it cannot be prepared.
        """
        try:
            return await self._run(wish, listener, turn, keep)
        except EnvError:
            raise
        except OSError as error:
            raise disk_full(error) or EnvError(f"{error.strerror}: {error.filename}") from error
        except Exception as bug:  # noqa: BLE001 - logged; who asked gets an answer
            _log.exception("a runtime env could not be prepared ahead of time")
            raise unexpected(bug) from None

    async def _run(self, wish: Wish, listener: Listener, turn: str, keep: Keep) -> ReadyEnv:
        owner = await self._manager.workshop.thread(owner_of, wish.user)
        ask = Ask(wish.serialized, wish.timeout, source="admin")
        async with self._sessions.temporary(wish.python, wish.environment, owner=owner, turn=turn) as session:
            while True:
                env = await self._manager.acquire(session, ask, listener)
                try:
                    await keep(env.objects)
                except NotFoundError as error:
                    _log.info("prepared once more: %s", error)
                else:
                    return env

    async def let_be(self, _keys: Sequence[ObjectKey]) -> None:
        """A :data:`Keep` that leaves them to the collection, as any other object."""

    async def pin(self, keys: Sequence[ObjectKey]) -> None:
        """A :data:`Keep` that pins, until somebody unpins."""
        for key in keys:
            await self._manager.workshop.thread(self._manager.workshop.store.pin, key)


def owner_of(user: str) -> Owner:
    """The user of a name, a uid or ``uid:gid``; empty: the daemon's own. Blocking.

    Raises:
        InvalidSpecError: nobody is called so.
        DeniedError: it is another user, and this daemon is not root's.
    """
    owner = _find(user) if user else Owner.current()
    if not owner.is_current and os.geteuid() != 0:
        raise DeniedError(
            f"this daemon runs as uid {os.geteuid()} and can prepare for that user only, not for {user!r}",
            remedy="leave the user out, or run the daemon as root",
        )
    return owner


def _find(user: str) -> Owner:
    ids = _IDS.fullmatch(user)
    if ids and ids["gid"]:
        return Owner.of(int(ids["uid"]), int(ids["gid"]))
    try:
        entry = pwd.getpwuid(int(ids["uid"])) if ids else pwd.getpwnam(user)
    except (KeyError, ValueError):  # the second for a name with a NUL
        raise InvalidSpecError(
            f"there is no user {user!r}", remedy="name one that this machine knows, or write uid:gid"
        ) from None
    return Owner.of(entry.pw_uid, entry.pw_gid)
