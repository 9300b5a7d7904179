"""Packages unpacked for a session's workers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.fetch import package_name
from ray_envd.agent.packages import archive_path
from ray_envd.agent.trees import Trees
from ray_envd.cache.archive import ArchiveLimits, unpack
from ray_envd.cache.store import Entry


class Unpacker:
    """Makes a tree of an archive of the store, once per session, because workers write into it."""

    def __init__(self, trees: Trees, limits: ArchiveLimits) -> None:
        self._trees, self._limits = trees, limits

    async def tree(self, uri: str, entry: Entry, bench: Bench, field: str) -> Path:
        """The session's tree of the package that a URI names, as it was packed or in use.

        Raises:
            ArchiveError: the archive is damaged or unsafe; nothing is left of it.
            EnvError: the disk.
        """
        make = partial(
            _unpack,
            archive_path(entry),
            self._limits,
            # What Ray's own drivers upload has no folder around it.
            strip_top_level=not uri.startswith("gcs://"),
        )
        return await self._trees.obtain(
            bench.session, field, package_name(uri, field), entry.key.digest, make, bench.reporter(field)
        )


def _unpack(
    archive: Path, limits: ArchiveLimits, path: Path, stopped: Callable[[], bool], *, strip_top_level: bool
) -> int:
    return unpack(archive, path, strip_top_level=strip_top_level, limits=limits, cancelled=stopped).bytes
