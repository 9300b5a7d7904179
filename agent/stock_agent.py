"""Ray's runtime-env agent as an interpreter has it on disk, and what replaces it.

In ``<site-packages>/ray/_private/runtime_env/agent/``: ``main.py`` becomes the link's script, Ray's own is
kept as ``_ray_stock_main.py``, ``ray_envd_link.json`` holds the link's settings, and a folder
``ray_envd_link_…`` its modules with bytecode for each kind of Python that was attached. ``main.py`` is
replaced last and restored first, each by a rename, and the modules of another version have a folder of
another name, so that whenever it is interrupted a raylet finds one or the other whole. Nothing is ever
written through an existing file: installers link one file into many environments.

The script that is replaced was compared in every minor version from 2.49 to 2.60.
"""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_envd.agent.link.script import PACKAGE, SETTINGS_NAME, STOCK_NAME, is_whole
from ray_envd.agent.link_files import Bytecode, LinkFiles
from ray_envd.agent.rays_python import MAIN, AttachError
from ray_envd.cache.owner import Owner, acting_as

_MARK = b"The link: what a raylet runs in place of Ray's runtime-env agent."


def is_link(main: bytes) -> bool:
    """Whether this is a link's text, of whatever version."""
    return _MARK in main[:1024]


def settings_of(agent_dir: Path) -> dict[str, Any]:
    """The link's settings beside it; none if they cannot be read."""
    try:
        found = json.loads((agent_dir / SETTINGS_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def writing(agent_dir: Path) -> Iterator["AgentFiles"]:
    """The files of one Ray, in the hands of the user to whom they belong; failures become AttachError."""
    about = agent_dir.stat()
    # Root acts as the owner: a user's folder may hold whatever that user likes.
    owner = Owner.of(about.st_uid, about.st_gid) if os.geteuid() == 0 else Owner.current()
    files = AgentFiles(agent_dir)
    try:
        with acting_as(owner):
            yield files
    except OSError as error:
        raise AttachError(
            f"{agent_dir} cannot be changed: {error.strerror}",
            "run this as the user who installed Ray, or with sudo; in an image, while it is built",
        ) from error


class AgentFiles:
    """What attach and detach do to one agent's folder."""

    def __init__(self, agent_dir: Path) -> None:
        self._dir = agent_dir
        self._main, self._stock = agent_dir / MAIN, agent_dir / STOCK_NAME

    def put_link(self, link: LinkFiles, bytecode: Bytecode, settings: bytes) -> str:
        """Returns "attached", "updated" or "unchanged"."""
        main = self._main.read_bytes()
        was_link = is_link(main)
        if was_link and not self._stock.is_file():
            raise AttachError(
                f"{self._main} is a link already, and Ray's own agent is not beside it",
                "install Ray again (`pip install --force-reinstall --no-deps ray==…`), then attach",
            )
        if not was_link:
            # Also where there is one: it is of the Ray that was here before.
            self._replace(self._stock, main)
        package = self._dir / link.package
        wanted = {package / name: content for name, content in link.modules.items()}
        if not is_whole(os.fspath(package), bytecode.tag):
            wanted |= {package / name: content for name, content in bytecode.files.items()}
        wanted |= {self._dir / SETTINGS_NAME: settings, self._main: link.main}
        changed = [path for path, content in wanted.items() if not _holds(path, content)]
        for path in changed:
            self._replace(path, wanted[path])
        self._drop_packages(but=link.package)
        if not was_link:
            return "attached"
        return "updated" if changed else "unchanged"

    def take_link(self) -> str:
        """Returns "detached" or "unchanged"."""
        was_link = is_link(self._main.read_bytes())
        if was_link:
            if not self._stock.is_file():
                raise AttachError(
                    f"Ray's own agent is not in {self._dir}",
                    "install Ray again (`pip install --force-reinstall --no-deps ray==…`)",
                )
            self._stock.replace(self._main)
        for name in (STOCK_NAME, SETTINGS_NAME):
            (self._dir / name).unlink(missing_ok=True)
        self._drop_packages()
        return "detached" if was_link else "unchanged"

    def _drop_packages(self, but: str = "") -> None:
        for path in self._dir.glob(f"{PACKAGE}*"):
            if path.name != but:
                shutil.rmtree(path)

    def _replace(self, path: Path, content: bytes) -> None:
        """A new file with main.py's mode under that name, whole or not at all."""
        self._make(path.parent)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with aside.open("xb") as file:
                file.write(content)
                os.fchmod(file.fileno(), stat.S_IMODE(self._main.stat().st_mode))
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """A folder of ours with the mode of the agent's."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir()
            folder.chmod(stat.S_IMODE(self._dir.stat().st_mode))


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
