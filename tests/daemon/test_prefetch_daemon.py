"""What a daemon prepares before anybody asks, and raylets that come later and find it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from processes import clean_environment
from raylet import MakeRaylet
from sources import FileServer, Slow, http_of, make_zip
from test_grpc_faces import status_of

from ray_envd.agent.client import Client, Object

ALICE = 41001


def prefetch(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    return subprocess.run(
        [sys.executable, "-m", "ray_envd", "prefetch", "--socket", str(daemon.socket), *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def pip(folder: Path, name: str) -> dict[str, Any]:
    """A package of a folder."""
    make_wheel(folder, name, "1.0")
    options = ["--no-index", "--find-links", str(folder)]
    return {"pip": {"packages": [name], "pip_install_options": options}}


def objects(daemon: Daemon) -> list[Object]:
    """What is stored, without what environments are built with."""
    with Client(daemon.socket) as client:
        return [each for each in client.list().objects if each.kind != "base"]


def test_prefetched_envs_are_stored_and_referenced_by_nobody(
    start_daemon: Callable[..., Daemon], make_raylet: MakeRaylet, tmp_path: Path
) -> None:
    """One that fails is named, and the rest is there; what is pinned outlives a collection of all else."""
    daemon = start_daemon()
    kept, loose = pip(tmp_path / "k", "kept"), pip(tmp_path / "l", "loose")
    done = prefetch(daemon, json.dumps(kept), "--pin", "--python", sys.executable, "--json")
    assert done.returncode == 0, done.stderr
    missing = {"working_dir": (tmp_path / "none.zip").as_uri()}
    gcs = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}
    words = (json.dumps(each) for each in (loose, missing, gcs))
    done = prefetch(daemon, *words, "--python", sys.executable)
    assert done.returncode == 1
    assert done.stdout.startswith("#1: ready in ")
    assert "error: #2: runtime_env['working_dir']" in done.stderr
    assert "#3: runtime_env['working_dir'] could not be downloaded: a gcs:// package" in done.stderr
    stats = daemon.stats()
    assert (stats.references, stats.sessions, stats.builds) == (0, 0, 3)  # the interpreter's shadow too
    assert list(daemon.store.glob("users/*/local/*")) == []
    raylet = make_raylet(daemon)
    for env in (kept, loose):
        raylet.prepared(env)
        raylet.delete(env)
    assert daemon.stats().builds == stats.builds
    with Client(daemon.socket) as client:
        client.gc(target_bytes=0)
    assert [(each.summary, each.pinned) for each in objects(daemon)] == [("kept==1.0", True)]


def test_who_interrupts_it_ends_it(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Exit code 130, and no build goes on for nobody."""
    slow, daemon = Slow(tmp_path, 600), start_daemon()
    words = (json.dumps(slow.env), "--python", sys.executable)
    command = [sys.executable, "-m", "ray_envd", "prefetch", "--socket", str(daemon.socket), *words]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: slow.begun, 60, "the build")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    wait_until(lambda: not slow.processes, 20, "the end of the build")
    wait_until(lambda: not list(daemon.store.glob("users/*/local/*")), 20, "the end of its session")
    assert daemon.stats().building == 0


