"""Reading the members of an archive, whatever its format; nothing here writes.

Both readers hand out :class:`Member`, one by one in the archive's order, and refuse what no honest
archive holds. :mod:`ray_envd.cache.archive` decides what is done with them.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import BinaryIO, NoReturn, Protocol

from ray_envd.cache.errors import UnsafeArchiveError
from ray_envd.cache.zip_content import pieces

CHUNK = 1 << 18
#: PATH_MAX: a symbolic link cannot be longer.
LONGEST_LINK = 4096

_DRIVE = re.compile(r"[A-Za-z]:")
_MAC_FOLDER = "__MACOSX"  # macOS's zip adds it beside the one folder that was packed
_ZIP_ENTRY = b"PK\x01\x02"
_DEEPEST = 256  # far deeper than any honest tree, and shallow enough for rmtree, which recurses
_LARGEST_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may grow to.

    Attributes:
        total_bytes: of all files together.
        ratio: of unpacked bytes to the archive's own, judged only above ``ratio_from_bytes``, so that
            a small text that compresses well passes.
        members: files, folders and links.
    """

    total_bytes: int = 32 * 1024**3
    ratio: int = 200
    ratio_from_bytes: int = 64 * 1024**2
    members: int = 1_000_000

    def check(self, members: int, total: int, archive_bytes: int) -> None:
        """Raises UnsafeArchiveError where these figures pass a limit."""
        if members > self.members:
            raise UnsafeArchiveError(f"the archive has more than {self.members} members")
        if total > self.total_bytes:
            raise UnsafeArchiveError(f"the archive unpacks to more than {self.total_bytes} bytes")
        if total > self.ratio_from_bytes and total > self.ratio * archive_bytes:
            raise UnsafeArchiveError(
                f"the archive unpacks to more than {self.ratio} times its own {archive_bytes} bytes"
            )


class Kind(Enum):
    """What a member is; the values stand in messages."""

    FILE = "a file"
    FOLDER = "a folder"
    SYMLINK = "a symbolic link"
    HARDLINK = "a hard link"


@dataclass(frozen=True, slots=True)
class Member:
    """One member.

    Attributes:
        name: as it stands in the archive, for messages.
        path: normalised and relative; "" for the root itself.
        kind: what it is.
        mode: permission bits; 0 where the archive has none.
        size: the bytes that a file declares.
        link: what a link names.
        pieces: a file's content, :data:`CHUNK` bytes at most at once; good until the next member is asked
            for, unless the reader is ``any_order``.
        ahead: a descriptor of a file without a name that has all of the content, if there is one; the
            caller's to close.
    """

    name: str
    path: str
    kind: Kind
    mode: int = 0
    size: int = 0
    link: str = ""
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(())
    ahead: Callable[[], int | None] = lambda: None


class Reader(Protocol):
    """The members of one format.

    Attributes:
        any_order: files may be read in any order, and several at a time by as many threads.
    """

    any_order: bool

    @property
    def top_level(self) -> str | None:
        """The one folder that holds everything, if there is one; ask when all members are read."""

    def members(self) -> Iterator[Member]:
        """Every member, in order, once."""

    def position(self) -> int:
        """Bytes of the archive that the members so far have taken up, about."""


def refuse(name: str, rule: str) -> NoReturn:
    """Raises UnsafeArchiveError: which member breaks which rule."""
    raise UnsafeArchiveError(f"member {name[:200]!r} {rule}")


def normalised(name: str) -> str:
    """The name without empty and ``.`` parts; refuses names that lead out of a folder."""
    if "\0" in name:
        refuse(name, "has a NUL character in its name")
    if "\\" in name:
        refuse(name, "has a backslash in its name")
    if name.startswith("/"):
        refuse(name, "has an absolute name")
    if _DRIVE.match(name):
        refuse(name, "begins with a drive letter")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        refuse(name, "has '..' in its name")
    if len(parts) > _DEEPEST:
        refuse(name, f"lies more than {_DEEPEST} folders deep")
    return "/".join(parts)


def reader(
    raw: BinaryIO,
    limits: ArchiveLimits,
    tick: Callable[[], None],
    *,
    strip: bool,
    ahead: Callable[[zipfile.ZipInfo], int | None] = lambda _info: None,
) -> Reader:
    """The reader for the format that the first bytes tell.

    Args:
        raw: the archive.
        limits: what is too much.
        tick: called while much is read that is no member's content.
        strip: the single top-level folder will be left out, so ``__MACOSX`` beside it is too.
        ahead: what of a zip was unpacked before, see :class:`Member`.
    """
    head = raw.read(265)
    raw.seek(0)
    size = os.fstat(raw.fileno()).st_size
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _Zip(raw, limits, size, ahead, drop_mac_folder=strip)
    return _Tar(_Forward(_decompressed(raw, head), limits, size, tick), raw)


def _decompressed(raw: BinaryIO, head: bytes) -> "_Readable":
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw)
    if head[257:262] == b"ustar":
        return raw
    raise UnsafeArchiveError("it is none of zip, tar.gz, tar.bz2, tar.xz and tar")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Directory:
    """A zip as ZipFile reads it: looks at the list of members before a million objects are made of it."""

    def __init__(self, raw: BinaryIO, limits: ArchiveLimits) -> None:
        self._raw, self._limits = raw, limits
        self.seek, self.tell, self.seekable = raw.seek, raw.tell, raw.seekable
        self.opening = True

    def read(self, size: int = -1, /) -> bytes:
        if not self.opening:
            return self._raw.read(size)
        if size > 512 * self._limits.members:
            raise UnsafeArchiveError(f"the archive has a list of members of {size} bytes")
        data = self._raw.read(size)
        self._limits.check(data.count(_ZIP_ENTRY), 0, 0)
        return data


