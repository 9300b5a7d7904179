"""A file system of its own whose power can fail: in a file, mounted by a loop device. Only for root.

The power fails by the kernel's own word for it, FS_IOC_SHUTDOWN without a flush of the log, which xfstests
uses too: from that instant nothing more is written to the device, and what was written is all that the next
mount finds, after it has replayed the journal. So everything that was not synced is gone, but for what the
kernel chose to write before. It does not tear or reorder what had been written: the device is taken to keep
its word about flushes.

Of ext4 the mount asks for the worst that it allows: its journal is not committed by a timer, and files that
are renamed over others are not written first (``noauto_da_alloc``), which xfs never does. A stranger makes it
worse: whoever else syncs a file on the same file system commits names and sizes of everybody's files, without
their content.
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from helpers import wait_until

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2
_BYTES = 320 * 1024**2  # xfs will not be smaller
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
_OPTIONS = {"ext4": "loop,commit=300,noauto_da_alloc", "xfs": "loop"}


class Disk:
    """Use :meth:`make`.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, image: Path, folder: Path, kind: str) -> None:
        self.folder, self._image, self._kind = folder, image, kind
        self._mounted = threading.Lock()  # held by whoever has a file open, or changes what is mounted

    @classmethod
    @contextlib.contextmanager
    def make(cls, place: Path, kind: str) -> Iterator["Disk"]:
        """A new one below a folder, of ext4 or xfs, mounted; unmounted in the end, whatever happened."""
        disk = cls(place / "image", place / "mount", kind)
        disk.folder.mkdir()
        with disk._image.open("wb") as file:
            file.truncate(_BYTES)
        subprocess.run([*_MAKE[kind], disk._image], check=True)
        disk._mount()
        try:
            yield disk
        finally:
            disk._unmount()

    def _mount(self) -> None:
        command = ["mount", "-t", self._kind, "-o", _OPTIONS[self._kind], self._image, self.folder]
        subprocess.run(command, check=True)

    def _unmount(self) -> None:
        if subprocess.run(["umount", self.folder], check=False, capture_output=True).returncode:
            # Somebody stands in it: it goes when he does, and its loop device with it.
            subprocess.run(["umount", "--lazy", self.folder], check=False)

    def fail(self) -> None:
        """The power fails."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """The power is back: what had been written is there. Whoever stood in it must be dead or dying.

        A process that was killed has lost its memory, by which others find it, before it closes its files.
        """
        command = ["umount", self.folder]
        with self._mounted:
            wait_until(lambda: subprocess.run(command, check=False).returncode == 0, 10, "the end of users")
            self._mount()

    @contextlib.contextmanager
    def stranger(self) -> Iterator[None]:
        """Somebody who syncs a file of his own all the time; see the module's text."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.01):
                with self._mounted, contextlib.suppress(OSError):
                    self._sync_a_file()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _sync_a_file(self) -> None:
        with (self.folder / "stranger").open("w") as file:
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
