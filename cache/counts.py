"""Counters that survive the death of their process at any instant, and cost no system call.

One file, mapped shared: what was stored in it stays with the kernel when the process is killed. It does not
survive a loss of power, and need not: what it counts does not either.

::

    header  40 bytes: b"RAYENVDC", version u64, three u64 unused
    slot    40 bytes: digest (32 bytes), count u64

All numbers are of the machine's own byte order. A count is changed by one aligned 8-byte store, so no kill
can leave half of it. A slot is given its digest while its count is 0: one whose digest was cut off by a kill
counts nothing, and is free again.
"""

import mmap
import os
from pathlib import Path

from ray_envd.cache.errors import CorruptError

_MAGIC = b"RAYENVDC"
_VERSION = 1
_SLOT = 40
_WORDS = _SLOT // 8  # a slot in units of a count
_DIGEST = 32
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_STEP = 102  # slots by which the file grows: with the header, a little over one page


class Counts:
    """The file, mapped. Not thread-safe: its owner holds a lock.

    Only :meth:`extend` and the constructor block; the rest are operations in memory.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file.

        Raises:
            CorruptError: it is no such file.
            OSError: the disk, also when it is full: blocks are taken before they are written.
        """
        self._path = path
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        descriptor = os.open(path, _OPEN | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SLOT:
                _allocate(descriptor, _STEP)
            self._map(descriptor)
        finally:
            os.close(descriptor)
        # The magic is stored last: a file that was cut off before it counts nothing and is begun anew.
        if not any(self._bytes[:_SLOT]):
            self._words[1] = _VERSION
            self._bytes[:8] = _MAGIC
        if self._bytes[:8] != _MAGIC or self._words[1] != _VERSION:
            self.close()
            raise CorruptError(f"{path} holds no reference counts of this version")
        self._read_slots()

    def _map(self, descriptor: int) -> None:
        self._mmap = mmap.mmap(descriptor, 0)
        self._bytes = memoryview(self._mmap)
        usable = len(self._bytes) - len(self._bytes) % _SLOT
        self._words = self._bytes[:usable].cast("Q")

    def _read_slots(self) -> None:
        for slot in range(1, len(self._words) // _WORDS):
            digest = bytes(self._bytes[slot * _SLOT : slot * _SLOT + _DIGEST])
            if self._words[slot * _WORDS + _WORDS - 1] and any(digest):
                self._slots[digest.hex()] = slot
            else:
                self._free.append(slot)
        self._free.reverse()

    @property
    def digests(self) -> list[str]:
        """Every digest that has a slot."""
        return list(self._slots)

    @property
    def is_full(self) -> bool:
        """Whether :meth:`extend` and :meth:`remap` must come before the next :meth:`add` of a new digest."""
        return not self._free

    def extend(self) -> None:
        """Makes the file larger; blocking, and beside operations in memory. :meth:`remap` follows.

        Raises:
            OSError: the disk is full; what was counted is untouched.
        """
        descriptor = os.open(self._path, _OPEN)
        try:
            # Doubling keeps the number of mappings made in a session's life small.
            _allocate(descriptor, max(_STEP, len(self._words) // _WORDS))
        finally:
            os.close(descriptor)

    def remap(self) -> None:
        """Takes in what :meth:`extend` has added; quick."""
        slots = len(self._words) // _WORDS
        old = self._mmap, self._bytes, self._words
        descriptor = os.open(self._path, _OPEN)
        try:
            self._map(descriptor)
        finally:
            os.close(descriptor)
        _release(*old)
        self._free.extend(reversed(range(slots, len(self._words) // _WORDS)))

    def add(self, digest: str) -> None:
        """Gives a digest a slot, with count 0, unless it has one."""
        if digest not in self._slots:
            slot = self._free.pop()
            self._words[slot * _WORDS + _WORDS - 1] = 0
            self._bytes[slot * _SLOT : slot * _SLOT + _DIGEST] = bytes.fromhex(digest)
            self._slots[digest] = slot

    def forget(self, digest: str) -> None:
        """Takes a digest's slot, and whatever it counts."""
        slot = self._slots.pop(digest, None)
        if slot is not None:
            self._words[slot * _WORDS + _WORDS - 1] = 0
            self._free.append(slot)

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    def __getitem__(self, digest: str) -> int:
        slot = self._slots.get(digest)
        return 0 if slot is None else self._words[slot * _WORDS + _WORDS - 1]

    def __setitem__(self, digest: str, count: int) -> None:
        # Through the cast view this is one store of eight bytes; struct's "<Q" would be eight of one.
        self._words[self._slots[digest] * _WORDS + _WORDS - 1] = count

    def close(self) -> None:
        """Unmaps the file; what was counted stays in it."""
        self._slots.clear()
        _release(self._mmap, self._bytes, self._words)


def _release(mapped: mmap.mmap, content: "memoryview[int]", words: "memoryview[int]") -> None:
    words.release()
    content.release()
    mapped.close()


def _allocate(descriptor: int, slots: int) -> None:
    """Takes the blocks now: a store to a mapped hole on a full disk would kill the daemon (SIGBUS)."""
    size = os.fstat(descriptor).st_size
    os.posix_fallocate(descriptor, size - size % _SLOT, (slots + (size < _SLOT)) * _SLOT)
