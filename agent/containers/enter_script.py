"""What runs first in a worker's container: it takes what ``launch_script.py`` sent and becomes the worker.

Runs under the *image's* interpreter, 3.9 or later: standard library only, no syntax newer than 3.9, nothing
of this project imported.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

CHANNEL = 3
_UNKNOWN = re.compile(r"\$\{[A-Z0-9_]+\}")


def received() -> dict[str, Any]:
    """What was sent; the descriptor ends here, the worker does not inherit it."""
    with open(CHANNEL, "rb") as file:
        return json.loads(file.read())  # type: ignore[no-any-return] # our own


def is_wanted(pid: int, ticks: int) -> bool:
    """Whether ``podman run`` is still there: a raylet that has given up this start has killed it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == ticks


def expand(value: str) -> str:
    """As Ray expands values of ``env_vars`` (``ray/_private/utils.py``, ``update_envs``)."""
    return _UNKNOWN.sub("", os.path.expandvars(value))


def be_killed_first(oom_score_adj: int) -> None:
    """As the raylet wants of its workers: where memory ends, it is not the raylet that is killed."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            if int(file.read()) < oom_score_adj:
                file.seek(0)
                file.write(str(oom_score_adj))
    except OSError:
        pass  # a container in which /proc cannot be written: the kernel chooses by size alone


def main() -> None:
    """Sets the environment, in order, goes where the worker starts and becomes it."""
    sent = received()
    if not is_wanted(*sent["parent"]):
        sys.exit("ray-envd: nobody waits for this worker any more")
    be_killed_first(sent["oom_score_adj"])
    os.environ.update(dict(sent["variables"]))
    for name, value in sent["expanded"]:
        os.environ[name] = expand(value)
    if sent["working_dir"] is not None:
        os.chdir(sent["working_dir"])
        os.environ["PWD"] = sent["working_dir"]
    command = sent["command"]
    if sent["expands"]:
        command = [os.path.expandvars(word) for word in command]
    os.execvp(command[0], [*command, *sent["arguments"]])  # noqa: S606 - a list, no shell wanted


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"ray-envd: the worker cannot be started in its container: {error}")
