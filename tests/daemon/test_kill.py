"""Nothing that ends may take the node with it: daemons and raylets are killed, drained, started again."""

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from daemons import Daemon, serves, stats_of
from helpers import wait_until
from processes import alive, clean_environment
from raylet import Created, Env, MakeRaylet
from sources import FileServer, Slow, left_over, make_zip

pytestmark = pytest.mark.slow


@pytest.fixture
def home(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon that is not started: links start it, and whatever they started ends with the test."""
    daemon = Daemon.at(short_tmp, "--drain-timeout", "5s")
    yield daemon
    daemon.kill()
    for _ in range(100):
        pid = pid_of(daemon)
        if pid is None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not alive(pid), 5, "the daemon's end")


def pid_of(daemon: Daemon) -> int | None:
    """The process that serves this store."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((daemon.store / "daemon.lock").read_text().split()[0])
        words = Path(f"/proc/{pid}/cmdline").read_text()
        if alive(pid) and str(daemon.store) in words:
            return pid
    return None


def kill_daemon(daemon: Daemon) -> int:
    """SIGKILL for whoever serves this store."""
    pid = pid_of(daemon)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, "the daemon's end")
    return pid


def test_killed_again_and_again_while_requests_are_in_flight(home: Daemon, make_raylet: MakeRaylet) -> None:
    """A raylet's requests all succeed across three SIGKILLs, and the references at the end are exact."""
    raylet = make_raylet(home, starts=home.command)
    envs = [{"env_vars": {"N": str(number)}} for number in range(8)]
    stop = threading.Event()
    counts = dict.fromkeys(range(len(envs)), 0)

    def ask(number: int) -> None:
        while not stop.is_set():
            created = raylet.persistent(envs[number])
            assert created.ok, created.error
            counts[number] += 1
            time.sleep(0.01)

    with ThreadPoolExecutor(len(envs)) as pool:
        workers = [pool.submit(ask, number) for number in range(len(envs))]
        pids = set()
        for _ in range(3):
            before = sum(counts.values())
            wait_until(lambda before=before: sum(counts.values()) > before + 30, 30, "requests go on")
            pids.add(kill_daemon(home))
        before = sum(counts.values())
        wait_until(lambda: sum(counts.values()) > before + 30, 30, "requests go on")
        stop.set()
        for worker in workers:
            worker.result()
    assert len(pids) == 3
    # What was counted and whose reply was lost may be too much; too little never.
    references = raylet.references()
    assert sum(counts.values()) <= references <= sum(counts.values()) + 3 * len(envs)


def test_references_are_exact_after_a_kill(home: Daemon, make_raylet: MakeRaylet) -> None:
    """The next daemon counts what the killed one counted, and answers hits at once."""
    raylet = make_raylet(home, starts=home.command)
    package = make_zip(raylet.folder / "p.zip", {"m.py": "x = 1"})
    env, other = {"working_dir": package.as_uri()}, {"env_vars": {"A": "1"}}
    context = raylet.prepared(env).context
    for _ in range(4):
        raylet.prepared(env)
        raylet.prepared(other)
    raylet.delete(env)
    kill_daemon(home)
    package.unlink()
    assert raylet.persistent(env).context == context
    assert raylet.references() == 4 + 1 + 4
    assert stats_of(home.socket).builds == 0
    assert stats_of(home.socket).references == 9
    assert len(list(home.socket.parent.glob(".d.sock.*"))) == 1
    assert [raylet.delete(env) for _ in range(6)] == [True] * 5 + [False]


def test_killed_in_the_middle_of_a_download(
    home: Daemon, make_raylet: MakeRaylet, web: FileServer, short_tmp: Path
) -> None:
    """The request is answered by the next daemon, and nothing of the first attempt is left."""
    raylet = make_raylet(home, starts=home.command)
    url = web.add(make_zip(short_tmp / "p.zip", {"m.py": "x = 1"}))
    web.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.persistent, {"working_dir": url})
        wait_until(lambda: web.asked, 15, "the download")
        kill_daemon(home)
        web.gate.set()
        assert pending.result().ok
    assert raylet.references() == 1
    assert left_over(home.store) == []


def test_what_a_killed_daemon_was_running_ends(home: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """The next daemon ends the tools of the first, and their children, before it builds in the same place."""
    raylet = make_raylet(home, starts=home.command)
    slow = Slow(tmp_path, 600)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.persistent, slow.env)
        wait_until(lambda: slow.begun and len(slow.processes) > 1, 20, "the build")
        orphans = slow.processes
        slow.hurry()
        kill_daemon(home)
        assert pending.result().ok
    assert [pid for pid in orphans if alive(pid)] == []
    assert slow.begun == 2
    assert left_over(home.store) == []


