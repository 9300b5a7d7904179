"""Those who wait: their deadlines, their leaving, their number, and what they read meanwhile."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import wait_until
from processes import alive
from raylet import CREATE, Env, MakeRaylet, Raylet, serialize
from sources import NOTHING, FileServer, Slow, descriptors, left_over, make_zip

from ray_envd.agent.pb import runtime_env_pb2 as pb


@pytest.fixture
def quiet(node: Daemon) -> Iterator[None]:
    """Afterwards nothing is left in the store, and the daemon has as many descriptors as before."""
    before = descriptors(node)
    yield
    assert left_over(node.store) == []
    # The raylets of the test may still be attached, each with its connection and its port.
    wait_until(lambda: descriptors(node) <= before + 2, 10, "closed descriptors")


@pytest.mark.usefixtures("quiet")
def test_a_build_that_takes_too_long(node: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """The message says so, in time; two seconds later no process of the build is left."""
    raylet, slow = make_raylet(), Slow(tmp_path, 600)
    raylet.prepared(NOTHING)
    raylet.delete(NOTHING)
    started = time.monotonic()
    message = raylet.refused(slow.env, timeout=4)
    assert 3.9 < time.monotonic() - started < 6
    assert slow.begun
    assert "within the timeout of 4 seconds" in message
    assert "setup_timeout_seconds" in message
    assert "[Node 127.0.0.1]" in message
    wait_until(lambda: not slow.processes, 2, "the end of the build's processes")
    assert "within the timeout of 4 seconds" in raylet.setup_log()
    assert raylet.references() == 0
    wait_until(lambda: node.stats().building == 0, 2, "the end of the build")
    assert node.stats().reserved_bytes == 0


@pytest.mark.usefixtures("quiet")
def test_a_raylet_that_hangs_up_ends_its_build(node: Daemon, raylet: Raylet, tmp_path: Path) -> None:
    """With the last connection the build goes, and its processes within two seconds."""
    slow = Slow(tmp_path, 600)
    with open_request(raylet, slow.env):
        wait_until(lambda: slow.begun and len(slow.processes) > 1, 20, "the build")
    wait_until(lambda: not slow.processes, 2, "the end of the build's processes")
    wait_until(lambda: node.stats().building == 0, 2, "the end of the build")
    assert raylet.references() == 0
    assert raylet.info().total == 0


def open_request(raylet: Raylet, env: Env) -> socket.socket:
    """A request that nobody waits for yet."""
    body = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=serialize(env)).SerializeToString()
    connection = socket.create_connection(("127.0.0.1", raylet.port))
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.usefixtures("quiet")
def test_one_that_hangs_up_leaves_the_build_to_the_other(raylet: Raylet, tmp_path: Path) -> None:
    """The build goes on for who still waits, and only he gets a reference."""
    slow = Slow(tmp_path, 1)
    with ThreadPoolExecutor(1) as pool:
        with open_request(raylet, slow.env):
            wait_until(lambda: slow.begun, 20, "the build")
            pending = pool.submit(raylet.create, slow.env)
            time.sleep(0.2)
        assert pending.result().ok
    assert slow.begun == 1
    assert raylet.references() == 1


@pytest.mark.usefixtures("quiet")
def test_each_waiter_has_a_deadline_of_his_own(raylet: Raylet, tmp_path: Path) -> None:
    """The impatient one fails, the patient one gets the env, and it is built once."""
    slow = Slow(tmp_path, 2)
    with ThreadPoolExecutor(2) as pool:
        patient = pool.submit(raylet.create, slow.env, timeout=60)
        wait_until(lambda: slow.begun, 20, "the build")
        impatient = raylet.create(slow.env, timeout=1)
        assert not impatient.ok
        assert "timeout of 1 seconds" in impatient.error
        assert patient.result().ok
    assert slow.begun == 1
    assert raylet.references() == 1


def test_a_time_out_is_soon_forgotten(raylet: Raylet, tmp_path: Path) -> None:
    """What was too slow once may be asked for again, with more time."""
    slow = Slow(tmp_path, 1.3)
    assert not raylet.create(slow.env, timeout=1).ok
    assert raylet.create(slow.env, timeout=60).ok


@pytest.mark.usefixtures("quiet")
def test_hundreds_ask_for_one_cold_env(raylet: Raylet, tmp_path: Path) -> None:
    """It is built once, and everybody has a reference."""
    slow = Slow(tmp_path, 1)
    with ThreadPoolExecutor(200) as pool:
        replies = list(pool.map(lambda _: raylet.create(slow.env), range(200)))
    assert all(reply.ok for reply in replies)
    assert len({reply.context for reply in replies}) == 1
    assert slow.begun == 1
    assert raylet.references() == 200


def test_two_sessions_share_one_build(make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """Two clusters ask for the same env at once: it is built once."""
    slow = Slow(tmp_path, 1)
    raylets = [make_raylet(), make_raylet()]
    with ThreadPoolExecutor(2) as pool:
        assert all(reply.ok for reply in pool.map(lambda each: each.create(slow.env), raylets))
    assert slow.begun == 1


def test_the_user_reads_along(raylet: Raylet, web: FileServer, tmp_path: Path) -> None:
    """The phase stands in the job's log while it lasts; a second job reads that the env is reused."""
    url = web.add(make_zip(tmp_path / "p.zip", {"m.py": "x = 1"}))
    web.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.create, {"working_dir": url})
        wait_until(lambda: "downloading" in raylet.setup_log(), 15, "a line of the download")
        assert "unpacking" not in raylet.setup_log()
        web.gate.set()
        assert pending.result().ok
    wait_until(lambda: "is ready" in raylet.setup_log(), 5, "the last line")
    assert "unpacking" in raylet.setup_log()
    assert "reused" not in raylet.setup_log()
    for _ in range(3):
        raylet.prepared({"working_dir": url}, job="02000000")
    wait_until(lambda: "reused" in raylet.setup_log("02000000"), 5, "the line of the reuse")
    assert raylet.setup_log("02000000").count("\n") == 1


