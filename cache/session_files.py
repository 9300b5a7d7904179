"""What a session's folder holds, read and written; :mod:`ray_envd.cache.references` gives it its meaning.

::

    sessions-v1/<session>/
      session.json         facts of the session; written last, removed first: without it the rest is leftover
      counts               how often each env is referenced (counts.py)
      envs/, envs.copy     the objects of each env (env_files.py)

These files outlive the daemon, not a loss of power (nothing is fsynced): a session is one raylet, which does
not outlive it either. So each names the machine's boot, and what is of an earlier one is dropped.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.cache.counts import Counts
from ray_envd.cache.durable import replace_file
from ray_envd.cache.env_files import Bound, EnvFiles
from ray_envd.cache.errors import CorruptError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.removal import remove_tree

_SESSION = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session, as it was when asked for.

    Attributes:
        session_id: its name.
        facts: what ``References.start`` was told.
        started: unix seconds.
        envs: how many envs it has bound.
        references: how many references it holds.
    """

    session_id: str
    facts: Mapping[str, Any]
    started: float
    envs: int
    references: int


@dataclass(frozen=True, slots=True)
class EnvRecord:
    """An env of a session, as it was when asked for.

    Attributes:
        env_digest: of the runtime env's serialized form.
        objects: what it stands on.
        summary: what ``References.bind`` was told; empty if it cannot be read any more.
        created: unix seconds of the first binding.
        count: references.
    """

    env_digest: str
    objects: tuple[ObjectKey, ...]
    summary: Mapping[str, Any]
    created: float
    count: int


class SessionFiles:
    """One session's folder. Everything here blocks.

    Attributes:
        envs: the files of its envs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.envs = EnvFiles(folder)

    @classmethod
    def create(cls, folder: Path) -> "tuple[SessionFiles, Counts]":
        """A new session's folder, not yet valid: :meth:`write_facts` makes it so."""
        remove_tree(folder)
        (folder / "envs").mkdir(parents=True, mode=0o700)
        return cls(folder), Counts(folder / "counts")

    def write_facts(self, facts: Mapping[str, Any], started: float) -> None:
        """Writes ``session.json``."""
        value = {"boot": boot_id(), "started": started, "facts": dict(facts)}
        replace_file(self._folder / "session.json", _dump(value), durable=False)

    def read(self) -> tuple[dict[str, Any], float, Counts, dict[str, Bound]]:
        """Facts, start, counts and envs of a session.

        Raises:
            CorruptError: it is unfinished, damaged, or of an earlier boot of the machine.
            OSError: the disk.
        """
        try:
            value = json.loads((self._folder / "session.json").read_bytes())
            boot, started, facts = value["boot"], float(value["started"]), dict(value["facts"])
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"unfinished: {error!r}") from error
        if boot != boot_id():
            raise CorruptError("of an earlier boot of the machine")
        counts = Counts(self._folder / "counts")
        return facts, started, counts, self.envs.read()

    def remove(self) -> None:
        """Removes the session; ``session.json`` first, so that a kill leaves nothing half valid."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (self._folder / "session.json").unlink()
        remove_tree(self._folder)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def check_session(session_id: str) -> str:
    """The id if it may name a session.

    Raises:
        ValueError: it may not.
    """
    if _SESSION.fullmatch(session_id) is None or session_id in {".", ".."}:
        raise ValueError(f"not a session id: {session_id[:140]!r}")
    return session_id


def boot_id() -> str:
    """Names the machine's present boot (random(4)); empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