@pytest.mark.parametrize("victim", ["uv", "the build"])
def test_a_killed_tool_is_run_again(
    home: Daemon, make_raylet: MakeRaylet, tmp_path: Path, victim: str
) -> None:
    """Where memory is short the kernel kills uv or what it builds with: the raylet gets its env anyway."""
    home.start()
    raylet = make_raylet(home)
    slow = Slow(tmp_path, 600)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.create, slow.env)
        wait_until(lambda: slow.begun and len(slow.processes) > 2, 20, "the build")
        slow.hurry()
        uv, *build = slow.processes
        for pid in [uv] if victim == "uv" else build:
            os.kill(pid, signal.SIGKILL)
        created = pending.result()
    assert created.ok, created.error
    assert slow.begun == 2
    wait_until(lambda: not slow.processes, 5, "the end of what the first run started")
    assert left_over(home.store) == []


def test_a_killed_raylet_takes_link_and_references_with_it(home: Daemon, make_raylet: MakeRaylet) -> None:
    """Its link ends within five seconds, its references end, and the other session stays."""
    home.start()
    dead, living = make_raylet(home), make_raylet(home)
    for raylet in (dead, living):
        for number in range(3):
            raylet.prepared({"env_vars": {"N": str(number)}})
    started = time.monotonic()
    dead.kill()
    wait_until(lambda: not alive(dead.link_pid), 5, "the link's end")
    wait_until(lambda: home.stats().references == 3, 5, "the references' end")
    assert time.monotonic() - started < 5
    assert living.references() == 3
    assert home.stats().sessions == 1


def test_a_raylet_that_died_while_no_daemon_ran(home: Daemon, make_raylet: MakeRaylet) -> None:
    """The next daemon ends its session, and keeps the one whose raylet comes back."""
    home.start()
    dead, living = make_raylet(home), make_raylet(home)
    for raylet in (dead, living):
        raylet.prepared({"env_vars": {"A": "1"}})
    home.kill()
    dead.kill()
    home.start()
    wait_until(lambda: home.stats().references == 1, 10, "the dead session's end")
    assert living.persistent({"env_vars": {"A": "1"}}).ok
    assert living.references() == 2


@contextlib.contextmanager
def _draining(
    home: Daemon, ask: Callable[[Env], Created], web: FileServer, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Future[Created]]]:
    """The daemon was told to end while a download is under way, which the server holds back."""
    url = web.add(make_zip(folder / "p.zip", {"m.py": "x = 1"}))
    web.gate.clear()
    process = home.process
    assert process is not None
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(ask, {"working_dir": url})
        wait_until(lambda: web.asked, 15, "the download")
        process.terminate()
        wait_until(lambda: not serves(home.socket), 5, "draining")
        yield process, pending


def test_drain_finishes_what_is_in_flight(
    home: Daemon, make_raylet: MakeRaylet, web: FileServer, short_tmp: Path
) -> None:
    """SIGTERM: the download under way is answered, then the daemon ends with 0; new work is hung up on."""
    home.start()
    raylet = make_raylet(home)
    with _draining(home, raylet.create, web, short_tmp) as (process, pending):
        with pytest.raises((OSError, http.client.HTTPException)):
            raylet.create({"env_vars": {"LATE": "1"}})
        web.gate.set()
        assert pending.result().ok
    assert process.wait(10) == 0


def test_a_second_sigterm_forces(
    home: Daemon, make_raylet: MakeRaylet, web: FileServer, short_tmp: Path
) -> None:
    """It ends at once, hangs up instead of saying FAILED, and the next daemon serves the request."""
    home.arguments = ("--drain-timeout", "60s")
    home.start()
    raylet = make_raylet(home)
    with _draining(home, raylet.persistent, web, short_tmp) as (process, pending):
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 0
        web.gate.set()
        home.start()
        created = pending.result()
    assert created.ok, created.error
    assert raylet.references() == 1


def test_a_second_daemon_is_refused(home: Daemon, make_raylet: MakeRaylet) -> None:
    """It names the first one's pid and ends with 5, and the first serves on."""
    home.start()
    raylet = make_raylet(home)
    second = subprocess.run(
        home.command, env=clean_environment(), capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == 5
    assert str(home.pid) in second.stderr
    assert raylet.create({"env_vars": {"A": "1"}}).ok


def test_an_idle_daemon_ends(home: Daemon, make_raylet: MakeRaylet) -> None:
    """One that a link started ends when its last raylet has been gone for idle_exit; not before."""
    home.arguments = ("--idle-exit", "500ms")
    raylet = make_raylet(home, starts=home.command)
    pid = pid_of(home)
    assert pid is not None
    end = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > end, 5)
    assert alive(pid)
    raylet.kill()
    wait_until(lambda: not alive(pid), 10, "the idle daemon's end")
    assert not home.socket.exists()