def test_a_daemon_warms_its_file(
    start_daemon: Callable[..., Daemon],
    make_raylet: MakeRaylet,
    short_tmp: Path,
    tmp_path: Path,
    web: FileServer,
) -> None:
    """It is ready once all is there, raylets build nothing, and the next daemon finds it all."""
    web.gate.clear()
    package = web.add(make_zip(tmp_path / "late.zip", {"d/late.py": "x = 'late'"}))
    warm = short_tmp / "warm.json"
    env, late = pip(tmp_path, "tiny"), {"working_dir": f"{package}?token=canary"}
    envs = [{"runtime_env": env}, {"runtime_env": late}, {"name": "bad", "runtime_env": {"pip": 3}}]
    warm.write_text(json.dumps({"python": sys.executable, "envs": envs}))
    flags = ("--warm-file", str(warm), "--ready-when-warm")
    daemon = start_daemon(*flags)
    wait_until(lambda: daemon.stats().warm_ready == 1, 60, "the package")
    status, body = status_of(f"{http_of(daemon)}/readyz")
    assert (status, body.splitlines()[0]) == (503, "not ready: 1 of 3 runtime envs are not warm")
    assert re.search(r"envs\[1\] \(working_dir\): working_dir: downloading http", body)
    assert "canary" not in body + daemon.tail()
    web.gate.set()
    wait_until(lambda: status_of(f"{http_of(daemon)}/readyz") == (200, "ready\n"), 60, "readiness")
    stats = daemon.stats()
    assert (stats.warm_wanted, stats.warm_ready, stats.warm_failed) == (3, 2, 1)
    figures = status_of(f"{http_of(daemon)}/metrics")[1]
    assert 'ray_envd_warm_envs{state="failed"} 1.0' in figures
    assert re.search(r"warm: bad: runtime_env\['pip'\] is not valid", daemon.tail())

    raylet = make_raylet(daemon)
    created = raylet.prepared({**env, **late})
    code = "import tiny, late; print(tiny.__version__, late.x)"
    assert raylet.run(created, code) == "1.0 late"
    assert (daemon.stats().builds, len(web.asked)) == (stats.builds, 1)
    raylet.delete({**env, **late})

    daemon.stop()
    web.close()
    daemon.log.unlink()
    warm.write_text(json.dumps({"python": sys.executable, "envs": envs[:2]}))
    daemon.start()
    wait_until(lambda: status_of(f"{http_of(daemon)}/readyz")[0] == 200, 60, "readiness of the next")
    assert daemon.stats().builds == 0
    assert [each.pinned for each in objects(daemon)] == [True, True]
    warm.write_text(json.dumps({"python": sys.executable, "envs": envs[:1]}))
    wait_until(lambda: sum(each.pinned for each in objects(daemon)) == 1, 30, "the end of a pin")


def test_a_wrong_file_is_a_wrong_setting(tmp_path: Path) -> None:
    """The daemon does not start, and names the entry; so does one that is to wait for no file."""
    warm = tmp_path / "warm.toml"
    warm.write_text("[[envs]]\nname = 'one'\nruntime_env = 3\n")

    def serve(*flags: str) -> str:
        daemon = Daemon.at(tmp_path, *flags)
        assert daemon.spawn().wait(30) == 2
        return daemon.tail()

    assert f"the warm file {warm}: envs[0] (one): 'runtime_env' must be a table" in serve(
        "--warm-file", str(warm)
    )
    assert "ready_when_warm is 'true' (--ready-when-warm)" in serve("--ready-when-warm")


@pytest.mark.usefixtures("other_users")
def test_root_prepares_for_another_user(
    start_daemon: Callable[..., Daemon], make_raylet: MakeRaylet, place: Path, short_tmp: Path
) -> None:
    """As him; his raylet finds it, and it is his alone. Tools are forked while gRPC streams."""
    short_tmp.chmod(0o755)
    wheels = place / "wheels"
    env = pip(wheels, "hers")
    for path in (wheels, *wheels.iterdir()):
        path.chmod(0o755)
    daemon = start_daemon()
    words = ("--python", "/usr/bin/python3", "--user", f"{ALICE}:{ALICE}")
    done = prefetch(daemon, json.dumps(env), *words)
    assert done.returncode == 0, done.stderr
    assert [each.owner_uid for each in objects(daemon)] == [ALICE]
    builds = daemon.stats().builds
    make_raylet(daemon, uid=ALICE, python="/usr/bin/python3").prepared(env)
    assert daemon.stats().builds == builds
    assert {path.stat().st_uid for path in (daemon.store / f"users/{ALICE}").iterdir()} == {ALICE}
    assert list((daemon.store / f"users/{ALICE}/local").iterdir()) == []
    assert prefetch(daemon, json.dumps(env), "--user", "no-such-user").returncode == 1
