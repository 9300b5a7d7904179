"""Putting the link in place of Ray's runtime-env agent, and taking it away again.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd import __version__
from ray_envd.agent.link import SETTINGS_NAME, STOCK_NAME
from ray_envd.cache.owner import Owner, acting_as

#: The first and the last minor version of Ray whose agent this link is known to stand in for.
OLDEST, NEWEST = (2, 49), (2, 60)
START_SECONDS, RESTART_SECONDS = 10.0, 20.0

_LINK = Path(__file__).with_name("link.py")
_AGENT = Path("_private", "runtime_env", "agent")
_MAIN = "main.py"
_MARK = b"The link: what a raylet runs in place of Ray's runtime-env agent."
_PROBE_SECONDS = 60.0
_MOST_PATH_BYTES = 107  # sun_path of unix(7), less its final NUL
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


@dataclass(frozen=True, slots=True)
class AttachReport:
    """What attach or detach did. ``changed`` is False where everything was as asked already."""

    python: Path
    agent_dir: Path
    ray_version: str
    changed: bool
    action: str


@dataclass(frozen=True, slots=True)
class Status:
    """How an interpreter's Ray stands.

    Attributes:
        attached: raylets of this Ray run the link.
        known: this version of Ray is one that attach accepts without force.
        link_version: version of ray-envd that attached it; None where it is not attached.
        current: the link is the very one of this ray-envd.
        stock_kept: Ray's own agent is there, to fall back on and for detach.
        socket: the daemon's socket for links; None: the default of whoever runs the raylet.
        daemon: how the link starts a daemon; None: it is supervised.
        advice: what to do; empty where nothing is.
    """

    python: Path
    agent_dir: Path
    ray_version: str
    known: bool
    attached: bool
    link_version: str | None
    current: bool
    stock_kept: bool
    socket: Path | None
    daemon: tuple[str, ...] | None
    advice: str


def attach(
    python: Path, *, socket: Path | None, daemon: list[str] | None, force: bool = False
) -> AttachReport:
    """Makes the raylets of this interpreter's Ray run the link. Blocking; may be repeated.

    Args:
        python: the interpreter that runs Ray.
        socket: the daemon's socket for links (its control socket's path + ``.link``); None: at run time,
            the system's daemon where one listens, else the default of the user who runs the raylet.
        daemon: argv that starts a daemon where none answers; None where a supervisor does that. It is
            told its socket by RAY_ENVD_SOCKET, so it must not name another.
        force: also for a version of Ray that is not known.

    Raises:
        AttachError: see its message and remedy.
    """
    _check(socket, daemon)
    agent_dir, version = _find(python)
    if not force and not _known(version):
        raise AttachError(
            f"Ray {version} is not one of the versions that ray-envd {__version__} knows"
            f" ({_dotted(OLDEST)} to {_dotted(NEWEST)})",
            "upgrade ray-envd, or use --force and try it on a node that you can spare",
        )
    settings: dict[str, Any] = {
        "version": __version__,
        "socket": None if socket is None else str(socket),
        "daemon": daemon,
        "ray_version": version,
        "start_seconds": START_SECONDS,
        "restart_seconds": RESTART_SECONDS,
    }
    with _writing(agent_dir) as files:
        action = files.put_link(json.dumps(settings, indent=1).encode() + b"\n")
    return AttachReport(python, agent_dir, version, action != "unchanged", action)


def detach(python: Path) -> AttachReport:
    """Restores Ray's own agent, byte for byte. Blocking; may be repeated.

    Raises:
        AttachError: see its message and remedy.
    """
    agent_dir, version = _find(python)
    with _writing(agent_dir) as files:
        action = files.take_link()
    return AttachReport(python, agent_dir, version, action != "unchanged", action)


def status(python: Path) -> Status:
    """Looks, and changes nothing. Blocking.

    Raises:
        AttachError: no such interpreter, or no Ray in it.
    """
    agent_dir, version = _find(python)
    main = (agent_dir / _MAIN).read_bytes()
    attached = _is_link(main)
    settings = _settings(agent_dir) if attached else {}
    link_version = settings.get("version")
    current = main == _LINK.read_bytes() and link_version == __version__
    stock_kept = (agent_dir / STOCK_NAME).is_file()
    socket, daemon = settings.get("socket"), settings.get("daemon")
    advice = _advice(
        attached=attached,
        current=current,
        stock_kept=stock_kept,
        same_ray=settings.get("ray_version") == version,
    )
    return Status(
        python=python,
        agent_dir=agent_dir,
        ray_version=version,
        known=_known(version),
        attached=attached,
        link_version=str(link_version) if link_version else None,
        current=current,
        stock_kept=stock_kept,
        socket=Path(socket) if socket else None,
        daemon=tuple(daemon) if daemon else None,
        advice=advice,
    )


def _advice(*, attached: bool, current: bool, stock_kept: bool, same_ray: bool) -> str:
    if not attached and stock_kept:
        return "Ray was installed anew after it was attached: run `ray-envd attach` again"
    if not attached:
        return "run `ray-envd attach`"
    if not stock_kept:
        return "Ray's own agent is missing: install Ray again, then run `ray-envd attach`"
    if not current or not same_ray:
        return "the link is of another version: run `ray-envd attach` again"
    return ""


def _check(socket: Path | None, daemon: list[str] | None) -> None:
    if socket is not None and (not socket.is_absolute() or len(os.fsencode(socket)) > _MOST_PATH_BYTES):
        raise AttachError(
            f"{socket} cannot be the path of a socket",
            f"use an absolute path of at most {_MOST_PATH_BYTES} bytes",
        )
    if daemon is not None and not (daemon and Path(daemon[0]).is_absolute()):
        raise AttachError(
            "the daemon's program is not an absolute path",
            "a raylet has another PATH: name the program in full",
        )


def _known(version: str) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and OLDEST <= (int(match[1]), int(match[2])) <= NEWEST


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _find(python: Path) -> tuple[Path, str]:
    """The folder of the agent, and Ray's version, as the interpreter itself would find them."""
    origin = _ask(python)
    if origin is None:
        raise AttachError(
            f"{python} has no Ray", "name the interpreter that runs `ray start`, with --python PATH"
        )
    package = Path(origin).parent
    agent_dir = package / _AGENT
    if not (agent_dir / _MAIN).is_file():
        raise AttachError(
            f"Ray in {package} has no {_AGENT / _MAIN}",
            f"ray-envd knows Ray {_dotted(OLDEST)} to {_dotted(NEWEST)}; install one of them",
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


def _is_link(main: bytes) -> bool:
    return _MARK in main[:1024]


def _settings(agent_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((agent_dir / SETTINGS_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _writing(agent_dir: Path) -> Iterator["_Files"]:
    """The files of one Ray, in the hands of the user to whom they belong; failures become AttachError."""
    about = agent_dir.stat()
    # Root acts as the owner: a user's folder may hold whatever that user likes.
    owner = Owner.of(about.st_uid, about.st_gid) if os.geteuid() == 0 else Owner.current()
    files = _Files(agent_dir, _LINK.read_bytes())
    try:
        with acting_as(owner):
            yield files
    except OSError as error:
        raise AttachError(
            f"{agent_dir} cannot be changed: {error.strerror}",
            "run this as the user who installed Ray, or with sudo; in an image, while it is built",
        ) from error


class _Files:
    """What attach and detach do to one agent's folder."""

    def __init__(self, agent_dir: Path, link: bytes) -> None:
        self._dir, self._link = agent_dir, link
        self._main, self._stock = agent_dir / _MAIN, agent_dir / STOCK_NAME

    def put_link(self, settings: bytes) -> str:
        """Returns "attached", "updated" or "unchanged"."""
        main = self._main.read_bytes()
        was_link = _is_link(main)
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
        was_link = _is_link(self._main.read_bytes())
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
