"""Unpacking the large files of a zip while the zip itself is still being written.

A zip's list of members stands at its end. What stands before each member (APPNOTE 4.3.7) says the same, and
nobody vouches for it: there may be no such member. So what is unpacked ahead has no name in any folder
(O_TMPFILE, open(2)). When the list is there, :func:`ray_envd.cache.archive.unpack` judges all members by it,
as always, and takes over what it would have unpacked itself, byte for byte: the same bytes of the archive
under the same name, with the size and the CRC of the list. What it does not take goes with its descriptor.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_envd.cache.archive_members import CHUNK, ArchiveLimits
from ray_envd.cache.errors import UnsafeArchiveError
from ray_envd.cache.unpack_files import LARGE
from ray_envd.cache.writing import write_all
from ray_envd.cache.zip_content import METHODS, PECULIAR, encoded_name

#: Signature, flags, method, packed and unpacked size, lengths of name and extra field.
_HEADER = struct.Struct("<4s2xHH8xLLHH")
_SIZES_COME_LATER = 0x8
_IN_EXTRA_FIELD = 0xFFFFFFFF
#: Headers that are looked at: each takes time, and of many files few are large.
_MOST_MEMBERS = 1000


@dataclass(slots=True)
class _Copy:
    """A member's content as far as it has come, in a file without a name."""

    descriptor: int
    name: bytes
    method: int
    packed: int
    size: int
    crc: int = 0
    done: int = 0

    def is_of(self, info: zipfile.ZipInfo) -> bool:
        """Whether it is all of the member that the list describes."""
        said = info.compress_type, info.compress_size, info.file_size, info.CRC, info.file_size
        return said == (self.method, self.packed, self.size, self.crc, self.done) and (
            not info.flag_bits & PECULIAR and self.name == encoded_name(info)
        )


class Ahead:
    """What is unpacked ahead of one archive. One thread at a time, as the owner of archive and folder."""

    def __init__(self, archive: Path, folder: Path, limits: ArchiveLimits) -> None:
        """Nothing is read or written yet.

        Args:
            archive: a file that grows; what was written to it stays.
            folder: where the archive is going to be unpacked; made if it is missing.
            limits: what is too much.
        """
        self._limits = limits
        self._copies: dict[int, _Copy] = {}
        self._file: tuple[int, int] | None = None
        self._stopped: Callable[[], bool] = lambda: False
        self._steps = self._all(archive, folder)

    def advance(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Unpacks what has come since the last time; ``stopped`` is asked often, and true ends it for now.

        Whatever is wrong, with the archive or the disk, ends the work for good without a word: it is found
        again, and told, when the archive is unpacked.
        """
        self._stopped = stopped
        try:
            next(self._steps, None)
        except (OSError, zlib.error, UnsafeArchiveError):
            self.close()

    def reads(self, descriptor: int) -> bool:
        """Whether this is the archive."""
        return _identity(descriptor) == self._file

    def take(self, info: zipfile.ZipInfo) -> int | None:
        """A descriptor of this member's content, the caller's to close, if all of it was unpacked ahead."""
        copy = self._copies.get(info.header_offset)
        if copy is None or not copy.is_of(info):
            return None
        del self._copies[info.header_offset]
        return copy.descriptor

    def close(self) -> None:
        """Drops what was not taken."""
        self._steps.close()
        while self._copies:
            os.close(self._copies.popitem()[1].descriptor)

    def _all(self, archive: Path, folder: Path) -> Generator[None, None, None]:
        """All large members, one after the other; yields whenever nothing more has come."""
        raw = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._file = _identity(raw)
            offset = declared = 0
            for number in range(_MOST_MEMBERS):
                head = yield from _exactly(raw, _HEADER.size, offset)
                signature, flags, method, packed, size, *lengths = _HEADER.unpack(head)
                is_told = not flags & (PECULIAR | _SIZES_COME_LATER) and _IN_EXTRA_FIELD not in {packed, size}
                if signature != b"PK\x03\x04" or method not in METHODS or not is_told:
                    return
                begin = offset + _HEADER.size + sum(lengths)
                declared += size
                self._limits.check(number, declared, begin + packed)
                if size >= LARGE:
                    name = yield from _exactly(raw, lengths[0], offset + _HEADER.size)
                    folder.mkdir(parents=True, exist_ok=True)
                    out = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
                    self._copies[offset] = _Copy(out, name, method, packed, size)
                    yield from self._copy(self._copies[offset], raw, begin)
                offset = begin + packed
        finally:
            os.close(raw)

    def _copy(self, copy: _Copy, raw: int, begin: int) -> Iterator[None]:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if copy.method == zipfile.ZIP_DEFLATED else None
        position, end = begin, begin + copy.packed
        while position < end:
            data = b"" if self._stopped() else os.pread(raw, min(CHUNK, end - position), position)
            if not data:
                yield
                continue
            position += len(data)
            for piece in _unpacked(data, inflate):
                copy.done += len(piece)
                self._limits.check(0, copy.done, position)
                if copy.done > copy.size:
                    return
                copy.crc = zlib.crc32(piece, copy.crc)
                write_all(copy.descriptor, piece)


def _unpacked(data: bytes, inflate: "zlib._Decompress | None") -> Iterator[bytes]:
    if inflate is None:
        yield data
        return
    while piece := inflate.decompress(data, CHUNK):
        data = inflate.unconsumed_tail
        yield piece


def _exactly(raw: int, size: int, position: int) -> Generator[None, None, bytes]:
    """So many bytes, as soon as they are there."""
    while len(data := os.pread(raw, size, position)) < size:
        yield
    return data


def _identity(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino
