"""What probes found, kept on disk so that a daemon that starts anew asks no interpreter again.

A file belongs to the user whose interpreter it describes and stands among his own files: he may have put
anything there, as his interpreter may print anything. So it is read with his rights, never waited for, never
read without end, and what cannot be understood is as good as not there. A loss of power may take it.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_envd.cache.durable import replace_file

#: Far more than the metadata of any interpreter's packages.
_MOST_BYTES = 32 * 1024**2
#: Files kept for one user; the last written stay.
_MOST_FILES = 64


class Remembered:
    """An existing folder of probes' findings; blocking, inside ``acting_as`` its owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: object) -> dict[str, Any] | None:
        """What was kept under a key (anything that JSON can write); None if nothing that is whole was.

        Values are not checked further: use them like a probe's output.
        """
        try:
            value = json.loads(_read(self._path(key)))
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: object, facts: Mapping[str, Any]) -> None:
        """Keeps the findings, and of earlier ones the newest.

        Raises:
            OSError: the disk; nothing depends on these files.
        """
        replace_file(self._path(key), json.dumps(facts).encode(), durable=False)
        for old in self._by_age()[:-_MOST_FILES]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _path(self, key: object) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"

    def _by_age(self) -> list[Path]:
        with os.scandir(self._folder) as entries:
            aged = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries]
        return [Path(path) for _, path in sorted(aged)]


def _read(path: Path) -> bytes:
    """A regular file's content, up to a size: neither a pipe nor a device is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ValueError(f"{path} is not a small regular file")
        return stream.read(_MOST_BYTES)
