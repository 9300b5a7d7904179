"""doctor: each fault is made, and found with its remedy."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner
from fake_daemon import FakeDaemon

from ray_envd.agent import attach
from ray_envd.agent.cli import cli
from ray_envd.agent.config import Settings
from ray_envd.agent.config_sources import load
from ray_envd.agent.doctor import Finding, Level, examine, interpreter, settings_finding, store, tools
from ray_envd.agent.doctor import daemon as daemon_checks
from ray_envd.agent.doctor.warm import warm_file
from ray_envd.cache.owner import Owner

ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def _without_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own is left alone; tests/podman/test_doctor_containers.py has one of its own."""
    monkeypatch.setattr("ray_envd.agent.doctor.containers.examine", lambda *_: [])


as_root = pytest.mark.skipif(not ROOT, reason="needs root")


def program(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_bad(finding: Finding, level: Level, *words: str) -> None:
    """The level, the words in what was found, and a remedy."""
    assert finding.level is level, finding
    for word in words:
        assert word in finding.found
    assert finding.remedy


# tools


def test_uv_is_run(tmp_path: Path) -> None:
    """Its version is told; a missing or broken one is a failure."""
    good = tools.uv(program(tmp_path, "echo uv 1.2.3; echo more"))
    assert (good.level, good.found.startswith("uv 1.2.3 (")) == (Level.OK, True)
    is_bad(tools.uv(None), Level.FAIL, "no uv")
    is_bad(tools.uv(program(tmp_path, "exit 9")), Level.FAIL, "exit code 9")
    is_bad(tools.uv(str(tmp_path / "none")), Level.FAIL, "does not run")


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_switched_off_user_namespaces(tmp_path: Path, switch: str, value: str) -> None:
    """Each of the kernel's switches is known, with the command that turns it."""
    path = tmp_path / switch
    path.parent.mkdir()
    path.write_text("1" if value == "0" else "0")
    assert tools.user_namespaces(tmp_path).level is Level.OK
    path.write_text(f"{value}\n")
    finding = tools.user_namespaces(tmp_path)
    is_bad(finding, Level.WARN, switch.replace("/", "."))
    assert "sysctl -w" in finding.remedy


@pytest.mark.usefixtures("other_users")
def test_an_installation_that_other_users_cannot_run(short_tmp: Path) -> None:
    """A daemon of root in a place of root's alone would fail for everybody else: it is said before."""
    assert tools.other_users(sys.executable).level is Level.OK
    closed = short_tmp / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "python"
    program.symlink_to(sys.executable)
    is_bad(tools.other_users(str(program)), Level.WARN, "cannot run")


# the store


def test_the_stores_folder(tmp_path: Path) -> None:
    """Fine, not made yet, not a folder, writable by others."""
    folder = tmp_path / "store"
    assert "makes it" in store.folder(folder).found
    folder.mkdir(mode=0o700)
    assert store.folder(folder).level is Level.OK
    folder.chmod(0o770)
    finding = store.folder(folder)
    is_bad(finding, Level.FAIL, "others may write")
    assert finding.remedy == f"chmod go-w {folder}"
    file = tmp_path / "file"
    file.touch()
    is_bad(store.folder(file), Level.FAIL, "not a folder")
    is_bad(store.folder(file / "store"), Level.FAIL, "cannot be made")


@as_root
def test_a_store_of_another_user_is_not_written_in(tmp_path: Path) -> None:
    """Whose it is, is said; nothing is tried there, because he could put links in the way."""
    os.chown(tmp_path, 65534, 65534)
    before = tmp_path.stat().st_mtime_ns
    settings = settings_of(tmp_path)
    findings = {each.check: each for each in examine(settings, [Path(sys.executable)])}
    is_bad(findings["store"], Level.FAIL, "uid 65534", "this is uid 0")
    assert "hard links" not in findings
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize(("option", "words"), [("noexec", "noexec"), ("ro", "read-only")])
def test_mounts_that_cannot_serve(tmp_path: Path, option: str, words: str) -> None:
    """Programs could not run, or nothing be written; a store that is not made yet is judged by its parent."""
    assert store.noexec(tmp_path / "not/there").level is Level.OK
    look = (
        "import pathlib, sys; from ray_envd.agent.doctor import store;"
        "finding = store.noexec(pathlib.Path(sys.argv[1]) / 'store');"
        "print(finding.level.name, finding.found, bool(finding.remedy))"
    )
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" || exit 77; exec "$3" -c "$4" "$2"'
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*argv, option, str(tmp_path), sys.executable, look], capture_output=True, text=True, check=False
    )
    if done.returncode in {1, 77} and not done.stdout:
        pytest.skip(f"no mount can be made here: {done.stderr.strip()}")
    assert done.stdout.startswith("FAIL ")
    assert words in done.stdout
    assert done.stdout.endswith(" True\n")