def test_a_failure_stands_in_the_log(raylet: Raylet) -> None:
    """With field, cause and remedy; also that a field is unknown."""
    raylet.refused({"working_dir": "file:///nowhere/x.zip", "no_such_field": 1})
    wait_until(lambda: "ERROR" in raylet.setup_log(), 5, "the failure")
    assert "working_dir" in raylet.setup_log()
    assert "runtime_env field no_such_field is not recognized and will be ignored." in raylet.setup_log()


def test_a_field_that_is_not_served_stands_in_the_log(raylet: Raylet) -> None:
    """The job's user reads there why his env was refused, as with any other failure."""
    raylet.refused({"conda": {"dependencies": []}})
    wait_until(lambda: "conda" in raylet.setup_log(), 5, "the failure")


def test_further_log_files(raylet: Raylet, tmp_path: Path) -> None:
    """config.log_files get the same lines; a path outside of the log folder is refused and not written."""
    outside = tmp_path / "outside.log"
    names = ["more.log", "../../escape.log", str(outside), ""]
    raylet.prepared({"env_vars": {"A": "1"}}, log_files=names)
    own = raylet.logs / "more.log"
    wait_until(lambda: own.exists() and "is ready" in own.read_text(), 5, "the further log")
    assert own.read_text() == raylet.setup_log()
    assert not outside.exists()
    assert not (raylet.folder / "escape.log").exists()
    assert raylet.setup_log().count("outside of the log folder") == 2


def test_a_job_id_that_is_none(raylet: Raylet) -> None:
    """It names no file outside of the log folder."""
    before = set(raylet.session.iterdir())
    raylet.prepared({"env_vars": {"A": "1"}}, job="../x")
    wait_until((raylet.logs / "runtime_env_setup.log").exists, 5, "the log without a job")
    assert set(raylet.session.iterdir()) == before
    assert alive(raylet.link_pid)
