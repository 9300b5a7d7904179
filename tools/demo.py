"""The demo: a real Ray node on ray-envd, cold and again after a restart of the cluster.

``make demo`` runs it; ``make demo STOCK=1`` runs the same on stock Ray too. Everything is made in a temporary
folder and in one below .work, and both are gone at the end, as is every process, also after Ctrl-C. The exit
code is 1 if an answer was wrong, a second round was not a hit, or something was left behind.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemons import Daemon
from processes import NodeError, marked
from rays import ASK, ROOT, RayNode, install_ray
from rich.console import Console
from rich.table import Table

from ray_envd.agent.pb import admin_pb2
from ray_envd.cache.text import bytes_text

RAY = "2.60.0"
console = Console(highlight=False)


@dataclass(frozen=True)
class Env:
    """One runtime env: what is asked in it, and the right answer. Those of one ``step`` run at once."""

    name: str
    step: int
    code: str
    right: Any
    runtime_env: dict[str, Any]
    actor: bool = False


@dataclass
class Row:
    """What was measured for one env: seconds from submit to result, whether that was a hit, bytes on disk."""

    seconds: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    disk: int = 0


def environments(folder: Path) -> list[Env]:
    """The demo's envs; a working_dir is made in the folder."""
    work = folder / "work"
    work.mkdir()
    (work / "data.txt").write_text("forty-two")
    version = "import cowsay, importlib.metadata; answer = importlib.metadata.version('cowsay')"
    # Eager installation would begin before the clock does.
    lazy = {"config": {"eager_install": False}}
    return [
        Env(
            "env_vars",
            1,
            "import os; answer = os.environ['GREETING']",
            "hello",
            {"env_vars": {"GREETING": "hello"}},
        ),
        Env(
            "working_dir",
            2,
            "answer = open('data.txt').read()",
            "forty-two",
            {"working_dir": str(work), **lazy},
        ),
        Env("pip: cowsay 6.1", 3, version, "6.1", {"pip": ["cowsay==6.1"]}),
        Env("uv: cowsay 6.0", 3, version, "6.0", {"uv": ["cowsay==6.0"]}),
        Env(
            "actor: pip, vars",
            4,
            version,
            "6.1",
            {"pip": ["cowsay==6.1"], "env_vars": {"A": "1"}},
            actor=True,
        ),
    ]


class Stage:
    """A node, the daemon below it (None: stock), and what was measured on them."""

    def __init__(self, node: RayNode, daemon: Daemon | None, envs: Sequence[Env]) -> None:
        self.node, self.daemon, self.envs = node, daemon, envs
        self.rows = {env.name: Row() for env in envs}
        self.wrong: list[str] = []

    def play(self) -> None:
        """Two rounds, and a restart between them."""
        for number in (1, 2):
            self._say(f"round {number}: starting Ray {RAY}")
            self.node.start()
            for step in sorted({env.step for env in self.envs}):
                self._step([env for env in self.envs if env.step == step])
            self.node.stop()

    def _say(self, text: str) -> None:
        console.print(f"[dim]{'ray-envd' if self.daemon else 'stock'}[/]  {text}")

    def _step(self, envs: list[Env]) -> None:
        before = self._look()
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(self._drive, envs))
        after = self._look()
        hit = after["work"] == before["work"]
        for env, answer in zip(envs, answers, strict=True):
            row = self.rows[env.name]
            row.seconds.append(answer["seconds"])
            row.hits.append(hit)
            row.disk += sum(size for key, size in after["disk"].items() if key not in before["disk"]) // len(
                envs
            )
            if answer.get("value") != env.right:
                found = answer.get("value", answer.get("message"))
                self.wrong.append(f"{env.name}: {found!r} is not {env.right!r}")
            elif self.daemon and len(row.hits) > 1 and not hit:
                self.wrong.append(f"{env.name}: not a hit after the restart")
            self._say(f"  {env.name}: {answer['seconds']:.1f} s")

    def _drive(self, env: Env) -> dict[str, Any]:
        """Runs one env's driver, a job of its own; working_dir is for whole jobs."""
        whole = "working_dir" in env.runtime_env
        asked = {"code": env.code, "actor": env.actor, "runtime_env": None if whole else env.runtime_env}
        init = {"address": self.node.address, "log_to_driver": False, "logging_level": "ERROR"}
        if whole:
            init["runtime_env"] = env.runtime_env
        (answer,) = self.node.run(ASK, {"init": init, "asks": [asked]}).value
        return dict(answer)

    def _look(self) -> dict[str, Any]:
        """What was built so far, and what lies on the disk."""
        if self.daemon is None:
            places = [*self.node.folder.glob("session_2*/runtime_resources/*/*")]
            return {"work": None, "disk": {str(place): _bytes(place) for place in places}}
        stats = self.daemon.stats()
        with self.daemon.admin() as admin:
            objects = admin.List(admin_pb2.ListRequest()).objects
        return {
            "work": (stats.builds, stats.misses),
            "disk": {each.id: each.exclusive_bytes for each in objects},
        }


