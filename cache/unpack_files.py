"""Writing an archive's files: several at a time, and the pieces of a large one while the next are read.

Threads of a pool have the file-system identity of the thread that first gave them work: Linux starts a thread
with the credentials of the one that starts it (clone(2), credentials(7)). So a pool is made, used and ended
within one :func:`ray_envd.cache.owner.acting_as`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from ray_envd.cache.archive_members import Member, refuse
from ray_envd.cache.writing import write_all

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Files of which the reader and the writer work side by side; a piece is handed over in microseconds.
LARGE = 8 * 1024**2
_AT_ONCE = 2
#: Files and bytes that one thread takes at a time.
_BATCH_FILES, _BATCH_BYTES = 64, 4 * 1024**2
_WAITING = 4  # batches


class Files:
    """Writes files of one tree. A context manager; at its end no thread writes any more."""

    def __init__(self, tick: Callable[[], None], *, any_order: bool) -> None:
        """Nothing is written yet.

        Args:
            tick: called now and then by the thread that adds; what it raises ends the work.
            any_order: members may be read by several threads at a time.
        """
        self._tick, self._any_order = tick, any_order
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="unpack")
        self._under_way: deque[Future[None]] = deque()
        self._batch: list[tuple[Member, str]] = []
        self._batch_bytes = 0
        self._umask = _umask()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, member: Member, path: str) -> None:
        """Writes a member to a new file, now or soon.

        Raises:
            UnsafeArchiveError, OSError, or what a damaged archive makes libraries raise: also of one before.
        """
        if member.size >= LARGE and _take_over(member, path):
            return
        if member.size >= LARGE or not self._any_order:
            self._write(member, path, self._copy_behind if member.size >= LARGE else self._copy)
        else:
            self._batch.append((member, path))
            self._batch_bytes += member.size
            if len(self._batch) >= _BATCH_FILES or self._batch_bytes >= _BATCH_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Returns when all are written; raises as :meth:`add`."""
        self._hand_over()
        while self._under_way:
            self._under_way.popleft().result()

    def _hand_over(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            self._under_way.append(self._pool.submit(self._write_all, batch))
        while len(self._under_way) > _WAITING:
            self._under_way.popleft().result()

    def _write_all(self, batch: list[tuple[Member, str]]) -> None:
        for member, path in batch:
            self._write(member, path, _copy)

    def _write(self, member: Member, path: str, copy: Callable[[Member, int], None]) -> None:
        mode = _mode(member)
        descriptor = os.open(path, _NEW_FILE, mode)
        try:
            if mode & self._umask:
                os.fchmod(descriptor, mode)
            copy(member, descriptor)
        finally:
            os.close(descriptor)

    def _copy(self, member: Member, descriptor: int) -> None:
        for piece in _exactly(member):
            write_all(descriptor, piece)
            self._tick()

    def _copy_behind(self, member: Member, descriptor: int) -> None:
        last: Future[None] | None = None
        try:
            for piece in _exactly(member):
                if last is not None:
                    last.result()
                last = self._pool.submit(write_all, descriptor, piece)
                self._tick()
        finally:
            if last is not None:
                last.result()


def _mode(member: Member) -> int:
    return ((member.mode & 0o777) | 0o600) if member.mode else 0o644


def _take_over(member: Member, path: str) -> bool:
    """Gives what was unpacked ahead its name; whether it has it."""
    descriptor = member.ahead()
    if descriptor is None:
        return False
    try:
        os.fchmod(descriptor, _mode(member))
        # A `src_dir_fd` makes it linkat(2), which follows the link; with an absolute path it is not used.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    except OSError:  # without /proc, for instance
        return False
    finally:
        os.close(descriptor)
    return True


def _copy(member: Member, descriptor: int) -> None:
    for piece in _exactly(member):
        write_all(descriptor, piece)


def _exactly(member: Member) -> Iterator[bytes]:
    """A member's pieces, which must be as many bytes as it declares."""
    left = member.size
    for piece in member.pieces():
        left -= len(piece)
        if left < 0:
            refuse(member.name, f"is larger than the {member.size} bytes it declares")
        yield piece
    if left:
        refuse(member.name, f"is {left} bytes shorter than it declares")


def _umask() -> int:
    """This process's: only where it takes something away a mode is set once more.

    umask(2) itself would change it, for other threads too. Where it cannot be told, every mode is set.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration, ValueError, IndexError):
        return 0o777
