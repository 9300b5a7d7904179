"""A build ends with its last waiter, with every process that it started, whoever tells that nobody waits."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from daemons import Daemon
from helpers import wait_until
from processes import alive, marked
from raylet import MakeRaylet, Raylet, serialize
from sources import NOTHING, FileServer, Slow, left_over, make_zip

from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.pb import runtime_env_pb2_grpc as services

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_stays(node: Daemon) -> Iterator[None]:
    """Afterwards the store, the budget and the table of processes are as if there had been no build."""
    yield
    wait_until(lambda: node.stats().building == 0, 5, "the end of all builds")
    assert left_over(node.store) == []
    assert node.stats().reserved_bytes == 0
    wait_until(lambda: orphans(node) == [], 5, "the end of all tools and their zombies")


def orphans(node: Daemon) -> list[str]:
    """The daemon's children, zombies included: a daemon has none but its tools and their orphans."""
    found = []
    for task in Path(f"/proc/{node.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += (task / "children").read_text().split()
    return found


def begun(slow: Slow) -> list[int]:
    """Waits until a build has made its daemon; returns its processes, the escaped one last."""

    def escaped() -> list[int]:
        return [pid for pid in slow.processes if environment(pid) == b"" and words(pid)[1:2] == [b"-c"]]

    found = wait_until(escaped, 20, "the build's daemon")
    return [*(pid for pid in slow.processes if pid not in found), *found]


def environment(pid: int) -> bytes | None:
    """None once the process is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return None


def words(pid: int) -> list[bytes]:
    """A process's command line."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@pytest.mark.parametrize("uid", [None, 41000])
def test_nothing_escapes_a_deadline(
    make_raylet: MakeRaylet, short_tmp: Path, uid: int | None, request: pytest.FixtureRequest
) -> None:
    """A daemon that the build made, without its session and environment, is dead within two seconds."""
    if uid is not None:
        request.getfixturevalue("other_users")
    raylet, slow = make_raylet(uid=uid), Slow(short_tmp, 600, escapes=True)
    raylet.prepared(NOTHING)
    for path in (short_tmp, *short_tmp.rglob("*")):
        os.chown(path, uid or 0, uid or 0) if uid else None
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.refused, slow.env, timeout=4)
        processes = begun(slow)
        assert "within the timeout of 4 seconds" in pending.result()
    wait_until(lambda: not slow.processes, 2, "the end of the build's processes")
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 2, "and of their zombies")


def test_nothing_escapes_a_success(raylet: Raylet, short_tmp: Path) -> None:
    """What a build that succeeded has left running ends before its env is handed out."""
    slow = Slow(short_tmp, 0, escapes=True)
    raylet.prepared(slow.env)
    assert slow.begun == 1
    assert slow.processes == []


def test_another_build_is_not_touched(make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """The end of one build, escaped processes included, is not the end of its neighbour's."""
    folders = [tmp_path / "ends", tmp_path / "stays"]
    for folder in folders:
        folder.mkdir()
    ends, stays = (Slow(folder, 600, escapes=True) for folder in folders)
    raylet, other = make_raylet(), make_raylet()
    raylet.prepared(NOTHING)
    with ThreadPoolExecutor(2) as pool:
        pending = pool.submit(other.create, stays.env)
        spared = begun(stays)
        raylet.refused(ends.env, timeout=4)
        wait_until(lambda: not ends.processes, 2, "the end of the one build")
        assert ends.begun == 1
        assert alive(spared[-1])
        assert len(stays.processes) > 2
        other.kill()
        with pytest.raises(OSError):  # noqa: PT011 - whichever way the connection ends
            pending.result()
    wait_until(lambda: not stays.processes, 2, "the end of the other")


def test_a_cancelled_call_over_grpc_ends_its_build(node: Daemon, tmp_path: Path) -> None:
    """A raylet of Ray 2.6, or another client, that cancels its call takes the build with it."""
    slow = Slow(tmp_path, 600, escapes=True)
    request = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=serialize(slow.env))
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        call = services.RuntimeEnvServiceStub(channel).GetOrCreateRuntimeEnv.future(request)
        begun(slow)
        call.cancel()
        wait_until(lambda: not slow.processes, 2, "the end of the build's processes")


def test_a_killed_raylet_takes_its_builds_with_it(
    node: Daemon, make_raylet: MakeRaylet, tmp_path: Path
) -> None:
    """Its connections end with it: nobody waits any more."""
    raylet, slow = make_raylet(), Slow(tmp_path, 600, escapes=True)
    with ThreadPoolExecutor(1) as pool:
        # The request is the test's, so it outlives the raylet; the session does not.
        pending = pool.submit(raylet.create, slow.env)
        begun(slow)
        raylet.kill()
        wait_until(lambda: not alive(raylet.link_pid), 5, "the link's end")
        wait_until(lambda: not slow.processes, 3, "the end of the build's processes")
        with pytest.raises(OSError):  # noqa: PT011 - whichever way the connection ends
            pending.result()
    wait_until(lambda: node.stats().references == 0, 5, "no reference")


def test_a_download_ends_with_its_waiter(raylet: Raylet, web: FileServer, tmp_path: Path) -> None:
    """The program that fetches is a tool like any other."""
    url = web.add(make_zip(tmp_path / "p.zip", {"m.py": "x = 1"}))
    web.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.refused, {"working_dir": url}, timeout=3)
        wait_until(lambda: web.asked and marked(url), 15, "the download")
        assert "timeout of 3 seconds" in pending.result()
    wait_until(lambda: not marked(url), 2, "the end of the program that fetches")