def test_little_space_and_few_inodes(tmp_path: Path) -> None:
    """Below min_free nothing is built; a file system without a limit of inodes is fine."""
    assert store.space(tmp_path, 0).level in {Level.OK, Level.WARN}
    is_bad(store.space(tmp_path, 10**18), Level.FAIL, "min_free")
    is_bad(store.inodes(tmp_path, scarce=1.1), Level.WARN, "are free")
    assert store.inodes(Path("/proc")).found == "this file system has no limit"


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than the temporary one."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def test_hard_links_are_tried(tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They work on real file systems, leaving nothing; where they do not, files are copied."""
    assert "they work" in store.hard_links(tmp_path).found
    assert "they work" in store.hard_links(other_disk).found
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(store.os, "link", refuse)
    is_bad(store.hard_links(tmp_path), Level.WARN, "Operation not supported", "copied")
    assert list(tmp_path.iterdir()) == []


def test_uvs_cache_on_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    """A link to another disk, however well meant, makes every install a copy."""
    assert store.same_file_system(tmp_path, 7).level is Level.OK
    home = tmp_path / "users/7"
    (home / "objects-v1").mkdir(parents=True)
    (home / "uv-cache").mkdir()
    assert store.same_file_system(tmp_path, 7).found == "on the store's file system"
    (home / "uv-cache").rmdir()
    (home / "uv-cache").symlink_to(other_disk)
    is_bad(store.same_file_system(tmp_path, 7), Level.WARN, "another file system")


def test_the_clock(tmp_path: Path) -> None:
    """Never set, or apart from the file server's."""
    assert store.clock(tmp_path).level is Level.OK
    is_bad(store.clock(tmp_path, now=0.0), Level.FAIL, "1970-01-01")
    is_bad(store.clock(tmp_path, now=time.time() + 3600), Level.WARN, "behind")
    is_bad(store.clock(tmp_path, now=time.time() - 3600), Level.WARN, "ahead")


# the daemon


def test_the_sockets_folder(tmp_path: Path) -> None:
    """Who can write there can replace the socket; a sticky folder like /tmp is fine."""
    path = tmp_path / "run" / "d.sock"
    assert "makes the folder" in daemon_checks.socket_folder(path).found
    path.parent.mkdir(mode=0o755)
    assert f"{len(str(path))} of 92 bytes" in daemon_checks.socket_folder(path).found
    path.parent.chmod(0o777)
    is_bad(daemon_checks.socket_folder(path), Level.FAIL, "replace the socket")
    path.parent.chmod(0o1777)
    assert daemon_checks.socket_folder(path).level is Level.OK
    file = tmp_path / "file"
    file.touch()
    is_bad(daemon_checks.socket_folder(file / "d.sock"), Level.FAIL, "not a folder")


@as_root
def test_roots_sockets_folder_lets_users_pass(tmp_path: Path) -> None:
    """Raylets of users reach the links' socket; a folder of another user is not trusted."""
    path = tmp_path / "run" / "d.sock"
    path.parent.mkdir(mode=0o700)
    finding = daemon_checks.socket_folder(path)
    is_bad(finding, Level.WARN, "only root")
    assert "chmod a+x" in finding.remedy
    path.parent.chmod(0o755)
    os.chown(path.parent, 65534, 65534)
    is_bad(daemon_checks.socket_folder(path), Level.FAIL, "uid 65534")