class _Zip:
    """A zip. The list of members stands at its end, so totals are known before anything is written."""

    any_order = True

    def __init__(
        self,
        raw: BinaryIO,
        limits: ArchiveLimits,
        size: int,
        ahead: Callable[[zipfile.ZipInfo], int | None],
        *,
        drop_mac_folder: bool,
    ) -> None:
        self._raw, self._ahead = raw, ahead
        directory = _Directory(raw, limits)
        self._zip = zipfile.ZipFile(directory)
        directory.opening = False
        self._infos = self._zip.infolist()
        limits.check(len(self._infos), sum(info.file_size for info in self._infos), size)
        self.top_level = self._top_level()
        self._drop_mac_folder = drop_mac_folder and self.top_level is not None
        self._position = 0

    def position(self) -> int:
        return self._position

    def members(self) -> Iterator[Member]:
        for info in self._infos:
            # `filename` is cut at a NUL character, `orig_filename` is not.
            path = normalised(info.orig_filename)
            if self._drop_mac_folder and path.partition("/")[0] == _MAC_FOLDER:
                continue
            if info.flag_bits & 0x1:
                refuse(info.filename, "is encrypted")
            self._position += info.compress_size
            yield self._member(info, path)

    def _member(self, info: zipfile.ZipInfo, path: str) -> Member:
        name, mode, size = info.filename, info.external_attr >> 16, info.file_size
        form = stat.S_IFMT(mode)
        if info.is_dir() or form == stat.S_IFDIR:
            return Member(name, path, Kind.FOLDER, stat.S_IMODE(mode))
        if form == stat.S_IFLNK:
            if size > LONGEST_LINK:
                refuse(name, "is a malformed symbolic link")
            return Member(name, path, Kind.SYMLINK, link=os.fsdecode(self._zip.read(info)))
        if form not in {0, stat.S_IFREG}:
            refuse(name, "is a device, pipe or socket")
        content = partial(pieces, self._zip, self._raw.fileno(), info, CHUNK)
        ahead = partial(self._ahead, info)
        return Member(name, path, Kind.FILE, stat.S_IMODE(mode), size, pieces=content, ahead=ahead)

    def _top_level(self) -> str | None:
        """The one folder that holds everything but ``__MACOSX``; the rule is stock's."""
        top = None
        for info in self._infos:
            first, slash, _rest = info.filename.partition("/")
            if not slash:
                return None
            if first == _MAC_FOLDER:
                continue
            if first in {"", ".", ".."} or first != (top or first):
                return None
            top = first
        return top


class _Tar:
    """A tar, read once from front to back."""

    any_order = False

    def __init__(self, stream: "_Forward", raw: BinaryIO) -> None:
        self._stream = stream
        self.position = raw.tell
        self._tops: set[str] = set()
        self._file_at_top = False

    @property
    def top_level(self) -> str | None:
        """As in the protocol; the rule is stock's: a second folder, whatever its name, is one too many."""
        return None if self._file_at_top or len(self._tops) != 1 else next(iter(self._tops))

    def members(self) -> Iterator[Member]:
        # TarFile declares more of a file than reading uses (write, close).
        with tarfile.TarFile(fileobj=self._stream, mode="r") as archive:  # type: ignore[arg-type]  # see above
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # a million of them would fill the memory
                yield self._member(archive, info)
            if self._stream.last.strip(b"\0"):
                raise tarfile.ReadError("a header is damaged or cut off")
        self._stream.drain()

    def _member(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
        path = normalised(info.name)
        if path:
            top, slash, _rest = path.partition("/")
            self._tops.add(top)
            self._file_at_top |= not slash and not info.isdir()
        mode = stat.S_IMODE(info.mode)
        if info.isdir():
            return Member(info.name, path, Kind.FOLDER, mode)
        if info.issym() or info.islnk():
            kind = Kind.SYMLINK if info.issym() else Kind.HARDLINK
            return Member(info.name, path, kind, link=info.linkname)
        if not info.isfile():
            refuse(info.name, "is a device, pipe or socket")
        content = partial(_tar_pieces, archive, info)
        return Member(info.name, path, Kind.FILE, mode, info.size, pieces=content)


def _tar_pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    source = archive.extractfile(info)
    if source is None:
        refuse(info.name, "has no content")
    with source:
        while chunk := source.read(CHUNK):
            yield chunk


class _Forward:
    """A decompressed stream as tarfile reads it: forward only, counted, never much of it in memory."""

    def __init__(self, stream: _Readable, limits: ArchiveLimits, size: int, tick: Callable[[], None]) -> None:
        self._stream, self._size, self._tick = stream, size, tick
        # Headers, padding and long names come on top of the files' bytes.
        self._limits = replace(limits, total_bytes=limits.total_bytes + 4096 * limits.members)
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size > _LARGEST_HEADER:  # file data is asked for by the chunk
            raise UnsafeArchiveError(f"the archive has a header of {size} bytes")
        self.last = self._stream.read(size)
        self._position += len(self.last)
        self._limits.check(0, self._position, self._size)
        return self.last

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a member lies before its header")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            self._tick()

    def drain(self) -> None:
        """Reads to the end: only there do the compressed formats check their sums."""
        while self.read(CHUNK):
            self._tick()
