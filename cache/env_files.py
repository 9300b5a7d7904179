"""What the envs of a session stand on: a file for each, and one copy of all of them for a quick start.

::

    envs/<env digest>.json   objects, summary, time of the first binding
    envs.copy                what these files say, and which they were

The files are the truth. Those that are as the copy says are not opened at a start, nor even looked at if
nothing has happened in their folder. So the copy may be old, damaged or missing at any time, and an earlier
version of the daemon need not know of it. It is written when a daemon ends, and while it runs whenever much
has changed.

Summaries are not kept in memory: they are asked for once, when the session comes back.
"""

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_envd.cache.durable import is_leftover, replace_file
from ray_envd.cache.keys import ObjectKey

_log = logging.getLogger(__name__)
_SUFFIX = ".json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: So many changed files cost a start less than a copy costs now; more for a session with many envs.
_FEW, _FEW_OF_MANY = 100, 8
#: What changed so lately may change again without a change of its time, which the kernel counts in ticks
#: ("racily clean" in git's index): a copy says nothing of it.
_YOUNG_NS = 10**9
_Fingerprint = list[int]


@dataclass(frozen=True, slots=True)
class Bound:
    """An env as a session has it.

    Attributes:
        objects: what it stands on.
        created: unix seconds of the first binding.
    """

    objects: tuple[ObjectKey, ...]
    created: float

    def to_json(self) -> dict[str, Any]:
        """The form on disk."""
        return {
            "objects": [[key.owner, key.kind, key.digest] for key in self.objects],
            "created": self.created,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Bound":
        """Reads :meth:`to_json`'s form.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        objects = tuple([ObjectKey(int(owner), kind, digest) for owner, kind, digest in value["objects"]])
        return cls(objects, float(value["created"]))


@dataclass(slots=True)
class _Copy:
    """A copy's two lines.

    Attributes:
        folder: fingerprint of the folder if nothing else was in it.
        envs: for each file, its fingerprint and what it says but for the summary.
        summaries: JSON.
    """

    folder: _Fingerprint | None = None
    envs: dict[str, tuple[_Fingerprint, Bound]] = field(default_factory=dict)
    summaries: bytes = b"{}"

    @classmethod
    def read(cls, path: Path) -> "_Copy":
        """The copy in a file; an empty one if there is none that can be read."""
        try:
            head, _, summaries = path.read_bytes().partition(b"\n")
            value = json.loads(head)
            envs = {
                check_env(digest): (fingerprint, Bound.from_json(each))
                for digest, (fingerprint, each) in value["envs"].items()
            }
            return cls(value["folder"], envs, summaries)
        except FileNotFoundError:
            pass
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("%s cannot be read, which costs time only: %r", path, error)
        return cls()

    def write(self, path: Path) -> None:
        """Puts the copy into a file."""
        envs = {digest: (fingerprint, each.to_json()) for digest, (fingerprint, each) in self.envs.items()}
        head = json.dumps({"folder": self.folder, "envs": envs}).encode()
        replace_file(path, head + b"\n" + self.summaries, durable=False)


class EnvFiles:
    """The files of one session's envs. Everything here blocks; one caller at a time."""

    def __init__(self, session: Path) -> None:
        self._folder, self._copy = session / "envs", session / "envs.copy"
        self._changed = 0  # files that the copy does not have as they are

    def read(self) -> dict[str, Bound]:
        """Every env; files that are damaged are removed.

        Raises:
            OSError: the disk.
        """
        copied, others = self._compare(_Copy.read(self._copy))
        envs = {digest: bound for digest, (_, bound) in copied.items()}
        for path in others:
            try:
                envs[check_env(path.stem)] = Bound.from_json(json.loads(path.read_bytes()))
            except (KeyError, TypeError, ValueError) as error:
                _log.warning("%s is damaged and dropped: %r", path, error)
                path.unlink()
        self._changed = len(others)
        return envs

    def summaries(self) -> dict[str, Mapping[str, Any]]:
        """The summary of each env, as far as it can be read.

        Raises:
            OSError: the disk.
        """
        copy = _Copy.read(self._copy)
        copied, others = self._compare(copy)
        found: dict[str, Mapping[str, Any]] = {}
        try:
            kept = json.loads(copy.summaries)
            found = {digest: dict(kept[digest]) for digest in copied}
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("the second line of %s is damaged, which costs time only: %r", self._copy, error)
            others += [self._path(digest) for digest in copied]
        for path in others:
            try:
                found[path.stem] = dict(json.loads(path.read_bytes())["summary"])
            except (KeyError, TypeError, ValueError) as error:
                _log.warning("%s is damaged: %r", path, error)
        return found

    def write(self, env_digest: str, bound: Bound, summary: Mapping[str, Any]) -> None:
        """Writes what an env stands on."""
        value = {**bound.to_json(), "summary": dict(summary)}
        replace_file(self._path(env_digest), json.dumps(value).encode(), durable=False)
        self._changed += 1

    def remove(self, env_digest: str) -> None:
        """Forgets what an env stands on."""
        self._path(env_digest).unlink(missing_ok=True)
        self._changed += 1

    def copy(self, envs: Mapping[str, Bound], *, last: bool = False) -> bool:
        """Writes the copy if it is worth it now, or as the last, if anything has changed; whether it did.

        Args:
            envs: what was read and written since.
            last: the daemon ends.

        Raises:
            OSError: the disk.
        """
        if self._changed <= (0 if last else max(_FEW, len(envs) // _FEW_OF_MANY)):
            return False
        young = time.time_ns() - _YOUNG_NS
        folder = _fingerprint(self._folder.stat())
        summaries = self.summaries()
        copy = _Copy()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                digest = entry.name.removesuffix(_SUFFIX)
                found = _fingerprint(entry.stat(follow_symlinks=False))
                if digest in envs and digest in summaries and found[0] < young:
                    copy.envs[digest] = found, envs[digest]
        if folder[0] < young and copy.envs.keys() == envs.keys():
            copy.folder = folder
        copy.summaries = json.dumps({digest: summaries[digest] for digest in copy.envs}).encode()
        copy.write(self._copy)
        self._changed = len(envs) - len(copy.envs)
        return True

    def _compare(self, copy: _Copy) -> tuple[dict[str, tuple[_Fingerprint, Bound]], list[Path]]:
        """What of a copy is of the files as they are, and the other files; leftovers are removed."""
        if copy.folder == _fingerprint(self._folder.stat()):
            return copy.envs, []
        same, others = {}, []
        with os.scandir(self._folder) as entries:
            found = list(entries)
        for entry in found:
            digest = entry.name.removesuffix(_SUFFIX)
            copied = copy.envs.get(digest)
            if is_leftover(entry.name):
                Path(entry.path).unlink()
            elif copied is not None and copied[0] == _fingerprint(entry.stat(follow_symlinks=False)):
                same[digest] = copied
            else:
                others.append(Path(entry.path))
        return same, others

    def _path(self, env_digest: str) -> Path:
        return self._folder / f"{env_digest}{_SUFFIX}"


def _fingerprint(state: os.stat_result) -> _Fingerprint:
    """Tells one version of a file from every other without reading it: each write makes a new file.

    Of a folder: each write, rename and removal in it changes its time.
    """
    return [state.st_mtime_ns, state.st_ino, state.st_size]


def check_env(env_digest: str) -> str:
    """The digest if it is one (SHA-256, lower hex).

    Raises:
        ValueError: it is not.
    """
    if _DIGEST.fullmatch(env_digest) is None:
        raise ValueError(f"not the digest of a runtime env: {env_digest[:80]!r}")
    return env_digest
