"""What a raylet runs in place of a worker that belongs into a container: it becomes ``podman run``.

Runs under the *raylet's* interpreter, 3.9 or later: standard library only, no syntax newer than 3.9, nothing
of this project imported. ``plan.py`` writes it beside the plans, and says in the worker's context::

    PYTHON -I -S launch.py PLAN.json default_worker.py ARGUMENTS…

Everything that the worker is to know goes through a memory file that no other process can open, not through
arguments, labels or files: values arrive as they are, and nobody can read them on the way.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

#: The descriptor that ``--preserve-fds=1`` hands on: the first one after the standard streams.
CHANNEL = 3
#: Of this process's environment, which is the raylet's and what Ray adds for a worker.
PASSED = {
    "CUDA_VISIBLE_DEVICES", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "NVIDIA_VISIBLE_DEVICES",
    "ftp_proxy", "http_proxy", "https_proxy", "no_proxy",
}  # fmt: skip


def start_ticks() -> int:
    """When this process started, in clock ticks after boot (proc(5), field 22); it stays the same."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def variables() -> dict[str, str]:
    """Those of Ray, which its workers read, and others by name; the daemon's settings are not among them."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("RAY_") and not name.startswith("RAY_ENVD_")) or name in PASSED
    }


def payload(plan: dict[str, Any], arguments: list[str], ticks: int) -> bytes:
    """What the other end, ``enter_script.py``, reads."""
    if arguments and os.path.basename(arguments[0]) == "default_worker.py":  # noqa: PTH119 - quick to start
        arguments = [plan["worker_path"], *arguments[1:]]
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        oom_score_adj = int(file.read())
    return json.dumps(
        {
            "parent": [os.getpid(), ticks],
            "oom_score_adj": oom_score_adj,
            "variables": [*variables().items(), *plan["set"].items()],
            "expanded": list(plan["variables"].items()),
            "working_dir": plan["working_dir"],
            "command": plan["command"],
            "expands": plan["expands"],
            "arguments": arguments,
        }
    ).encode()


def send(content: bytes) -> None:
    """Makes the memory file the channel, at its beginning."""
    memory = os.memfd_create("ray-envd", 0)
    view = memoryview(content)
    while view:
        view = view[os.write(memory, view) :]
    os.lseek(memory, 0, os.SEEK_SET)
    if memory != CHANNEL:
        os.dup2(memory, CHANNEL)
        os.close(memory)
    os.set_inheritable(CHANNEL, True)


def leave_mark(plan: dict[str, Any], name: str) -> str:
    """Leaves the file by which the daemon finds the container, and what podman is here; returns its path."""
    os.makedirs(plan["marks"], 0o700, exist_ok=True)  # noqa: PTH103 - pathlib is slow to import
    mark = os.path.join(plan["marks"], name)  # noqa: PTH118 - as above
    with open(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump({"podman": plan["podman"], "environment": plan["environment"]}, file)
    return mark


def main(plan_path: str, arguments: list[str]) -> None:
    """Becomes ``podman run``."""
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    ticks = start_ticks()
    name = f"{plan['name']}-{os.getpid()}-{ticks}"
    content = payload(plan, arguments, ticks)
    own = ["run", "--name", name, f"--conmon-pidfile={leave_mark(plan, name)}.conmon"]
    send(content)
    argv = [*plan["podman"], *own, *plan["run"]]
    os.chdir(plan["marks"])  # where memory ends conmon leaves a file "oom" in the folder that it stands in
    os.execve(argv[0], argv, plan["environment"])  # noqa: S606 - a list, no shell wanted


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except OSError as error:
        sys.exit(f"ray-envd: a worker's container cannot be started: {error}")
