"""Secrets stay secret: one is planted wherever one can stand, then everything that is written is searched."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import pytest
from daemons import Daemon
from fetch_servers import S3, KeyValueStore
from helpers import make_wheel
from package_world import Index, make_sdist
from processes import clean_environment
from raylet import Env, MakeRaylet, Raylet
from sources import FileServer, http_of, make_zip

from ray_envd.agent.client import Client, EnvFailedError

#: Builds nothing; tells all that it can see.
_TALKATIVE = "import os, sys\nprint(dict(os.environ))\nprint(sys.argv)\nsys.exit('it fails')\n"


def _new() -> str:
    return f"cnry{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Canaries:
    """One secret for each place."""

    env_var: str = field(default_factory=_new)
    second_line: str = field(default_factory=_new)
    quoted: str = field(default_factory=_new)
    index_option: str = field(default_factory=_new)
    extra_index_line: str = field(default_factory=_new)
    uv_index: str = field(default_factory=_new)
    direct: str = field(default_factory=_new)
    malformed_line: str = field(default_factory=_new)
    pip_only: str = field(default_factory=_new)
    query: str = field(default_factory=_new)
    userinfo: str = field(default_factory=_new)
    s3_key: str = field(default_factory=_new)
    cluster: str = field(default_factory=_new)
    not_json: str = field(default_factory=_new)

    def within(self, text: str) -> set[str]:
        """The places whose secrets a text holds."""
        return {each.name for each in fields(self) if getattr(self, each.name) in text}


class Sampler:
    """Reads the command lines of every process that begins meanwhile, again and again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._before = set(self._pids())
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @staticmethod
    def _pids() -> list[str]:
        return [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]

    def _run(self) -> None:
        while not self._stop.wait(0.003):
            for pid in self._pids():
                if pid not in self._before:
                    with contextlib.suppress(OSError):
                        self.seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))


