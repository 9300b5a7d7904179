"""Unpacking archives that nobody vouches for: zip (jar, wheel), tar.gz, tar.bz2, tar.xz, tar.

Safety rests on one order of work: every file is written while the tree holds no link at all, into
folders that this module made itself; links come last, when all members are known, and each is checked
against the whole tree. So no member can be written "through" a link of an earlier one.

What differs from Ray's own unpacking (``ray/_private/runtime_env/packaging.py``): stock skips unsafe
members and every link of a tar with a warning, and writes a zip's symbolic link as a text file; here an
unsafe member refuses the archive, and links that stay inside the folder are made. Archives that Ray's
driver packs hold no links (it follows them), so both unpack those alike.

Call inside :func:`ray_envd.cache.owner.acting_as` where the tree belongs to another user.
"""

import errno
import lzma
import os
import secrets
import shutil
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ray_envd.cache.archive_members import (
    LONGEST_LINK,
    ArchiveLimits,
    Kind,
    Member,
    normalised,
    reader,
    refuse,
)
from ray_envd.cache.errors import StoreError, UnsafeArchiveError
from ray_envd.cache.unpack_ahead import Ahead
from ray_envd.cache.unpack_files import Files

__all__ = ["Ahead", "ArchiveLimits", "UnpackCancelledError", "Unpacked", "unpack"]

_PROGRESS_SECONDS = 0.2

#: What a damaged archive makes the standard library raise; an OSError is sorted out by its errno.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # a compression method or zip version that Python does not know
    RuntimeError,  # RecursionError on chained tar headers
    ValueError,  # numbers, encodings
    LookupError,
    OverflowError,
)


class UnpackCancelledError(StoreError):
    """``cancelled`` said yes; nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive gave: files (links count as such) and the bytes written."""

    files: int
    bytes: int