def test_the_daemon_is_asked_for_its_version(fake: FakeDaemon, daemon_socket: Path, short_tmp: Path) -> None:
    """The same, another, or none at all; and one that found damage says so."""
    finding, stats = daemon_checks.daemon(daemon_socket)
    assert (finding.level, stats is not None) == (Level.OK, True)
    fake.damaged = 3
    finding, stats = daemon_checks.daemon(daemon_socket)
    is_bad(finding, Level.WARN, "3 stored objects are damaged")
    fake.version = "9.9.9"
    finding, stats = daemon_checks.daemon(daemon_socket)
    is_bad(finding, Level.WARN, "version 9.9.9")
    finding, stats = daemon_checks.daemon(short_tmp / "none.sock")
    is_bad(finding, Level.WARN, "no daemon listens")
    assert stats is None


def serve_text(text: bytes) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_the_port_for_metrics() -> None:
    """Free, ours, or somebody else's; off is fine."""
    assert daemon_checks.http_port(None).level is Level.OK
    assert daemon_checks.http_port(("127.0.0.1", 0)).level is Level.OK
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    assert daemon_checks.http_port(address).found.endswith("is free")
    for text, level in ((b"ray_envd_objects 1.0\n", Level.OK), (b"apache", Level.WARN)):
        server = serve_text(text)
        finding = daemon_checks.http_port(("127.0.0.1", server.server_port))
        server.shutdown()
        server.server_close()
        assert finding.level is level
    is_bad(finding, Level.WARN, "Address already in use")


def test_the_warm_file(tmp_path: Path) -> None:
    """None is fine; a wrong one keeps the daemon from starting; an interpreter that is not there is told."""
    path = tmp_path / "warm.toml"
    assert warm_file(None).level is Level.OK
    is_bad(warm_file(path), Level.FAIL, "cannot be read")
    path.write_text("[[envs]]\nruntime_env = 3\n")
    is_bad(warm_file(path), Level.FAIL, "envs[0]")
    envs = f"[[envs]]\nname = 'a'\npython = '{sys.executable}'\nruntime_env = {{}}\n"
    path.write_text(envs)
    assert warm_file(path).level is Level.OK
    path.write_text(f"{envs}[[envs]]\nname = 'b'\npython = '/no/python'\nruntime_env = {{}}\n")
    is_bad(warm_file(path), Level.WARN, "b: /no/python is no program")
    path.write_text(f"user = 'no-such-user'\n{envs}")
    is_bad(warm_file(path), Level.WARN, "a: there is no user 'no-such-user'")


# Ray


@pytest.fixture
def ray_python(tmp_path: Path) -> Path:
    """An interpreter with something like Ray in its site-packages."""
    import venv  # noqa: PLC0415 - needed by few

    venv.create(tmp_path / "v", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "v" / "lib").glob("python*/site-packages")
    agent = site / "ray/_private/runtime_env/agent"
    agent.mkdir(parents=True)
    (site / "ray/__init__.py").touch()
    (site / "ray/_version.py").write_text('version = "2.60.0"\n')
    (agent / "main.py").write_text("print('stock')\n")
    return tmp_path / "v/bin/python"


def test_how_a_ray_stands(ray_python: Path, short_tmp: Path) -> None:
    """Not attached, attached, to another socket, supervised without a daemon, installed anew."""
    control = short_tmp / "d.sock"
    link = short_tmp / "d.sock.link"

    def look(*, answers: bool = False) -> Finding:
        return interpreter.ray(ray_python, control, asked_for=True, daemon_answers=answers)

    finding = look()
    is_bad(finding, Level.WARN, "Ray 2.60.0 is not attached")
    assert finding.remedy == f"run `ray-envd attach --python {ray_python}`"
    report = attach.attach(ray_python, socket=link, daemon=[sys.executable])
    assert look().level is Level.OK
    attach.attach(ray_python, socket=short_tmp / "other.link", daemon=[sys.executable])
    is_bad(look(), Level.WARN, "other.link")
    attach.attach(ray_python, socket=link, daemon=None)
    is_bad(look(), Level.WARN, "supervised")
    assert look(answers=True).level is Level.OK
    (report.agent_dir / "main.py").write_text("print('newer stock')\n")
    is_bad(look(), Level.WARN, "not attached any more")


