"""How many bytes an environment will take, asked before anything is downloaded.

uv knows how large files are where the index says so (PEP 700, ``size``; PyPI does) and tells it in a
``pylock.toml`` (PEP 751), made from the metadata that resolving has just cached: some 100 ms, no request.
What has no size there is guessed; uv tells it when it begins to download (``Downloading numpy (15.6MiB)``),
still before most of it has come.
"""

import asyncio
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.python import uv
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.resolve import Lock
from ray_envd.agent.python.shadow import shadow_python
from ray_envd.agent.python.tools import Work
from ray_envd.agent.python.uv_cache import has
from ray_envd.cache.owner import acting_as

#: An unpacked wheel against the file: of 19 common ones, from 2.0 (botocore) to 5.2 (Django), 3.3 for all
#: together.
UNPACKED = 4
#: What an environment takes for a package whose files are all linked: folders, and what is written anew.
#: Measured: 4 KiB a folder, 50 to 250 folders a package.
_LINKS = 512 * 1024
_BASE = 1024 * 1024
_UNKNOWN = 2 * 1024**2  # a file of unknown size; the median of PyPI's wheels is smaller


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is ahead.

    Attributes:
        downloads: bytes that will be fetched.
        bytes: that they, unpacked, and the environment will take.
    """

    downloads: int
    bytes: int


def linked(packages: int) -> int:
    """The bytes of an environment of so many packages whose files are in uv's cache."""
    return _BASE + _LINKS * packages


def local_bytes(lock: Lock, request: Request, work: Work) -> int:
    """What wheels and sources in local files will take, which are unpacked without any download; blocking."""
    with acting_as(work.owner):
        total = sum(_file_bytes(each.local) for each in request.requirements if each.local is not None)
        for name, version in lock.pins:
            files = request.options.sources.local_files(name, version)
            if files and not has(work.tools.cache_dir, name, version):
                total += max(map(_file_bytes, files))
    return total * UNPACKED


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else _UNKNOWN
    except OSError:
        return _UNKNOWN


async def estimate(lines: int, request: Request, work: Work, *, shadow: Path, lock_file: Path) -> Estimate:
    """What installing the lines of a file will take, as far as uv knows; nothing is fetched for it."""
    path = work.workdir / "pylock.toml"
    arguments = ["pip", "compile", "--offline", "--no-deps", "--no-header", "--quiet"]
    arguments += [
        "--format",
        "pylock.toml",
        "--output-file",
        str(path),
        "--python",
        str(shadow_python(shadow)),
    ]
    if request.field == "pip":
        arguments.append("--no-config")
    done = await uv.run(work, [*arguments, str(lock_file)], request.options.variables)
    if done.returncode:
        return _of([_UNKNOWN] * lines, lines)
    return _of(await asyncio.to_thread(_missing, work, path), lines)


def _of(sizes: Sequence[int], lines: int) -> Estimate:
    downloads = sum(sizes)
    return Estimate(downloads, linked(lines) + downloads * UNPACKED)


def _missing(work: Work, path: Path) -> list[int]:
    """The sizes of the files that are not in uv's cache."""
    with acting_as(work.owner):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return [
            _size(package, path.parent)
            for package in document.get("packages", ())
            if not has(work.tools.cache_dir, str(package["name"]), str(package.get("version", "")))
        ]


def _size(package: Mapping[str, Any], folder: Path) -> int:
    """The size of the file that uv would take: the first wheel of those that fit here, else what there is."""
    for file in _files(package):
        if isinstance(size := file.get("size"), int):
            return size
        if isinstance(path := file.get("path"), str):
            return _file_bytes(folder / path)
        return _UNKNOWN
    return _UNKNOWN


def _files(package: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from package.get("wheels", ())
    for kind in ("archive", "sdist"):
        if kind in package:
            yield package[kind]
