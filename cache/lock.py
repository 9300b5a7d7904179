"""One daemon per store."""

import fcntl
import os
from pathlib import Path

from ray_envd.cache.errors import StoreLockedError

_DIGITS = 20


class StoreLock:
    """Held from the constructor until :meth:`release`, or until the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Takes the lock and writes this process's id into the file.

        Raises:
            StoreLockedError: another process has it.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _pid(os.pread(self._descriptor, _DIGITS, 0))
            os.close(self._descriptor)
            raise StoreLockedError(str(path.parent), pid) from None
        # One write over the earlier pid: a reader never finds the file empty, and padding ends the old one.
        os.pwrite(self._descriptor, f"{os.getpid():<{_DIGITS - 1}}\n".encode(), 0)

    def release(self) -> None:
        """Gives the lock back, once. The file stays: without it two daemons could lock two files."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _pid(content: bytes) -> int:
    text = content.decode(errors="replace").strip()
    return int(text) if text.isdecimal() else 0