def test_an_interpreter_without_ray(tmp_path: Path) -> None:
    """A failure if it was named, a warning if it only is the one on the PATH."""
    for asked_for, level in ((True, Level.FAIL), (False, Level.WARN)):
        finding = interpreter.ray(
            Path(sys.executable), tmp_path / "s", asked_for=asked_for, daemon_answers=True
        )
        is_bad(finding, level, "Ray")


# the command


def settings_of(folder: Path) -> Settings:
    flags = {"store": str(folder), "socket": "/tmp/no.sock", "http": "none"}
    return load(flags, environ={}).settings


def test_a_check_that_cannot_be_made_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails unexpectedly takes nothing else with it."""

    def broken(_: Path) -> Finding:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(store, "inodes", broken)
    findings = {each.check: each for each in examine(settings_of(tmp_path), [Path(sys.executable)])}
    is_bad(findings["inodes"], Level.FAIL, "may not look (/x)")
    assert findings["disk space"].level is not Level.FAIL


def test_settings_are_a_finding() -> None:
    """Warnings of unknown variables stand among the others."""
    assert settings_finding((), "no config file").level is Level.OK
    is_bad(settings_finding(("RAY_ENVD_X is no setting",), ""), Level.WARN, "RAY_ENVD_X")


def invoke(*args: str, **environ: str) -> tuple[int, str]:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("RAY_ENVD_")}
    done = CliRunner().invoke(cli, ["doctor", *args], env={**clean, **environ})
    return done.exit_code, done.stdout


def test_doctor_tells_all_and_exits_by_the_worst(
    fake: FakeDaemon, daemon_socket: Path, tmp_path: Path, ray_python: Path
) -> None:
    """Warnings are exit code 0, a failure is 1; as JSON a list of findings."""
    tmp_path.chmod(0o700)
    common = ("--socket", str(daemon_socket), "--store", str(tmp_path), "--python", str(ray_python))
    code, text = invoke(*common, RAY_ENVD_HTTP="none", RAY_ENVD_MIN_FREE="0")
    assert code == 0
    assert "ok   daemon: version 0.1.0, pid 4242" in text
    assert "warn ray of " in text
    assert f"     remedy: run `ray-envd attach --python {ray_python}`" in text
    code, text = invoke(*common, "--json", RAY_ENVD_MIN_FREE="99.99%")
    assert code == 1
    failed = [each for each in json.loads(text) if each["level"] == "fail"]
    assert [each["check"] for each in failed] == ["disk space"]
    assert all(set(each) == {"check", "level", "found", "remedy"} for each in json.loads(text))


def test_containers_are_tried_as_whom_one_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, with nothing of our environment, and registries; one whom nobody knows is an error."""
    asked: list[tuple[str, int, tuple[str, ...]]] = []

    def look(owner: Owner, environment: Mapping[str, str], addresses: Sequence[str]) -> list[Finding]:
        asked.append((owner.name, len(environment), tuple(addresses)))
        return [Finding("containers", Level.FAIL, "broken", "mend it")]

    monkeypatch.setattr("ray_envd.agent.doctor.containers.examine", look)
    common = ("--socket", "/tmp/no.sock", "--store", str(tmp_path))
    registry = "127.0.0.1:5000"
    code, text = invoke(*common, "--registry", registry, RAY_ENVD_HTTP="none")
    assert (code, asked[0][2]) == (1, (registry,))
    assert asked[0][1] > 1
    assert "fail containers: broken" in text
    if ROOT:
        invoke(*common, "--user", "nobody", RAY_ENVD_HTTP="none")
        assert asked[1] == ("nobody", 0, ())
    code, _ = invoke(*common, "--user", "nobody-of-this-name")
    assert (code, len(asked)) == (1, 1 + ROOT)


def test_doctor_finds_wrong_settings() -> None:
    """They are its first finding, and no reason to give up with a usage error."""
    code, text = invoke(RAY_ENVD_MIN_FREE="x")
    assert code == 1
    assert "fail settings: min_free is 'x' (RAY_ENVD_MIN_FREE)" in text
