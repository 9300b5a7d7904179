"""Many at once: one build for a thousand who ask, and two hundred builds in turns."""

import asyncio
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from raylet import CREATE, JOB, OK, Env, MakeRaylet, Raylet, serialize
from sources import NOTHING, Slow, http_of, left_over

from ray_envd.agent.pb import runtime_env_pb2 as pb

pytestmark = pytest.mark.slow


THOUSAND = 1000
_SLOTS = re.compile(r"^ray_envd_build(?:s_waiting|_slots_used\{lane=\"(\w+)\"\}) (\S+)$", re.MULTILINE)


async def ask(raylet: Raylet, env: Env, on_answer: Callable[[], None] = lambda: None) -> str:
    """One request on a connection of its own; returns the context."""
    request = pb.GetOrCreateRuntimeEnvRequest(
        serialized_runtime_env=serialize(env), job_id=JOB.encode(), source_process="raylet"
    )
    body = request.SerializeToString()
    reader, writer = await asyncio.open_connection("127.0.0.1", raylet.port)
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    reply = pb.GetOrCreateRuntimeEnvReply.FromString(answer.partition(b"\r\n\r\n")[2])
    assert reply.status == OK, reply.error_message
    on_answer()
    return str(reply.serialized_runtime_env_context)


def many(raylet: Raylet, env: Env, count: int) -> tuple[list[str], float]:
    """The answers to so many requests at once, and the seconds until the last."""

    async def run() -> list[str]:
        return await asyncio.gather(*(ask(raylet, env) for _ in range(count)))

    started = time.monotonic()
    contexts = asyncio.run(run())
    return contexts, time.monotonic() - started


def test_a_thousand_ask_for_one_cold_env(node: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """It is built once, each is answered and has a reference, and their job reads each line once."""
    folders = [tmp_path / "one", tmp_path / "all"]
    for folder in folders:
        folder.mkdir()
    raylet, (alone, shared) = make_raylet(), (Slow(folder, 2) for folder in folders)
    raylet.prepared(NOTHING)
    _, single = many(raylet, alone.env, 1)
    contexts, together = many(raylet, shared.env, THOUSAND)
    sys.stderr.write(f"one: {single:.3f} s, {THOUSAND}: {together:.3f} s, ratio {together / single:.3f}\n")
    assert len(contexts) == THOUSAND
    assert len(set(contexts)) == 1
    assert shared.begun == 1
    assert raylet.references() == THOUSAND + 2
    wait_until(lambda: raylet.setup_log().count("runtime env is ready") == 3, 5, "the last line")
    assert raylet.setup_log().count("resolved slow==1.0") == 2
    assert left_over(node.store) == []


class Figures:
    """The highest values of the daemon's figures, read again and again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.highest: dict[str, float] = {}

    def read(self) -> None:
        """One look."""
        with urllib.request.urlopen(f"{self._url}/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(
            r"^ray_envd_build(?:s_waiting|_slots_used\{lane=\"(\w+)\"\}) (\S+)$", text, re.MULTILINE
        )
        for lane, value in found:
            name = lane or "waiting"
            self.highest[name] = max(self.highest.get(name, 0.0), float(value))


@contextmanager
def watched(daemon: Daemon) -> Iterator[Figures]:
    """Reads the daemon's figures while the block runs."""
    figures, stop = Figures(http_of(daemon)), threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            figures.read()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield figures
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder of two hundred packages."""
    folder = tmp_path / "wheels"
    for number in range(200):
        make_wheel(folder, f"many-{number}", "1.0")
    return folder


def test_two_hundred_envs_and_a_large_one(
    start_daemon: Callable[..., Daemon], make_raylet: MakeRaylet, wheels: Path, tmp_path: Path
) -> None:
    """Few are built at once; the session that wants few gets its turns; a large one holds nobody up."""
    daemon = start_daemon("--build-parallelism", "2")
    greedy, modest, slow = make_raylet(daemon), make_raylet(daemon), Slow(tmp_path, 600)
    envs: list[Env] = [
        {
            "pip": {
                "packages": [f"many-{n}"],
                "pip_install_options": ["--no-index", "--find-links", str(wheels)],
            }
        }
        for n in range(200)
    ]
    answered = {"greedy": 0, "modest": 0}
    behind: list[int] = []

    def count(name: str) -> None:
        answered[name] += 1
        if name == "modest":
            behind.append(answered["greedy"])

    async def run() -> None:
        large = asyncio.create_task(ask(greedy, slow.env))
        await asyncio.to_thread(wait_until, lambda: slow.begun, 30, "the large build")
        asks = [ask(greedy, env, lambda: count("greedy")) for env in envs[:180]]
        asks += [ask(modest, env, lambda: count("modest")) for env in envs[180:]]
        async with asyncio.timeout(120):
            await asyncio.gather(*asks)
        assert not large.done()
        large.cancel()

    with watched(daemon) as figures:
        asyncio.run(run())
    assert slow.begun == 1
    assert answered == {"greedy": 180, "modest": 20}
    # In turns: as many of the other's, but for those that were begun before and for the order of answers.
    assert behind[-1] < 60
    assert figures.highest["young"] == 2
    assert figures.highest["old"] == 1
    assert figures.highest["waiting"] > 100
    wait_until(lambda: not slow.processes, 2, "the end of the large build")
    wait_until(lambda: left_over(daemon.store) == [], 2, "the end of its folder")
