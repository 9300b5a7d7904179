"""A package world on this machine: wheels and sdists made here, a fake Ray, a loopback index."""

import base64
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import uv as uv_package

from ray_envd.agent import process
from ray_envd.agent.python.build import Built, build
from ray_envd.agent.python.interpreter import Interpreter, Interpreters
from ray_envd.agent.python.request import Request, read
from ray_envd.agent.python.resolve import Lock, resolve
from ray_envd.agent.python.shadow import build_shadow
from ray_envd.agent.python.spec import PackagesSpec, parse_pip, parse_uv
from ray_envd.agent.python.tools import Toolbox, Work
from ray_envd.agent.redaction import Redactor
from ray_envd.cache.owner import Owner

UV = os.fsdecode(uv_package.find_uv_bin())


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    *,
    body: str = "",
    script: bool = False,
) -> Path:
    """A wheel with one module of the package's name, which knows its ``version``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{name}/__init__.py": f"__version__ = version = {version!r}\n{body}\n",
        f"{info}/METADATA": "\n".join((*metadata, "", "")),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name}-tool = {name}:main\n"
    record = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


_BACKEND = """
import os, zipfile
{prologue}
METADATA = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
def build_wheel(folder, settings=None, metadata=None):
    name = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        z.writestr("{name}.py", open("{name}.py").read())
        z.writestr(info + "/METADATA", METADATA)
        z.writestr(info + "/WHEEL", WHEEL)
        z.writestr(info + "/RECORD", "")
    return name

def build_editable(folder, settings=None, metadata=None):
    wheel = build_wheel(folder)
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as z:
        info = "{name}-{version}.dist-info"
        z.writestr("{name}.pth", os.getcwd())
        z.writestr(info + "/METADATA", METADATA)
        z.writestr(info + "/WHEEL", WHEEL)
        z.writestr(info + "/RECORD", "")
    return wheel
"""


def make_project(folder: Path, name: str, version: str, *, prologue: str = "", body: str = "") -> Path:
    """A source tree that builds with a backend of its own, so that nothing is downloaded."""
    root = folder / name
    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    (root / "backend.py").write_text(_BACKEND.format(name=name, version=version, prologue=prologue))
    (root / f"{name}.py").write_text(f"version = {version!r}\n{body}\n")
    return root


def make_sdist(folder: Path, name: str, version: str, *, prologue: str) -> Path:
    """A source distribution of :func:`make_project`."""
    root = make_project(folder / "sources", name, version, prologue=prologue)
    (root / "PKG-INFO").write_text(f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n")
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, f"{name}-{version}")
    return path


def sha256(path: Path) -> str:
    """A pip hash of a file."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@cache
