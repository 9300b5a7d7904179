"""Where packages come from in these tests: archives and servers on loopback."""

import contextlib
import secrets
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from daemons import Daemon
from fetch_servers import Request, WebServer
from package_world import make_project
from processes import marked
from raylet import Env

#: An environment of no package: what comes after it finds the interpreter known.
NOTHING: Env = {"pip": {"packages": [], "pip_install_options": ["--no-index"]}}


def make_zip(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """A package as Ray's driver makes it, or a worse one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class FileServer:
    """Serves files by their names.

    ``status`` makes each answer that error, ``gate`` delays it while it is closed, or what comes after the
    byte ``halt``; ``cut`` is the byte after which the connection breaks. Without ``tells_length`` a file ends
    where the connection does.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.status: int | None = None
        self.cut: int | None = None
        self.halt = 0
        self.tells_length = True
        self.gate = threading.Event()
        self.gate.set()
        self.server = WebServer(self._answer, certificate)
        self.url = self.server.url

    def add(self, path: Path) -> str:
        """Offers a file; returns its address."""
        self.files[path.name] = path.read_bytes()
        return f"{self.url}/{path.name}"

    @property
    def asked(self) -> list[str]:
        """The paths of all GETs so far."""
        return [seen.path for seen in self.server.seen if seen.method == "GET"]

    def close(self) -> None:
        """No more answers: connections are refused."""
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, request: Request) -> None:
        name = unquote(request.path.partition("?")[0].lstrip("/"))
        if request.command == "GET" and not self.halt:
            self.gate.wait(60)
        if self.status is not None:
            request.answer(b"broken", self.status)
        elif name in self.files and not self.tells_length:
            request.send_response(200)
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(self.files[name])
        elif name in self.files:
            content = self.files[name]
            first = content[: self.halt or self.cut]
            request.answer(first, length=len(content), ETag=f'"{hash(content)}"')
            if self.halt and request.command == "GET":
                request.wfile.flush()
                self.gate.wait(60)
                request.wfile.write(content[self.halt : self.cut])
        else:
            request.answer(b"not found", 404)


def left_over(store: Path) -> list[str]:
    """What unfinished work has left in a store: staged files, trash, objects without a marker."""
    found = [path for name in ("staging", "trash") for path in store.glob(f"users/*/{name}/*")]
    for path in store.glob("users/*/objects-v1/*/*"):
        uid, kind = path.parts[-4], path.parts[-2]
        digest, _, generation = path.name.partition(".")
        names = (f"{digest}.json", f"{digest}.{generation or 0}.damaged.json")
        if not any((store / "markers-v1" / uid / kind / name).exists() for name in names):
            found.append(path)
    return sorted(str(path.relative_to(store)) for path in found)


def http_of(daemon: Daemon) -> str:
    """Where the daemon's log says that it serves metrics."""
    return daemon.http


def descriptors(daemon: Daemon) -> int:
    """How many files, sockets and pipes a daemon has open, but for its database: a connection per thread."""
    count = 0
    for path in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += "catalog-v1" not in str(path.readlink())
    return count


#: Becomes a daemon: it leaves its session, its parent and its environment behind.
_ESCAPE = """
import os, sys
os.setsid()
if os.fork() == 0:
    # uv waits for the end of its backend's output, whoever holds it.
    for descriptor in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    os.execve(sys.executable, [sys.executable, "-c", *sys.argv[1:]], {})
"""
#: After the backend's own build_wheel.
_SLOWLY = """
import subprocess, sys, time
_at_once = build_wheel
def build_wheel(*arguments):
    with open({witness!r}, "a") as witness:
        witness.write("begun\\n")
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code, {mark!r}])
    if {escapes!r}:
        subprocess.run([sys.executable, "-c", {escape!r}, code, {mark!r}], check=True)
    time.sleep(float(open({seconds!r}).read()))
    child.kill()
    return _at_once(*arguments)
"""


class Slow:
    """A package whose build notes that it has begun, starts a child, and sleeps.

    One that ``escapes`` starts a daemon too, which has nothing of the build but its mark in its arguments.
    """

    def __init__(self, folder: Path, seconds: float, *, escapes: bool = False) -> None:
        self.folder, self.mark = folder, f"slow-{secrets.token_hex(6)}"
        self.witness = folder / "witness"
        self._seconds = folder / "seconds"
        self._seconds.write_text(str(seconds))
        project = make_project(folder / "sources", "slow", "1.0")
        (project / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: slow\nVersion: 1.0\n")
        with (project / "backend.py").open("a") as backend:
            backend.write(
                _SLOWLY.format(
                    witness=str(self.witness),
                    mark=self.mark,
                    seconds=str(self._seconds),
                    escapes=escapes,
                    escape=_ESCAPE,
                )
            )
        with tarfile.open(folder / "slow-1.0.tar.gz", "w:gz") as archive:
            archive.add(project, "slow-1.0")

    def hurry(self) -> None:
        """Builds that begin from now on sleep no more."""
        self._seconds.write_text("0")

    @property
    def env(self) -> Env:
        """The runtime env that builds it."""
        options = ["--no-index", "--find-links", str(self.folder)]
        return {"pip": {"packages": ["slow"], "pip_install_options": options}, "env_vars": {"X": self.mark}}

    @property
    def begun(self) -> int:
        """How often its build has begun."""
        return self.witness.read_text().count("begun") if self.witness.exists() else 0

    @property
    def processes(self) -> list[int]:
        """What runs of it: the mark stands in the environment of the tools and on a child's command line."""
        return marked(self.mark)
