"""Ends containers whose worker nobody waits for any more.

A worker's container ends with the worker. But a raylet that gives up a start before the worker has said hello
kills what it has started, ``podman run``, and SIGKILL leaves the container behind. So each start leaves a
mark, a file named as its container, whose name ends with pid and start time of ``podman run``, and the daemon
looks whether that process is there. A daemon that was away finds the marks when it comes back, also those of
sessions that have ended meanwhile.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_envd.agent import process
from ray_envd.agent.containers.plan import marks, name_prefix
from ray_envd.agent.errors import EnvError
from ray_envd.agent.sessions import Session, process_start, raylet_is_gone
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0  # seconds
#: Seconds that a container has to end by itself once ``podman run`` or the raylet has gone.
_GRACE = 2.0
_REMOVE_SECONDS = 20.0
_MOST_ATTEMPTS = 3
_PROCESS = re.compile(r"-(?P<pid>\d+)-(?P<start>\d+)")


@dataclass
class _Place:
    """One session's marks.

    Attributes:
        facts: of the session, as they are recorded.
        owner: who runs podman.
        folder: where the marks are.
        due: when a container was first seen to have nobody who waits for it, by its name.
        attempts: at its removal.
    """

    facts: Mapping[str, Any]
    owner: Owner
    folder: Path
    prefix: str
    due: dict[str, float] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)


class Watch:
    """Looks after the containers of all sessions. On the event loop; one per daemon."""

    def __init__(self, sessions: Callable[[], Mapping[str, Session]]) -> None:
        """A watch.

        Args:
            sessions: those that are attached, by id.
        """
        self._sessions = sessions
        self._places: dict[str, _Place] = {}
        self._seen: set[str] = set()

    def recover(self, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Sessions of an earlier daemon. Their raylets may have gone, and left containers."""
        for session_id, facts in recorded.items():
            folder = facts.get("runtime_env_dir")
            if folder:
                owner = Owner.of(int(facts["owner_uid"]), int(facts["owner_gid"]))
                self._add(session_id, facts, owner, Path(folder))

    async def attend(self, session: Session) -> None:
        """The session has containers, or will have some."""
        facts = await asyncio.to_thread(session.facts)
        self._add(session.id, facts, session.owner, session.runtime_env_dir)

    def _add(self, session_id: str, facts: Mapping[str, Any], owner: Owner, folder: Path) -> None:
        # Of a raylet in another pid namespace nobody knows here which of its processes are there.
        if facts["raylet_visible"] and session_id not in self._places:
            prefix = name_prefix(session_id)
            self._places[session_id] = _Place(facts, owner, marks(folder), prefix)

    async def run(self) -> None:
        """Looks each second, for as long as the daemon lives."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self._find()
            for session_id, place in tuple(self._places.items()):
                try:
                    if await _look(place):
                        self._places.pop(session_id, None)
                except OSError as error:
                    _log.warning("cannot look after the containers of %s: %s", session_id, error)

    async def _find(self) -> None:
        """Sessions that had containers before this daemon began have left marks."""
        for session in tuple(self._sessions().values()):
            if session.id not in self._seen:
                self._seen.add(session.id)
                if await asyncio.to_thread(_has_marks, session):
                    await self.attend(session)
        self._seen &= self._sessions().keys()


def _has_marks(session: Session) -> bool:
    with acting_as(session.owner):
        return marks(session.runtime_env_dir).is_dir()


async def _look(place: _Place) -> bool:
    """Removes what is due; returns whether nothing can come any more."""
    is_over, missed = await asyncio.to_thread(_missed, place)
    now = time.monotonic()
    place.due = {name: place.due.get(name, now) for name in missed}
    for name in [name for name, since in place.due.items() if now - since >= _GRACE]:
        podman = await asyncio.to_thread(_podman_of, place, name)
        if podman is None or await _removed(place, name, podman):
            await asyncio.to_thread(_forget, place, name)
            del place.due[name]
    return is_over and not place.due


def _missed(place: _Place) -> tuple[bool, list[str]]:
    """Whether the raylet has gone, and the containers that nobody waits for."""
    is_over = raylet_is_gone(place.facts)
    with acting_as(place.owner):
        try:
            names = os.listdir(place.folder)  # noqa: PTH208 - names are enough
        except FileNotFoundError:
            names = []
    found = []
    for name in names:
        match = _PROCESS.fullmatch(name.removeprefix(place.prefix))
        if match is not None and (is_over or process_start(int(match["pid"])) != int(match["start"])):
            found.append(name)
    return is_over, found


def _podman_of(place: _Place, name: str) -> tuple[list[str], dict[str, str]] | None:
    """How its user calls podman, from the mark; None where the container has ended, as nearly always."""
    with acting_as(place.owner):
        if _has_ended(place.folder / f"{name}.conmon", name):
            return None
        try:
            said = json.loads((place.folder / name).read_text())
            return [*map(str, said["podman"])], {str(k): str(v) for k, v in said["environment"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None  # the start ended before it had begun


def _has_ended(conmon_pidfile: Path, name: str) -> bool:
    """Whether conmon was there and is not any more: it stays as long as the container's process.

    It removes the container in the end. Where it has never been, the container may be half made.
    """
    try:
        monitor = int(conmon_pidfile.read_text())
    except (OSError, ValueError):
        return False
    try:
        return name.encode() not in Path(f"/proc/{monitor}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True


async def _removed(place: _Place, name: str, podman: tuple[list[str], dict[str, str]]) -> bool:
    """Whether there is no more to be done about it."""
    argv, environment = podman
    _log.info("container %s has nobody who waits for it: it is removed", name)
    failure = ""
    try:
        async with asyncio.timeout(_REMOVE_SECONDS):
            completed = await process.run(
                [*argv, "rm", "--force", "--ignore", "--time=0", name],
                env=environment,
                cwd="/",
                owner=place.owner,
            )
        failure = " ".join(completed.tail(3)) if completed.returncode else ""
    except (TimeoutError, EnvError, OSError) as error:
        failure = str(error) or "it took too long"
    if not failure:
        return True
    place.attempts[name] = place.attempts.get(name, 0) + 1
    _log.warning("container %s cannot be removed: %s", name, failure)
    return place.attempts[name] >= _MOST_ATTEMPTS


def _forget(place: _Place, name: str) -> None:
    place.attempts.pop(name, None)
    with acting_as(place.owner), contextlib.suppress(OSError):
        (place.folder / f"{name}.conmon").unlink(missing_ok=True)
        (place.folder / name).unlink(missing_ok=True)
