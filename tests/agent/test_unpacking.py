"""Packages that are unpacked while they are fetched."""

import asyncio
import os
import zipfile
from pathlib import Path

from ray_envd.agent.unpacking import Coming
from ray_envd.cache.archive import ArchiveLimits
from ray_envd.cache.owner import Owner

CONTENT = os.urandom(20 << 20)


def read(descriptor: int) -> bytes:
    """A file of which there may be no other way to its content."""
    return Path(f"/proc/self/fd/{descriptor}").read_bytes()


async def test_what_came_is_there_when_the_rest_is(tmp_path: Path) -> None:
    """Told of again and again, also while it works, it ends up with all of the archive."""
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "whole", "w") as whole:
        whole.writestr("large", CONTENT)
    data = (tmp_path / "whole").read_bytes()
    coming = Coming(folder, Owner.current(), ArchiveLimits())
    with archive.open("wb", buffering=0) as file:
        for begin in range(0, len(data), 1 << 20):
            file.write(data[begin : begin + (1 << 20)])
            coming.heard(archive, file.tell())
            await asyncio.sleep(0)
    ahead = await coming.settled()
    assert ahead is not None
    with zipfile.ZipFile(archive) as whole:
        descriptor = ahead.take(whole.infolist()[0])
    assert descriptor is not None
    assert await asyncio.to_thread(read, descriptor) == CONTENT
    os.close(descriptor)
    await coming.close()


async def test_a_request_that_ends_drops_it(tmp_path: Path) -> None:
    """Also in the middle of the work; what is heard after that is not heeded."""
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("large", CONTENT)
    coming = Coming(tmp_path / "folder", Owner.current(), ArchiveLimits())
    coming.heard(tmp_path / "archive", len(CONTENT))
    await coming.close()
    coming.heard(tmp_path / "archive", len(CONTENT))
    ahead = await coming.settled()
    assert ahead is not None
    with zipfile.ZipFile(tmp_path / "archive") as archive:
        assert ahead.take(archive.infolist()[0]) is None


async def test_small_packages_are_left_alone(tmp_path: Path) -> None:
    """A thread would take longer than unpacking them does."""
    coming = Coming(tmp_path / "folder", Owner.current(), ArchiveLimits())
    coming.heard(tmp_path / "archive", 1000)
    assert await coming.settled() is None
    await coming.close()
