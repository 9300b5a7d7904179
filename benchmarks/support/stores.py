"""A daemon's envs without a cluster: made, sealed, evicted, and what they take on disk."""

import contextlib
import os
import re
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daemons import Daemon
from processes import NodeError, wait_until
from rays import ROOT

from ray_envd.agent.client import Client, ClientError, Created
from ray_envd.agent.python.tools import our_uv
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout
from ray_envd.cache.sizes import BLOCK

#: What a large env holds: 200 MB of wheels; 680 MB and 8,300 files, unpacked.
PACKAGES = (
    "numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 scikit-learn==1.9.1 pyarrow==26.0.1 matplotlib==3.11.2"
    " polars==2.1.0"
)
#: A cache of uv that stays between runs.
WHEELS = ROOT / ".work" / "bench-wheels"
_SEALS = re.compile(r'^ray_envd_build_phase_seconds_sum\{kind="python",.*phase="seal"\} (\S+)$', re.MULTILINE)


class Envs:
    """Envs of one daemon on one interpreter."""

    def __init__(self, daemon: Daemon, python: Path) -> None:
        self.daemon, self.python = daemon, python
        self.layout = Layout(daemon.store)

    def give_wheels(self) -> None:
        """Lets the store's cache of uv know what :data:`WHEELS` holds; before the daemon starts."""
        clone_wheels(self.layout.user(os.getuid()).uv_cache)

    def create(self, env: Mapping[str, Any], *, hit: bool) -> Created:
        """The env through the admin API, in a new session.

        Raises:
            NodeError: it was built and should not have been, or the other way round.
        """
        with Client(self.daemon.socket) as client:
            for event in client.create(env, python=str(self.python)):
                if isinstance(event, Created):
                    if event.cache_hit is not hit:
                        raise NodeError(f"wanted {'a hit' if hit else 'a new env'}, got the other")
                    return event
        raise NodeError("the daemon said nothing")

    def folder(self, created: Created) -> Path:
        """Where the environment of an env stands."""
        return self.layout.object(_key(created))

    def next_seal(self) -> float:
        """Seconds that the next seal of an environment takes, by the daemon's own words; waits for it."""
        before = seal_seconds(self.daemon)
        wait_until(lambda: seal_seconds(self.daemon) > before, 120, "a seal", every=0.2)
        return seal_seconds(self.daemon) - before

    def evict(self) -> None:
        """Removes all environments; their interpreter's metadata and uv's cache stay."""
        evict(self.daemon, 30)


def seal_seconds(daemon: Daemon) -> float:
    """Seconds that a daemon has sealed environments since its start, by its own words."""
    with urllib.request.urlopen(f"{daemon.http}/metrics") as reply:
        return sum(map(float, _SEALS.findall(reply.read().decode())))


def evict(daemon: Daemon, within: float, *, but: str = "") -> None:
    """Removes a daemon's environments, in so many seconds; what else it has, uv's cache for one, stays.

    So does the environment whose summary begins with ``but``.
    """
    with Client(daemon.socket) as client:

        def gone() -> bool:
            left = [each for each in client.list().objects if each.kind == "python"]
            left = [each for each in left if not (but and each.summary.startswith(but))]
            for each in left:
                # A session or a worker that has just ended still holds it for a moment.
                with contextlib.suppress(ClientError):
                    client.remove(each.id)
            return not left

        wait_until(gone, within, "the removal of environments", every=0.01)


def _key(created: Created) -> ObjectKey:
    (found,) = (each for each in created.objects if each.startswith("python/"))
    return ObjectKey(os.getuid(), "python", found.partition("/")[2])


def disk_bytes(*paths: Path) -> int:
    """What files and folders take on disk together, each file once; du(1) counts."""
    words = ["du", "-sc", "--block-size=1", *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return int(done.stdout.splitlines()[-1].split()[0])


def folder_bytes(path: Path) -> int:
    """What the folders of a tree take, without their files."""
    folders = [path, *(each for each in path.rglob("*") if each.is_dir() and not each.is_symlink())]
    return sum(folder.lstat().st_blocks * BLOCK for folder in folders)


def clone_wheels(target: Path) -> None:
    """A cache of uv with the same files, linked, and folders of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", str(WHEELS), str(target)], check=True)


def fetch(packages: Sequence[str], python: Path, scratch: Path) -> None:
    """Sees to it that :data:`WHEELS` holds these packages and all that they need.

    Raises:
        NodeError: they cannot be had.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    environment = {**kept, "UV_CACHE_DIR": str(WHEELS), "UV_SYSTEM_CERTS": "1"}
    for words in (
        ["venv", "-q", "--python", str(python), str(scratch)],
        ["pip", "install", "-q", "--python", str(scratch / "bin" / "python"), *packages],
    ):
        done = subprocess.run(
            [our_uv(), *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NodeError(f"uv failed:\n{done.stderr}")
