"""What a loss of power may have taken, and what is on disk for certain.

Markers are fsynced, the thousands of files of an environment are not: that would cost a build more than it
takes. So each marker names the *epoch* of its commit, and now and then all of the store's file system is
written out at once (syncfs(2)), which ends an epoch. ``epoch.json`` says which was the last to end, and in
which boot of the machine. A daemon that finds the store of an earlier boot trusts what was committed up to
then, and nothing after it.

uv's caches are in no epoch: uv writes them at any time during a build. A build therefore marks them unsettled
before it begins; they are settled again by a sync during which nothing was being built. Found unsettled after
a loss of power, they are thrown away.

The file itself is fsynced each time, also when it says less than before: a rename of what was not written may
leave an empty file (xfs; ext4 with ``noauto_da_alloc``), and with that all trust would be lost.
"""

import ctypes
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ray_envd.cache.durable import replace_file
from ray_envd.cache.session_files import boot_id

_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class Epochs:
    """The store's epochs. Not thread-safe: its owner holds a lock.

    Attributes:
        current: the epoch of what is committed now.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file; a missing or damaged one has ended no epoch."""
        self._path = path
        self._boot = boot_id()
        boot, self._ended, self._settled = _read(path)
        self._is_new = boot is None
        #: Whether nothing can have been lost since the files were written.
        self._same_boot = boot in {None, self._boot}
        self.current = self._ended + 1
        self._newest = 0
        self._written = (self._ended, self._settled) if boot == self._boot else None

    def trusts(self, epoch: int) -> bool:
        """Whether what was committed in this epoch is on disk."""
        return self._same_boot or epoch <= self._ended

    @property
    def trusts_caches(self) -> bool:
        """Whether uv's caches are what uv wrote."""
        return self._same_boot or self._settled

    def begin(self, newest: int, *, nothing: bool = False) -> None:
        """Recovery is done: whatever is there now counts as of this boot; durable.

        Args:
            newest: the highest epoch of any marker.
            nothing: there is no object. A new store's first build writes the file then, not its first start.

        Raises:
            OSError: the disk.
        """
        self.current, self._newest = max(self.current, newest + 1), newest
        if not self._same_boot:
            # What was not trusted is gone; the rest is on disk, it was read from there.
            self._ended, self._settled = self.current - 1, True
        self._same_boot = True
        if not (nothing and self._is_new):
            self._write()

    def unsettle(self) -> None:
        """Something is going to be built; durable.

        Raises:
            OSError: the disk.
        """
        if self._settled:
            self._settled = False
            self._write()

    def sealed(self) -> int:
        """The epoch of an object that was completed just now; there is something to sync again."""
        self._newest = max(self._newest, self.current)
        return self._newest

    @property
    def is_synced(self) -> bool:
        """Whether nothing was built or sealed since the last sync."""
        return self._settled and self._newest <= self._ended

    def next(self) -> int:
        """Begins a new epoch and returns the one that :meth:`ended` is to be told of, after a sync."""
        self.current += 1
        return self.current - 1

    def ended(self, epoch: int, *, settled: bool) -> None:
        """An epoch is on disk, and so are uv's caches if nothing was built meanwhile; durable.

        Raises:
            OSError: the disk.
        """
        self._ended, self._settled = epoch, settled
        self._write()

    def _write(self) -> None:
        if self._written == (self._ended, self._settled):
            return
        value = {"boot": self._boot, "ended": self._ended, "settled": self._settled}
        replace_file(self._path, json.dumps(value).encode())
        self._written = self._ended, self._settled


def _read(path: Path) -> tuple[str | None, int, bool]:
    """Boot (None: nobody wrote one), last epoch that ended, and whether uv's caches are settled."""
    try:
        value = json.loads(path.read_bytes())
        return str(value["boot"]), int(value["ended"]), bool(value["settled"])
    except FileNotFoundError:
        return None, 0, True
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read, what was built last is not trusted: %s", path, error)
        return "", 0, False


def sync_file_system(path: Path) -> None:
    """Writes out everything of the file system on which a folder is; may take seconds.

    Raises:
        OSError: something could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs: Callable[[int], int] = _libc.syncfs
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
