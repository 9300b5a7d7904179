"""A daemon's envs without a cluster: made, sealed, evicted, and what they take on disk."""

import contextlib
import os
import re
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemons import Daemon
from processes import NodeError, wait_until

from ray_envd.agent.client import Client, ClientError, Created
from ray_envd.agent.python.tools import our_uv
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout

_SEALS = re.compile(r'^ray_envd_build_phase_seconds_sum\{kind="python",.*phase="seal"\} (\S+)$', re.MULTILINE)


class Envs:
    """Envs of one daemon on one interpreter."""

    def __init__(self, daemon: Daemon, python: Path) -> None:
        self.daemon, self.python = daemon, python
        self.layout = Layout(daemon.store)

    def give_wheels(self, cache: Path) -> None:
        """Lets the store's cache of uv know what another one does; before the daemon starts."""
        clone_cache(cache, self.layout.user(os.getuid()).uv_cache)

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

    def sealed(self, created: Created, deadline: float = 120.0) -> Path:
        """The same, once nothing is added to it any more."""
        key = _key(created)
        manifest = self.layout.manifests / str(key.owner) / key.kind / f"{key.digest}.0.json.z"
        wait_until(manifest.exists, deadline, "the seal of an environment", every=0.1)
        wait_until(lambda: not list(self.layout.markers.rglob("*.new")), 5, "its marker")
        return self.folder(created)

    def seal_seconds(self) -> float:
        """What all seals of environments have taken since the daemon started; its own words."""
        with urllib.request.urlopen(f"{self.daemon.http}/metrics") as reply:
            return sum(map(float, _SEALS.findall(reply.read().decode())))

    def evict(self) -> None:
        """Removes all environments; their interpreter's metadata and uv's cache stay."""
        with Client(self.daemon.socket) as client:

            def gone() -> bool:
                left = [each for each in client.list().objects if each.kind == "python"]
                for each in left:
                    # A session that has just ended still holds it for a moment.
                    with contextlib.suppress(ClientError):
                        client.remove(each.id)
                return not left

            wait_until(gone, 30, "the environments' removal", every=0.01)


def _key(created: Created) -> ObjectKey:
    (found,) = (each for each in created.objects if each.startswith("python/"))
    return ObjectKey(os.getuid(), "python", found.partition("/")[2])


def disk_bytes(folder: Path) -> int:
    """What a folder takes on disk, each file once; du(1) counts."""
    done = subprocess.run(
        ["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=False
    )
    return int(done.stdout.split()[0])


def clone_cache(cache: Path, target: Path) -> None:
    """A cache of uv with the same files, linked, and folders of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", str(cache), str(target)], check=True)


def fetch(packages: list[str], python: Path, cache: Path, scratch: Path) -> None:
    """Sees to it that a cache of uv holds these packages and all that they need.

    Raises:
        NodeError: they cannot be had.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    environment = {**kept, "UV_CACHE_DIR": str(cache), "UV_SYSTEM_CERTS": "1"}
    for words in (
        ["venv", "-q", "--python", str(python), str(scratch)],
        ["pip", "install", "-q", "--python", str(scratch / "bin" / "python"), *packages],
    ):
        done = subprocess.run(
            [our_uv(), *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NodeError(f"uv failed:\n{done.stderr}")