def unpack(
    archive: Path,
    target: Path,
    *,
    strip_top_level: bool,
    limits: ArchiveLimits | None = None,
    ahead: Ahead | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Unpacked:
    """Unpacks an archive into ``target``, which must not exist; blocking.

    It happens in a folder ``.unpack-*`` beside the target, renamed at the end: whoever sees the target
    sees all of it, and after a failure there is nothing (only a killed process leaves such a folder).
    The format is told by the content, not by the name. Permission bits are kept (0777; files at least
    u+rw, folders u+rwx), setuid, setgid, sticky, owners and times are not.

    Args:
        archive: the file.
        target: the folder to make.
        strip_top_level: leave out the one folder that holds everything, if there is such a one (in a zip
            a ``__MACOSX`` beside it is dropped), as stock does for every URI but ``gcs://``.
        limits: what is too much; the defaults of :class:`ArchiveLimits`.
        ahead: what was unpacked while the archive came, in the target's parent; the caller closes it.
        cancelled: asked often; true ends the work with :class:`UnpackCancelledError`.
        progress: bytes of the archive read so far and in all; called a few times a second.

    Raises:
        UnsafeArchiveError: with the member and the rule it breaks.
        UnpackCancelledError: as asked.
        FileExistsError: there is something at ``target``.
        OSError: the disk (no space, no permission).
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    scratch = target.with_name(f".unpack-{secrets.token_hex(8)}")
    scratch.mkdir(mode=0o700)
    try:
        with archive.open("rb") as raw:
            tree = _Tree(scratch, raw, limits or ArchiveLimits(), cancelled, progress)
            if ahead is not None and ahead.reads(raw.fileno()):
                ahead.advance(cancelled)
                tree.take = ahead.take
            base = tree.fill(strip_top_level=strip_top_level)
        base.chmod(0o755)
        base.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Unpacked(tree.files, tree.bytes)


class _Tree:
    """The folder under construction: what may be written where, and how much."""

    def __init__(
        self,
        root: Path,
        raw: BinaryIO,
        limits: ArchiveLimits,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> None:
        self.files = self.bytes = 0
        # Plain strings: with ten thousand files, making Path objects is most of the time.
        self._root, self._raw, self._limits = str(root), raw, limits
        self._cancelled, self._progress = cancelled, progress
        self._archive_bytes = os.fstat(raw.fileno()).st_size
        self._members = self._declared = self._done = 0
        self._next_progress = 0.0
        self._kinds: dict[str, Kind] = {"": Kind.FOLDER}
        self._links: list[Member] = []
        self._position: Callable[[], int] = lambda: 0
        #: What was unpacked ahead of a zip's member.
        self.take: Callable[[zipfile.ZipInfo], int | None] = lambda _info: None

    def fill(self, *, strip_top_level: bool) -> Path:
        """Unpacks everything; returns the folder that is to become the target."""
        try:
            source = reader(self._raw, self._limits, self._tick, strip=strip_top_level, ahead=self.take)
            self._position = source.position
            with Files(self._tick, any_order=source.any_order) as files:
                for member in source.members():
                    self._add(member, files)
                files.finish()
            self._make_links(source.top_level if strip_top_level else None)
        except _DAMAGE as error:
            raise UnsafeArchiveError(f"the archive is damaged: {error or type(error).__name__}") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UnsafeArchiveError("a member's name is longer than a file system allows") from error
            if error.errno is None:  # gzip and bz2 say so of bad data
                raise UnsafeArchiveError(f"the archive is damaged: {error}") from error
            raise
        self._progress(self._archive_bytes, self._archive_bytes)
        return Path(self._root)

    def _tick(self) -> None:
        """At every member and every chunk: cancellation and progress."""
        if self._cancelled():
            raise UnpackCancelledError("unpacking was cancelled")
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self._done = max(self._done, min(self._position(), self._archive_bytes))
            self._progress(self._done, self._archive_bytes)

    def _add(self, member: Member, files: Files) -> None:
        self._tick()
        self._members += 1
        self._declared += member.size
        self._limits.check(self._members, self._declared, self._archive_bytes)
        if member.kind is Kind.FOLDER:
            self._folder(member.path, member.name)
            if member.mode:
                os.chmod(self._at(member.path), (member.mode & 0o777) | 0o700)  # noqa: PTH101 - see __init__
            return
        if member.path in self._kinds:
            refuse(member.name, "comes twice" if member.path else "is the folder itself")
        self._folder(member.path.rpartition("/")[0], member.name)
        self._kinds[member.path] = member.kind
        self.files += 1
        if member.kind is Kind.FILE:
            files.add(member, self._at(member.path))
            self.bytes += member.size
        else:
            self._links.append(member)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _folder(self, path: str, name: str) -> None:
        """Makes a folder and those above it, for the member of this name."""
        missing = []
        while (kind := self._kinds.get(path)) is None:
            missing.append(path)
            path = path.rpartition("/")[0]
        if kind is not Kind.FOLDER:
            refuse(name, f"needs {path[:200]!r} to be a folder, which is {kind.value}")
        for new in reversed(missing):
            os.mkdir(self._at(new))  # noqa: PTH102 - see __init__
            os.chmod(self._at(new), 0o755)  # noqa: PTH101, S103 - as stock, whatever the umask
            self._kinds[new] = Kind.FOLDER

    def _make_links(self, top: str | None) -> None:
        prefix = ""
        if top is not None:
            # Under a name that nobody can guess: a link that leaves it does not come back by naming it.
            base = f"{self._root}/{secrets.token_hex(8)}"
            os.rename(self._at(top), base)  # noqa: PTH104 - see __init__
            self._root, prefix = base, f"{top}/"
        for member in self._links:
            path = member.path.removeprefix(prefix)
            if member.kind is Kind.HARDLINK:
                self._hard_link(member, path, prefix)
            else:
                self._symbolic_link(member, path)
        # Only now, with every link in place, is it known where each really leads.
        base = os.path.realpath(self._root)
        for member in self._links:
            end = os.path.realpath(self._at(member.path.removeprefix(prefix)))
            if end != base and not end.startswith(f"{base}/"):
                refuse(
                    member.name, f"is a link to {member.link[:200]!r}, outside of the folder by way of others"
                )

    def _hard_link(self, member: Member, path: str, prefix: str) -> None:
        source = normalised(member.link)
        if self._kinds.get(source) is not Kind.FILE:
            refuse(member.name, f"is a hard link to {member.link[:200]!r}, which is no file of the archive")
        os.link(self._at(source.removeprefix(prefix)), self._at(path), follow_symlinks=False)

    def _symbolic_link(self, member: Member, path: str) -> None:
        target = member.link
        if not target or "\0" in target or len(target) > LONGEST_LINK:
            refuse(member.name, "is a malformed symbolic link")
        if target.startswith("/") or _climbs_out(path.split("/")[:-1], target.split("/")):
            refuse(member.name, f"is a link to {target[:200]!r}, outside of the folder")
        os.symlink(target, self._at(path))  # noqa: PTH211 - see __init__


def _climbs_out(folder: list[str], parts: list[str]) -> bool:
    """Whether a way that starts in a folder of the tree leaves the tree at any point, word by word."""
    depth = len(folder)
    for part in parts:
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return False
