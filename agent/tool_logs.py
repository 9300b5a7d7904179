"""The full output of tools that failed, for the user whose build it was; the newest are kept."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ray_envd.agent.process import Completed
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)
#: A failing env is tried again and again for as long as somebody wants it; its logs must not fill the disk.
_KEPT = 200


def save_log(path: Path, argv: Sequence[str], completed: Completed, owner: Owner) -> str:
    """Writes what a tool said, removes the oldest of the folder's logs, and returns the path; blocking.

    Where it cannot be written (a full disk may be why the tool failed) the daemon's log says so, and the
    path is empty. Pass lines that are already redacted.
    """
    text = "\n".join((f"$ {' '.join(argv)}", *completed.lines, f"exit code {completed.returncode}", ""))
    with acting_as(owner):
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_oldest(path.parent, _KEPT - 1)
            path.write_text(text)
        except OSError as error:
            _log.warning("a tool's log cannot be written: %s", error)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return ""
    return str(path)


def _remove_oldest(folder: Path, kept: int) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries]
    for _, path in sorted(found)[: max(0, len(found) - kept)]:
        Path(path).unlink(missing_ok=True)