def pythons() -> dict[str, str]:
    """An interpreter of each version from 3.9 to 3.13 that this machine has, by version."""
    managed = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    path = ":".join([*(str(folder) for folder in managed.glob("*/bin")), os.environ["PATH"]])
    listed = subprocess.run(
        [UV, "python", "list", "--only-installed", "--offline", "--output-format", "json"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        check=True,
    )
    found: dict[str, str] = {}
    for entry in json.loads(listed.stdout):
        parts = entry["version_parts"]
        wanted = parts["major"] == 3 and 9 <= parts["minor"] <= 13
        if wanted and entry["implementation"] == "cpython" and "shims" not in entry["path"]:
            found.setdefault(f"3.{parts['minor']}", entry["path"])
    return found


def run_python(python: Path | str, code: str, **environment: str) -> str:
    """What a program prints."""
    env = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(
        [str(python), "-c", code], env=env, capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip()


def run_script(path: Path) -> str:
    """What a program without arguments prints."""
    return subprocess.run([path], capture_output=True, text=True, check=True).stdout.strip()


def make_venv(path: Path, python: str) -> str:
    """A virtual environment; returns its interpreter."""
    subprocess.run([UV, "venv", "-q", "--python", python, path], check=True)
    return str(path / "bin/python")


def install(python: Path | str, *words: str | Path, cache: Path) -> None:
    """Installs into an interpreter's own environment."""
    subprocess.run(
        [UV, "pip", "install", "-q", "--no-index", "--python", python, *words],
        env={**os.environ, "UV_CACHE_DIR": str(cache)},
        check=True,
    )


def commit_all(project: Path) -> str:
    """Makes a folder a repository, or adds a commit to it; returns the commit."""
    identity = "-c user.name=t -c user.email=t@t"
    command = f"git init -q . && git add -A && git {identity} commit -qm c && git rev-parse HEAD"
    done = subprocess.run(command, shell=True, cwd=project, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def read_text(path: Path | str | None) -> str:
    """A file's text."""
    return Path(path or "").read_text()


@dataclass
class Kit:
    """What a test needs to take a field from its JSON to an environment."""

    root: Path
    python: str
    environment: dict[str, str]
    tools: Toolbox
    owner: Owner = field(default_factory=Owner.current)
    interpreters: Interpreters = field(default_factory=Interpreters)
    events: list[tuple[str, str, int, int]] = field(default_factory=list)
    redactor: Redactor = field(default_factory=Redactor)
    count: int = 0

    @property
    def wheels(self) -> Path:
        """The folder of packages that specs of :meth:`pip` and :meth:`uv` find."""
        return self.root / "wheels"

    def pip(self, *packages: str, **options: Any) -> PackagesSpec:
        """A pip field that knows the local packages only."""
        return parse_pip({"packages": [*self.local, *packages], **options})

    def uv(self, *packages: str, **options: Any) -> PackagesSpec:
        """A uv field that knows the local packages only."""
        return parse_uv({"packages": [*self.local, *packages], **options})

    @property
    def local(self) -> tuple[str, str]:
        """Lines that name the local packages as the only ones."""
        return "--no-index", f"--find-links {self.wheels}"

    def report(self, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        """Remembers the progress."""
        self.events.append((phase, detail, done, total))

    async def interpreter(self) -> Interpreter:
        """The base interpreter as it is now."""
        return await self.interpreters.probe(self.python, owner=self.owner, environment=self.environment)

    async def work(self, spec: PackagesSpec) -> Work:
        """A fresh place to work."""
        self.count += 1
        return Work(
            field=spec.field,
            tools=self.tools,
            interpreter=await self.interpreter(),
            workdir=self.root / f"work{self.count}",
            logs=self.root / "logs",
            environment=self.environment,
            owner=self.owner,
            report=self.report,
            redact=self.redactor,
            run=process.run,
        )

    async def shadow(self) -> Path:
        """The shadow of the base interpreter."""
        interpreter = await self.interpreter()
        path = self.root / f"shadow-{interpreter.digest[:16]}"
        if not path.exists():
            await build_shadow(interpreter, path, owner=self.owner)
        return path

    async def request(self, spec: PackagesSpec) -> Request:
        """The spec, read."""
        return await read(spec, await self.interpreter(), environment=self.environment, owner=self.owner)

    async def lock(
        self, spec: PackagesSpec, digests: Mapping[Path, str] | None = None, **kwargs: Any
    ) -> Lock:
        """The spec, resolved."""
        request = await self.request(spec)
        return await resolve(
            request, await self.work(spec), shadow=await self.shadow(), file_digests=digests or {}, **kwargs
        )

    async def build(self, spec: PackagesSpec) -> Built:
        """The spec, built."""
        request, work, shadow = await self.request(spec), await self.work(spec), await self.shadow()
        lock = await resolve(request, work, shadow=shadow, file_digests={})
        target = self.root / f"env{self.count}"
        return await build(lock, request, work, shadow=shadow, target=target)


def clean_environment(home: Path) -> dict[str, str]:
    """Without this machine's own configuration of pip and uv."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    kept.pop("VIRTUAL_ENV", None)
    return {**kept, "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "UV_HTTP_RETRIES": "0"}


class Index:
    """A simple index on loopback; counts what it was asked, and can be told to misbehave.

    ``tells_sizes`` makes its pages JSON with the files' sizes, and offers their metadata alone, as PyPI does
    (PEP 691, PEP 700, PEP 658).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.asked = threading.Event()
        self.status: int | None = None
        self.credentials: str | None = None
        self.stall: threading.Event | None = None
        self.tells_sizes = False
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index._answer(self)

            do_HEAD = do_GET  # noqa: N815 - the base class's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, credentials: str = "") -> str:
        """The address of the index."""
        return f"http://{credentials}{'@' if credentials else ''}{self.host}/simple"

    def add(self, wheel: Path) -> None:
        """Offers a file."""
        self.files[wheel.name] = wheel.read_bytes()

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        self.asked.set()
        if self.stall is not None:
            self.stall.wait(20)
        expected = base64.b64encode((self.credentials or "").encode()).decode()
        if self.credentials and handler.headers.get("Authorization") != f"Basic {expected}":
            self._send(handler, 401, b"", ("WWW-Authenticate", "Basic realm=index"))
        elif self.status is not None:
            self._send(handler, self.status, b"broken")
        elif handler.path.startswith("/simple/"):
            name = handler.path.strip("/").split("/")[1]
            if self.tells_sizes:
                self._send_json(handler, name)
                return
            links = [
                f'<a href="/files/{file}#sha256={hashlib.sha256(data).hexdigest()}">{file}</a>'
                for file, data in self.files.items()
                if file.startswith(f"{name}-")
            ]
            page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
            self._send(handler, 200 if links else 404, page, ("Content-Type", "text/html"))
        elif handler.path.endswith(".metadata"):
            wheel = self.files[handler.path.rpartition("/")[2].removesuffix(".metadata")]
            self._send(handler, 200, _metadata(wheel))
        else:
            data = self.files.get(handler.path.partition("?")[0].rpartition("/")[2])
            self._send(handler, 404 if data is None else 200, data or b"")

    def _send_json(self, handler: http.server.BaseHTTPRequestHandler, name: str) -> None:
        found = {file: data for file, data in self.files.items() if file.startswith(f"{name}-")}
        files = [
            {
                "filename": file,
                "url": f"/files/{file}",
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
                "size": len(data),
                "core-metadata": True,
                "upload-time": "2024-01-01T00:00:00Z",
            }
            for file, data in found.items()
        ]
        versions = sorted({file.split("-")[1] for file in found})
        page = {"meta": {"api-version": "1.1"}, "name": name, "versions": versions, "files": files}
        header = ("Content-Type", "application/vnd.pypi.simple.v1+json")
        self._send(handler, 200 if found else 404, json.dumps(page).encode(), header)

    @staticmethod
    def _send(
        handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, *headers: tuple[str, str]
    ) -> None:
        try:
            handler.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                handler.send_header(name, value)
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(body)
        except OSError:
            pass  # the client has gone


def _metadata(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA")))
