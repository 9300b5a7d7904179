"""Ray's runtime-env agent as an interpreter has it on disk: where it is, and what replaces it.

Four files in ``<site-packages>/ray/_private/runtime_env/agent/``: ``main.py`` becomes our link, Ray's own is
kept as ``_ray_stock_main.py``, and ``ray_envd_link.json`` holds the link's settings. ``main.py`` is replaced
last and restored first, each by a rename, so that whenever it is interrupted a raylet finds one or the other
whole. Nothing is ever written through an existing file: installers link one file into many environments.

The script that is replaced was compared in every minor version from 2.49 to 2.60.
"""

import json
import os
import re
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_envd.agent.link import SETTINGS_NAME, STOCK_NAME
from ray_envd.cache.owner import Owner, acting_as

#: The first and the last minor version of Ray whose agent this link is known to stand in for.
_OLDEST, _NEWEST = (2, 49), (2, 60)
#: For people.
KNOWN_VERSIONS = "{}.{} to {}.{}".format(*_OLDEST, *_NEWEST)
#: Our own, to be copied.
LINK = Path(__file__).with_name("link.py")
_AGENT = Path("_private", "runtime_env", "agent")
MAIN = "main.py"
_MARK = b"The link: what a raylet runs in place of Ray's runtime-env agent."
_PROBE_SECONDS = 60.0
#: Where ray is, without importing it.
_PROBE = """
import importlib.util, json
spec = importlib.util.find_spec("ray")
print(json.dumps(spec.origin if spec and spec.has_location else None))
"""


class AttachError(Exception):
    """It cannot be done; ``remedy`` says what can."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


def is_known(version: str) -> bool:
    """Whether the link is known to stand in for the agent of this version of Ray."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and _OLDEST <= (int(match[1]), int(match[2])) <= _NEWEST


def find_agent(python: Path) -> tuple[Path, str]:
    """The folder of the agent, and Ray's version, as the interpreter itself would find them. Blocking.

    Raises:
        AttachError: no such interpreter, or no Ray in it.
    """
    origin = _ask(python)
    if origin is None:
        raise AttachError(
            f"{python} has no Ray", "name the interpreter that runs `ray start`, with --python PATH"
        )
    package = Path(origin).parent
    agent_dir = package / _AGENT
    if not (agent_dir / MAIN).is_file():
        raise AttachError(
            f"Ray in {package} has no {_AGENT / MAIN}",
            f"ray-envd knows Ray {KNOWN_VERSIONS}; install one of them",
        )
    match = re.search(r'^version = "([^"]+)"', (package / "_version.py").read_text(), re.MULTILINE)
    return agent_dir, match[1] if match else "unknown"


def _ask(python: Path) -> str | None:
    try:
        asked = subprocess.run(
            # Not -I: Ray may be in the user's own site-packages, and a raylet finds it there.
            [str(python), "-E", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            cwd="/",  # the caller's own folder is not where a raylet looks
            stdin=subprocess.DEVNULL,
            check=True,
        )
        origin = json.loads(asked.stdout)
    except OSError as error:
        raise AttachError(
            f"{python} cannot be run: {error.strerror}", "name an interpreter, in full"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines()[-1:]
        raise AttachError(f"{python} fails: {''.join(words)}", "is it a Python of 3.9 or later?") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise AttachError(
            f"{python} does not answer like a Python", "name an interpreter, in full"
        ) from error
    return None if origin is None else str(origin)


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
    files = AgentFiles(agent_dir, LINK.read_bytes())
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

    def __init__(self, agent_dir: Path, link: bytes) -> None:
        self._dir, self._link = agent_dir, link
        self._main, self._stock = agent_dir / MAIN, agent_dir / STOCK_NAME

    def put_link(self, settings: bytes) -> str:
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
        json_file = self._dir / SETTINGS_NAME
        same = was_link and main == self._link and json_file.is_file() and json_file.read_bytes() == settings
        if same:
            return "unchanged"
        self._replace(json_file, settings)
        self._replace(self._main, self._link)
        return "updated" if was_link else "attached"

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
        return "detached" if was_link else "unchanged"

    def _replace(self, path: Path, content: bytes) -> None:
        """A new file with main.py's mode under that name, whole or not at all."""
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with aside.open("xb") as file:
                file.write(content)
                os.fchmod(file.fileno(), stat.S_IMODE(self._main.stat().st_mode))
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
