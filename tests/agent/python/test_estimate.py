"""What an environment will take, before anything of it is downloaded."""

import asyncio
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_world import Index, Kit, make_wheel

from ray_envd.agent.python.build import build
from ray_envd.agent.python.estimate import UNPACKED, Estimate, estimate, linked, local_bytes
from ray_envd.agent.python.resolve import resolve
from ray_envd.agent.python.spec import PackagesSpec, parse_pip

SIZES = {"large": 300_000, "small": 1000}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Two packages of known sizes."""
    served = Index()
    for name, size in SIZES.items():
        path = make_wheel(tmp_path / "served", name, "1.0")
        with zipfile.ZipFile(path, "a") as wheel:
            wheel.writestr(f"{name}/ballast", os.urandom(size))
        served.add(path)
    yield served
    served.close()


def spec_of(index: Index, *packages: str) -> PackagesSpec:
    """A pip field that knows this index only."""
    return parse_pip({"packages": [f"--index-url {index.url()}", *packages]})


async def ahead(kit: Kit, spec: PackagesSpec) -> list[Estimate]:
    """What is said before the download, if there is one; the environment is built."""
    request, work, shadow = await kit.request(spec), await kit.work(spec), await kit.shadow()
    lock = await resolve(request, work, shadow=shadow, file_digests={})
    found = []

    async def note(lock_file: Path) -> None:
        found.append(await estimate(len(lock.lines), request, work, shadow=shadow, lock_file=lock_file))

    await build(lock, request, work, shadow=shadow, target=kit.root / f"env{kit.count}", ahead=note)
    return found


async def test_sizes_come_from_the_index(kit: Kit, index: Index) -> None:
    """Of the wheels that are not in uv's cache; nothing is downloaded for it."""
    index.tells_sizes = True
    (both,) = await ahead(kit, spec_of(index, "large", "small"))
    files = {path.partition("-")[0].rpartition("/")[2]: len(data) for path, data in index.files.items()}
    assert both.downloads == sum(files.values())
    assert both.bytes == linked(2) + UNPACKED * both.downloads
    assert await ahead(kit, spec_of(index, "large", "small")) == []


async def test_what_is_cached_is_not_counted(kit: Kit, index: Index) -> None:
    """Only what is missing is downloaded."""
    index.tells_sizes = True
    (first,) = await ahead(kit, spec_of(index, "small"))
    (rest,) = await ahead(kit, spec_of(index, "large", "small"))
    sizes = sorted(len(data) for data in index.files.values())
    assert [first.downloads, rest.downloads] == sizes


async def test_where_the_index_tells_no_sizes_they_are_guessed(kit: Kit, index: Index) -> None:
    """A page of links has none."""
    (guess,) = await ahead(kit, spec_of(index, "large", "small"))
    assert guess.downloads == 2 * 2 * 1024**2


async def test_local_files_are_known_without_asking(kit: Kit, tmp_path: Path) -> None:
    """One that is named, and one in a folder until it is cached: not downloaded, yet they take bytes."""
    named, found = make_wheel(tmp_path / "named", "named", "1.0"), make_wheel(kit.wheels, "found", "1.0")
    make_wheel(kit.wheels, "found", "0.9", body="x" * 10_000)
    spec = kit.pip(str(named), "found==1.0")
    request, work, shadow = await kit.request(spec), await kit.work(spec), await kit.shadow()
    lock = await resolve(request, work, shadow=shadow, file_digests={})
    both = (named.stat().st_size + found.stat().st_size) * UNPACKED
    assert await asyncio.to_thread(local_bytes, lock, request, work) == both
    assert await ahead(kit, kit.pip("found==1.0")) == []
    assert await asyncio.to_thread(local_bytes, lock, request, work) == named.stat().st_size * UNPACKED
