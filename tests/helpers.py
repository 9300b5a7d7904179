"""Helpers for any test: waiting, tiny wheels, files in memory. Processes are in modules of ``tools/``."""

import base64
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import wait_until

__all__ = ["make_wheel", "open_folder", "quick_folder", "wait_until", "wheel_files"]


def make_wheel(
    folder: Path, name: str, version: str, *, source: str = "", requires: tuple[str, ...] = ()
) -> Path:
    """Writes a pure-Python wheel of one module, which knows its version, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as wheel:
        for path, text in wheel_files(name, version, source=source, requires=requires).items():
            wheel.writestr(path, text)
    return target


def wheel_files(
    name: str, version: str, *, source: str = "", requires: tuple[str, ...] = ()
) -> dict[str, str]:
    """What such a wheel holds, which is what stands in site-packages where it is installed."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f'__version__ = "{version}"\n{source}',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    return {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@contextmanager
def open_folder(prefix: str = "re-") -> Iterator[Path]:
    """A folder with a short name that every user can enter; it is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def quick_folder(room: int = 0) -> str | None:
    """A file system in memory with so many bytes left; None, the default of ``tempfile``, if there is none.

    For tests that kill, or mount an image from a file: there, waiting for the machine's disk is only a cost.
    """
    place = "/dev/shm"
    if os.access(place, os.W_OK | os.X_OK) and shutil.disk_usage(place).free >= room:
        return place
    return None
