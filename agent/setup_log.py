"""The set-up log of a job: what Ray's driver shows its user while a runtime env is prepared.

Ray's log monitor follows ``runtime_env_setup-<job_id>.log`` in the cluster's log folder and sends new lines
to the job's driver. ``config.log_files`` names further files for the same lines. Writing happens in one
thread, as the session's owner; callers never wait.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.progress import Event
from ray_envd.agent.redaction import Redactor
from ray_envd.agent.sessions import Session
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Line:
    owner: Owner
    paths: tuple[Path, ...]
    text: str
    rotate_bytes: int
    rotate_count: int


class SetupLogWriter:
    """The thread that writes set-up logs. ``close`` writes what is queued."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Line | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="setup-log", daemon=True)
        self._thread.start()

    def put(self, line: _Line) -> None:
        """Queues a line. Loop-safe."""
        self._queue.put(line)

    def flushed(self) -> threading.Event:
        """An event that is set once everything queued so far is written."""
        event = threading.Event()
        self._queue.put(event)
        return event

    def close(self) -> None:
        """Writes the rest and ends the thread; blocking."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                with acting_as(item.owner):
                    for path in item.paths:
                        _append(path, item)
            except OSError as error:
                # The user's log folder may be gone or full; preparing the env goes on.
                _log.warning("cannot write a set-up log: %s", error)


def _append(path: Path, line: _Line) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        if line.rotate_bytes and os.fstat(descriptor).st_size + len(line.text) > line.rotate_bytes:
            os.close(descriptor)
            _rotate(path, line.rotate_count)
            descriptor = os.open(path, flags, 0o644)
        os.write(descriptor, line.text.encode())
    finally:
        os.close(descriptor)


def _rotate(path: Path, count: int) -> None:
    """Shifts path -> path.1 -> path.2 …, as logging.handlers.RotatingFileHandler does for stock."""
    for number in range(count - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    if count > 0:
        path.replace(path.with_name(f"{path.name}.1"))
    else:
        path.unlink()


class SetupLog:
    """The log of one request: job, files and what must be masked.

    Attributes:
        paths: where its lines go; requests of one job have the same.
    """

    def __init__(
        self,
        writer: SetupLogWriter,
        session: Session,
        job_id: str,
        log_files: Sequence[str],
        redact: Redactor,
    ) -> None:
        self._writer, self._session, self._redact = writer, session, redact
        self.paths, refused = self._resolve(job_id, log_files)
        for name in refused:
            self.write(
                f"config.log_files: {name!r} is outside of the log folder and is not written", "WARNING"
            )

    def _resolve(self, job_id: str, log_files: Sequence[str]) -> tuple[tuple[Path, ...], list[str]]:
        folder = self._session.log_dir
        if folder is None:
            return (), []
        paths, refused = [], []
        own = f"runtime_env_setup-{job_id}.log" if job_id.isalnum() else "runtime_env_setup.log"
        for name in dict.fromkeys([own, *(n for n in log_files if n)]):
            path = Path(os.path.normpath(folder / name))
            if folder in path.parents and "\0" not in name:
                paths.append(path)
            else:
                refused.append(name)
        return tuple(paths), refused

    def write(self, text: str, level: str = "INFO") -> None:
        """Writes one message, masked, in the format of Ray's own logs. Loop-safe."""
        if not self.paths:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now % 1 * 1000):03d}"
        body = self._redact(text).replace("\n", "\n    ")
        session = self._session
        line = f"{stamp}\t{level} ray-envd -- {body}\n"
        self._writer.put(
            _Line(session.owner, self.paths, line, session.rotate_bytes, session.rotate_count),
        )

    def event(self, event: Event) -> None:
        """Writes a step of a build; made to be given to ``Progress.listen``."""
        self.write(event.line())
