"""Where packages come from: a cluster's own store, which a driver of it fills, and an object store."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from processes import NodeError
from rays import RayNode

HERE = Path(__file__).resolve().parent
_ANSWER = "TOLD "


class Uploads:
    """A driver of one cluster that uploads folders; see ``upload_driver.py``. It ends with its block."""

    def __init__(self, node: RayNode) -> None:
        self._process = node.spawn([HERE / "upload_driver.py"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def upload(self, folder: Path) -> str:
        """Packs a folder as it is now into the cluster's store; returns the URI."""
        return self._ask(f"upload {folder}")

    def seconds(self, uri: str) -> float:
        """How long Ray's own client takes until a package is in its memory."""
        return float(self._ask(f"get {uri}"))

    def _ask(self, question: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise NodeError("a driver without pipes")
        stdin.write(f"{question}\n")
        stdin.flush()
        seen = []
        for line in stdout:
            if line.startswith(_ANSWER):
                return line.removeprefix(_ANSWER).strip()
            seen.append(line)
        raise NodeError(f"the driver ended\n{''.join(seen)}")


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Serves the buckets of a folder as S3 does, in a process of its own; its address."""
    command: list[str | Path] = [sys.executable, "-I", HERE / "object_server.py", folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdin is None or server.stdout is None:
            raise NodeError("a server without pipes")
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
