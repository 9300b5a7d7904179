"""An ext4 of one's own in a file: with a journal, as nodes have it, and no other files. Only for root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from processes import wait_until


@contextlib.contextmanager
def ext4(folder: Path, gibibytes: int) -> Iterator[Path]:
    """A mounted file system for the block, at ``folder``, which must not exist; its file lies beside it.

    Raises:
        CalledProcessError, TimeoutError: it could not be made or unmounted.
    """
    image = folder.with_name(f"{folder.name}.image")
    with image.open("wb") as file:
        file.truncate(gibibytes * 1024**3)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(image)], check=True)
    folder.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:

        def unmounted() -> bool:
            return subprocess.run(["umount", str(folder)], check=False).returncode == 0

        # Whoever has just ended may still stand in it.
        wait_until(unmounted, 20, f"umount {folder}", every=0.5)
        image.unlink()
