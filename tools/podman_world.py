"""Podman with a storage and a configuration of its own, for tests and benchmarks.

Nothing in it helps podman to work on this machine: no OCI runtime is chosen and no limit set, which is what
ray-envd has to find out. The machine's own configuration plays no part, and everything ends with the world.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_image
from processes import NodeError, wait_until
from users import User

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
[storage.options]
additionalimagestores = [{stores}]
"""
_REGISTRY = """
[[registry]]
location = "{address}"
insecure = true
"""
#: Locks, events and exit files: podman's own are one folder for all storages of a user.
_ENGINE = """\
[engine]
tmp_dir = "{folder}/tmp"
events_logger = "file"
"""


@dataclass(frozen=True)
class PodmanWorld:
    """One storage with its configuration.

    Attributes:
        folder: holds all of it; a short path, since podman's sockets stand below.
        user: whose it is, if not this process's own.
    """

    folder: Path
    user: User | None = None

    @classmethod
    def make(
        cls, folder: Path, registries: Sequence[str] = (), *, small: bool = True, user: User | None = None
    ) -> "PodmanWorld":
        """Makes a world in a folder.

        Args:
            folder: is made.
            registries: ``host:port`` of those that speak plain HTTP.
            small: with the small image in it from the beginning, as ``localhost/small:latest``: in a store
                below that nobody writes to. Ordinary users have a copy, since podman's files are theirs.
            user: whose; root only. He goes with his world.
        """
        store = small_image.additional_store() if small and not user else None
        world = cls(folder, user)
        folder.mkdir(parents=True, exist_ok=True)
        stores = f'"{store}"' if store else ""
        for name, text in {
            "storage.conf": _STORAGE.format(folder=folder, stores=stores),
            "registries.conf": "unqualified-search-registries = []\n"
            + "".join(_REGISTRY.format(address=each) for each in registries),
            "containers.conf": _ENGINE.format(folder=folder),
            "auth.json": '{"auths": {}}',
        }.items():
            (folder / name).write_text(text)
        for path in (folder, *folder.iterdir()) if user else ():
            os.chown(path, user.uid, user.gid)
        if small and not store:
            world._load_small()
        return world

    def _load_small(self) -> None:
        """Some seconds."""
        # By a relative path: podman makes a name of it, and not every path can be one.
        image = self.podman("pull", "-q", f"oci:oci:{small_image.NAME}", cwd=small_image.FOLDER).strip()
        self.podman("tag", image, f"localhost/{small_image.NAME}:latest")
        self.podman("untag", image, "localhost/oci:latest")

    @property
    def variables(self) -> dict[str, str]:
        """What makes podman use this world; for the environment of daemons, raylets and podman."""
        return {
            **(self.user.variables if self.user else {}),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "REGISTRY_AUTH_FILE": str(self.folder / "auth.json"),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of ``subprocess`` for a process of its user."""
        return {"user": self.user.uid, "group": self.user.gid, "extra_groups": []} if self.user else {}

    def podman(self, *arguments: str, check: bool = True, cwd: Path | None = None) -> str:
        """Runs podman and returns its output.

        Raises:
            NodeError: it failed, with what it said.
        """
        done = subprocess.run(
            ["podman", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.variables},
            cwd=cwd or self.folder,
            check=False,
            **self.identity,
        )
        if check and done.returncode:
            raise NodeError(f"podman {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
        return done.stdout

    def containers(self) -> list[str]:
        """The names of all containers, running or not."""
        return [
            str(name)
            for each in json.loads(self.podman("ps", "-a", "--format=json") or "[]")
            for name in each["Names"]
        ]

    def images(self) -> list[str]:
        """The ids of the images that this storage has itself, not the store below."""
        listed = json.loads(self.podman("images", "-a", "--format=json"))
        return [str(each["Id"]) for each in listed if not each.get("ReadOnly")]

    def close(self) -> None:
        """Removes containers, mounts, files, and the user."""
        if (self.folder / "graph").exists():
            self.podman("rm", "--force", "--all", "--time", "0", check=False)
        if self.user:
            self.user.remove()
        wait_until(self._unmounted, 20, f"unmounted folders of {self.folder}", every=0.2)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unmounted(self) -> bool:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = [each for each in mounts if Path(each).is_relative_to(self.folder)]
        for each in reversed(ours):
            with contextlib.suppress(OSError):
                subprocess.run(["umount", each], stderr=subprocess.DEVNULL, check=False)
        return not ours