@dataclass
class Scene:
    """Servers, packages and secrets, and all that people were told."""

    folder: Path
    canaries: Canaries
    index: Index
    web: FileServer
    s3: S3
    gcs: KeyValueStore
    told: dict[str, str] = field(default_factory=dict)

    def good(self) -> list[Env]:
        """Envs that can be had; each with secrets of its own."""
        c, host = self.canaries, self.index.host
        wheel = f"{host}/files/far-1.0-py3-none-any.whl"
        package = make_zip(self.folder / "p.zip", {"m.py": "x = 1"})
        self.web.add(package)
        self.s3.put("p.zip", package.read_bytes())
        self.gcs.values[b"gcs://_ray_pkg_0123456789abcdef.zip"] = package.read_bytes()
        userinfo = f"http://user:{c.userinfo}@{self.web.server.host}/p.zip"
        return [
            {
                "env_vars": {
                    "A": c.env_var,
                    "B": f"first\n{c.second_line}",
                    "C": f"'\"${{A}} $(id) {c.quoted}",
                }
            },
            {
                "pip": {
                    "packages": ["far"],
                    "pip_install_options": ["--index-url", f"http://user:{c.index_option}@{host}/simple"],
                }
            },
            {"pip": [f"--extra-index-url http://user:{c.extra_index_line}@{host}/simple", "far"]},
            {
                "uv": {
                    "packages": ["far"],
                    "uv_pip_install_options": ["--index-url", f"http://user:{c.uv_index}@{host}/simple"],
                }
            },
            {"pip": [f"far @ http://user:{c.direct}@{wheel}"], "env_vars": {"A": c.env_var}},
            {"working_dir": f"{self.web.url}/p.zip?token={c.query}&x=1"},
            {"py_modules": [userinfo]},
            {"working_dir": "s3://bucket/p.zip"},
            {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip", "env_vars": {"A": c.env_var}},
        ]

    def bad(self) -> list[Env]:
        """Envs that fail, each where it can tell most."""
        c, host = self.canaries, self.index.host
        make_sdist(self.folder, "talkative", "1.0", prologue=_TALKATIVE)
        links = ["--no-index", "--find-links", str(self.folder)]
        return [
            {"pip": {"packages": ["talkative"], "pip_install_options": links}, "env_vars": {"A": c.env_var}},
            {"uv": {"packages": ["talkative"], "uv_pip_install_options": links}, "env_vars": {"B": c.quoted}},
            {
                "pip": {
                    "packages": ["nowhere"],
                    "pip_install_options": ["--index-url", f"http://user:{c.index_option}@{host}/simple"],
                }
            },
            {"pip": [f"--extra-index-url http://user:{c.extra_index_line}@{host}/simple", "nowhere>5"]},
            {"pip": [f"nowhere @ http://user:{c.direct}@{host}/files/nowhere-1.0-py3-none-any.whl"]},
            {"pip": [f"far @@ http://user:{c.malformed_line}@{host}/x"]},
            {"pip": {"packages": ["far"], "pip_install_options": [f"--nope=http://u:{c.malformed_line}@h/"]}},
            {
                "uv": {
                    "packages": ["nowhere"],
                    "uv_pip_install_options": ["--index-url", f"http://user:{c.uv_index}@{host}/simple"],
                }
            },
            {"working_dir": f"{self.web.url}/gone.zip?token={c.query}"},
            {"py_modules": [f"http://user:{c.userinfo}@{self.web.server.host}/gone.zip"]},
            {"working_dir": "s3://bucket/gone.zip"},
            {"working_dir": "s3://nobucket/gone.zip"},
            {"working_dir": "gcs://_ray_pkg_ffffffffffffffff.zip"},
            {"working_dir": f"nonsense://user:{c.userinfo}@host/x.zip"},
            {"env_vars": [c.env_var]},
            {"env_vars": {"A": {c.env_var: c.env_var}}},
            f'{{"env_vars": {{"A": "{c.not_json}"',
        ]

    def only_pip(self) -> list[Env]:
        """For an interpreter that has a pip: what uv cannot do."""
        url = f"http://user:{self.canaries.pip_only}@{self.index.host}/simple"
        options = ["--prefer-binary", "--index-url", url, "--trusted-host", "127.0.0.1"]
        return [
            {
                "pip": {"packages": [name], "pip_install_options": options},
                "env_vars": {"A": self.canaries.env_var},
            }
            for name in ("far", "nowhere")
        ]

    def hear(self, what: str, text: object) -> None:
        """Something that people were told."""
        self.told[f"{what} {len(self.told)}"] = str(text)


@pytest.fixture
def scene(tmp_path: Path, s3: S3) -> Iterator[Scene]:
    """All servers, and the packages in them."""
    index, web = Index(), FileServer()
    gcs = KeyValueStore()
    made = Scene(tmp_path, Canaries(), index, web, s3, gcs)
    gcs.token = made.canaries.cluster
    index.add(make_wheel(tmp_path / "wheels", "far", "1.0"))
    yield made
    index.close()
    web.close()
    gcs.stop()


def play(scene: Scene, raylet: Raylet, system: Raylet | None) -> None:
    """Asks for everything, as raylets do, and remembers every answer but the contexts' own files."""
    for env in scene.good():
        created = raylet.prepared(env)
        scene.hear("context", created.context)
        assert raylet.create(env).ok
    for env in scene.bad():
        scene.hear("refusal", raylet.refused(env))
    for env in scene.only_pip() if system is not None else ():
        assert system is not None
        created = system.create(env)
        assert created.ok == ("far" in json.dumps(env))
        scene.hear("pip", (created.error, created.context))
    scene.hear("raylet's table", raylet.info())


def look(scene: Scene, daemon: Daemon) -> None:
    """What the daemon's own user is shown: events, tables, metrics."""
    environment = {"AWS_SECRET_ACCESS_KEY": scene.canaries.s3_key}
    with Client(daemon.socket) as client:
        for env in (*scene.good(), *scene.bad()):
            with contextlib.suppress(EnvFailedError):
                try:
                    for event in client.create(env, environment=environment, python=sys.executable):
                        scene.hear("event", event)
                except EnvFailedError as error:
                    scene.hear("failure", error)
                    raise
        scene.hear("listing", client.list())
    for words in (["ls"], ["stats"], ["config"]):
        done = subprocess.run(
            [sys.executable, "-m", "ray_envd", *words, "--json", "--socket", str(daemon.socket)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        scene.hear(" ".join(words), done.stdout + done.stderr)
    with urllib.request.urlopen(f"{http_of(daemon)}/metrics") as answer:
        scene.hear("metrics", answer.read().decode())


def written(*roots: Path) -> Iterator[tuple[Path, str]]:
    """Every file below the folders."""
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path, path.read_bytes().decode(errors="replace")


def leaks(scene: Scene, daemon: Daemon, *raylets: Raylet) -> dict[str, set[str]]:
    """Where secrets stand that must not: in what was told, and in what was written."""
    found = {what: scene.canaries.within(text) for what, text in scene.told.items()}
    roots = [daemon.store, daemon.log.parent, *(raylet.folder for raylet in raylets)]
    for path, text in written(*roots):
        names = scene.canaries.within(text)
        private = path.parent.name == "ray-envd" and path.suffix == ".sh"
        if names and private:
            assert path.stat().st_mode & 0o777 == 0o600
        else:
            found[str(path)] = names
    return {what: names for what, names in found.items() if names}


def shown(found: Mapping[str, set[str]]) -> str:
    """A line for each leak."""
    return "\n".join(f"{what}: {', '.join(sorted(names))}" for what, names in found.items())


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_anywhere_that_people_look(
    scene: Scene, make_raylet: MakeRaylet, short_tmp: Path, log_format: str
) -> None:
    """Logs, errors, tables, events, metrics, command lines and the store's own files hold none of them."""
    c = scene.canaries
    daemon = Daemon.at(short_tmp, "--log-format", log_format, "--log-level", "debug").start()
    options: dict[str, Any] = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": c.s3_key,
        "AWS_ENDPOINT_URL": scene.s3.url,
        "AWS_REGION": "us-east-1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": c.cluster,
        "RUNTIME_ENV_RETRY_TIMES": "1",
        "token": c.cluster,
        "gcs": scene.gcs.address,
    }
    try:
        raylet = make_raylet(daemon, **options)
        pip = subprocess.run(["/usr/bin/python3", "-m", "pip", "--version"], capture_output=True, check=False)
        system = make_raylet(daemon, python="/usr/bin/python3", **options) if pip.returncode == 0 else None
        with Sampler() as sampler:
            play(scene, raylet, system)
            if log_format == "json":
                look(scene, daemon)
        scene.hear("command lines", sampler.seen)
        assert len(sampler.seen) > 20
    finally:
        daemon.stop()
    found = leaks(scene, daemon, *filter(None, (raylet, system)))
    assert not found, shown(found)
