"""Packages unpacked for a session's workers, the large files of them while they are still coming."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.fetch import package_name
from ray_envd.agent.packages import archive_path
from ray_envd.agent.trees import Trees
from ray_envd.cache.archive import Ahead, ArchiveLimits, unpack
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.store import Entry

#: Bytes of a package from which on its unpacking begins before it is here.
_LARGE = 8 * 1024**2


class Coming:
    """Unpacks the large files of a package that is being fetched. On the event loop, but for its threads."""

    def __init__(self, folder: Path, owner: Owner, limits: ArchiveLimits) -> None:
        self._folder, self._owner, self._limits = folder, owner, limits
        self._ahead: Ahead | None = None
        self._has_more = self._is_closed = False
        self._work: asyncio.Future[None] | None = None

    def heard(self, archive: Path, done: int) -> None:
        """So many bytes of the archive have come. If the fetch starts over, the second file is left alone."""
        if done < _LARGE or self._is_closed:
            return
        if self._ahead is None:
            self._ahead = Ahead(archive, self._folder, self._limits)
        self._has_more = True
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(self._advance(self._ahead))

    async def _advance(self, ahead: Ahead) -> None:
        while self._has_more and not self._is_closed:
            self._has_more = False
            await asyncio.to_thread(self._as_owner, ahead.advance, lambda: self._is_closed)

    async def settled(self) -> Ahead | None:
        """What was unpacked, no thread's any more."""
        if self._work is not None:
            await asyncio.wait({self._work})
        return self._ahead

    async def close(self) -> None:
        """Drops what nobody took."""
        self._is_closed = True
        ahead = await self.settled()
        if ahead is not None:
            await asyncio.to_thread(ahead.close)

    def _as_owner(self, work: Callable[..., None], *words: object) -> None:
        with acting_as(self._owner):
            work(*words)


class Unpacker:
    """Makes a tree of an archive of the store, once per session, because workers write into it."""

    def __init__(self, trees: Trees, limits: ArchiveLimits) -> None:
        self._trees, self._limits = trees, limits

    @asynccontextmanager
    async def coming(self, uri: str, bench: Bench, field: str) -> AsyncIterator[Coming]:
        """For the block, what unpacks the package that a URI names while it is fetched for this bench."""
        path = self._trees.path(bench.session, field, package_name(uri, field))
        coming = Coming(path.parent, bench.session.owner, self._limits)
        if path.suffix == ".whl":  # is installed
            await coming.close()
        try:
            yield coming
        finally:
            await to_the_end(coming.close())

    async def tree(self, uri: str, entry: Entry, coming: Coming, bench: Bench, field: str) -> Path:
        """The session's tree of the package that a URI names, as it was packed or in use.

        Raises:
            ArchiveError: the archive is damaged or unsafe; nothing is left of it.
            EnvError: the disk.
        """
        make = partial(
            _unpack,
            archive_path(entry),
            self._limits,
            await coming.settled(),
            # What Ray's own drivers upload has no folder around it.
            strip_top_level=not uri.startswith("gcs://"),
        )
        return await self._trees.obtain(
            bench.session, field, package_name(uri, field), entry.key.digest, make, bench.reporter(field)
        )


def _unpack(
    archive: Path,
    limits: ArchiveLimits,
    ahead: Ahead | None,
    path: Path,
    stopped: Callable[[], bool],
    *,
    strip_top_level: bool,
) -> int:
    done = unpack(
        archive, path, strip_top_level=strip_top_level, limits=limits, ahead=ahead, cancelled=stopped
    )
    return done.bytes