def _bytes(place: Path) -> int:
    paths = [place, *place.rglob("*")]
    return sum(path.lstat().st_blocks * 512 for path in paths)


def table(title: str, played: Stage) -> Table:
    """What was measured on one kind of node."""
    made = Table(title=title, caption="seconds from submit to result; pip and uv ran at the same time")
    for heading in ("env", "first result", "after restart", "cache", "disk"):
        made.add_column(heading, justify="left" if heading in ("env", "cache") else "right", no_wrap=True)
    for name, row in played.rows.items():
        # Stock keeps nothing over a restart: it has built twice.
        cache = " → ".join("hit" if hit else "built" for hit in row.hits) if played.daemon else ""
        disk = row.disk if played.daemon else row.disk // 2
        made.add_row(name, *(f"{each:.1f} s" for each in row.seconds), cache, bytes_text(disk))
    return made


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """A short temporary folder, and one on the file system of uv's cache for Ray installations."""
    installs = ROOT / ".work" / f"demo-{os.getpid()}"
    short = Path(tempfile.mkdtemp(prefix="red-", dir="/tmp"))
    try:
        yield short, installs
    finally:
        # Whoever is impatient must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(short, ignore_errors=True)
        shutil.rmtree(installs, ignore_errors=True)


def stage(short: Path, installs: Path, envs: Sequence[Env], *, attached: bool) -> Stage:
    """Plays both rounds on one kind of node and leaves no process."""
    name = "e" if attached else "s"
    python = install_ray(RAY, installs / name)
    (short / name).mkdir()
    daemon = Daemon.at(short / name) if attached else None
    environment = {"RAY_ENVD_SOCKET": str(daemon.socket)} if daemon else {}
    node = RayNode(python, short / name / "r", environment)
    made = Stage(node, daemon, envs)
    try:
        if daemon:
            subprocess.run(
                [sys.executable, "-m", "ray_envd", "attach", "--python", python],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            daemon.start()
            console.print(f"[dim]ray-envd[/]  daemon {daemon.pid} on a fresh store, Ray {RAY} attached")
        made.play()
    finally:
        node.stop()
        if daemon:
            daemon.stop()
    return made


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stock", action="store_true", help="run the same on stock Ray, to compare")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGHUP, _interrupted)
    try:
        with folders() as (short, installs):
            envs = environments(short)
            ours = stage(short, installs, envs, attached=True)
            stock = stage(short, installs, envs, attached=False) if arguments.stock else None
    except KeyboardInterrupt:
        console.print("interrupted; everything was ended and removed")
        return 130
    except NodeError as error:
        console.print(f"[red]{error}[/]", markup=False)
        return 1
    console.print(table(f"Ray {RAY} on ray-envd", ours))
    if stock:
        console.print(table(f"Ray {RAY} on its own agent, same machine", stock))
    left = [pid for each in (ours, stock) if each for pid in marked(each.node.mark)]
    wrong = [*ours.wrong, *(stock.wrong if stock else []), *(f"process {pid} is left" for pid in left)]
    wrong += [f"{path} is left" for path in (short, installs) if path.exists()]
    for line in wrong:
        console.print(f"[red]wrong:[/] {line}")
    if not wrong:
        console.print("every answer right, every second round a hit, nothing left behind")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
