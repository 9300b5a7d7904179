"""What must not be noticed: a killed daemon, a killed raylet, no daemon at all, other clusters, a restart."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asking import STOCK, VERSIONS, actor, ask, task
from daemons import Daemon, admin_of, serves, stats_of
from helpers import make_wheel, wait_until
from processes import alive, end_marked, kill
from rays import RayNode, link_pids

from ray_envd.agent.pb import admin_pb2

pytestmark = pytest.mark.skipif(STOCK, reason="stock Ray has no daemon")
VERSION = "import envd_sample; answer = envd_sample.__version__"


@pytest.fixture
def on_demand(short_tmp: Path) -> Iterator[dict[str, str]]:
    """Variables with which links start a daemon of this test's own; it is gone at the end."""
    yield {"RAY_ENVD_SOCKET": str(short_tmp / "d.sock"), "RAY_ENVD_STORE": str(short_tmp / "store")}
    end_marked(str(short_tmp))


def pip(wheels: Path, requirement: str) -> dict[str, list[str]]:
    """A runtime env of one local wheel."""
    return {"pip": [f"--find-links {wheels}", "--no-index", requirement]}


def test_killing_the_daemon_fails_no_task(
    ray_version: str, start_node: Callable[..., RayNode], on_demand: dict[str, str], wheels: Path
) -> None:
    """SIGKILL again and again while workers start: every task answers and the raylet lives."""
    node = start_node(ray_version, on_demand)
    raylet, socket = node.raylet_pid(), Path(on_demand["RAY_ENVD_SOCKET"])
    killed: list[int] = []
    done = threading.Event()

    def killer() -> None:
        while not done.wait(0.7):
            if len(killed) < 5 and serves(socket):
                killed.append(stats_of(socket).pid)
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    code = "import os; answer = int(os.environ['ENVD_N'])"
    try:
        some = [task(code, {"env_vars": {"ENVD_N": str(n)}}) for n in range(10)]
        more = [task(VERSION, {**pip(wheels, f"envd-sample=={n}.0"), "env_vars": {"N": "1"}}) for n in (1, 2)]
        reply = ask(node, *some, *more)
    finally:
        done.set()
        thread.join()
    assert reply.values == [*range(10), "1.0", "2.0"]
    assert len(set(killed)) >= 2, "the daemon was not killed often enough to mean anything"
    assert node.raylet_pid() == raylet


def test_many_workers_of_one_cold_environment_build_it_once(
    node: RayNode, shared_daemon: Daemon, workspace: Path
) -> None:
    """Eight actors at once in one environment that nobody has made: one build."""
    folder = workspace / f"many-{node.mark}"
    make_wheel(folder, "envd-many", "1.0")
    before = shared_daemon.stats().builds
    env = {"pip": [f"--find-links {folder}", "--no-index", "envd-many==1.0"]}
    code = "import envd_many; answer = envd_many.__version__"
    assert ask(node, *[actor(code, env) for _ in range(8)]).values == ["1.0"] * 8
    # The node's interpreter may be seen for the first time: that is a build of its own.
    assert 1 <= shared_daemon.stats().builds - before <= 2
    with shared_daemon.admin() as admin:
        objects = admin.List(admin_pb2.ListRequest()).objects
    here = [each for each in objects if "envd-many" in each.summary]
    assert len({each.id for each in here}) <= len(VERSIONS)


def test_a_restarted_cluster_finds_everything_built(
    node: RayNode, shared_daemon: Daemon, wheels: Path, short_tmp: Path
) -> None:
    """The second cluster, another session, builds nothing that the first had built."""
    folder = short_tmp / "work"
    folder.mkdir()
    (folder / "data.txt").write_text(f"kept for {node.mark}")
    asks = [task(VERSION, pip(wheels, "envd-sample==1.0")), task("answer = open('data.txt').read()")]
    init = {"runtime_env": {"working_dir": str(folder)}}
    right = ["1.0", f"kept for {node.mark}"]
    assert ask(node, *asks, init=init).values == right
    before, session = shared_daemon.stats(), node.session
    node.stop()
    node.start()
    assert node.session != session
    assert ask(node, *asks, init=init).values == right
    after = shared_daemon.stats()
    assert (after.builds, after.misses) == (before.builds, before.misses)
    assert after.hits > before.hits


def test_a_killed_raylet_takes_its_link_and_references_along(node: RayNode, shared_daemon: Daemon) -> None:
    """Within five seconds the link is gone, and the daemon holds nothing for that session."""

    def held() -> list[int]:
        with shared_daemon.admin() as admin:
            sessions = admin.List(admin_pb2.ListRequest()).sessions
        return [each.references for each in sessions if Path(each.session_dir) == session]

    links, session = link_pids(node), node.session
    process = node.spawn(["-c", _HOLD])
    try:
        wait_until(lambda: sum(held()) > 0, 30, "a reference")
        assert len(links) == 1
        kill([node.raylet_pid()])
        wait_until(lambda: not any(map(alive, links)), 5, "the end of the link")
        wait_until(lambda: not held(), 5, "the end of the session and its references")
    finally:
        process.kill()
        process.communicate()
        node.stop()
        node.start()


_HOLD = """
import ray, time
ray.init()
@ray.remote(num_cpus=0, runtime_env={"env_vars": {"ENVD_HELD": "1"}})
class Held:
    def there(self): return 1
held = Held.remote()
ray.get(held.there.remote())
time.sleep(120)
"""


def test_without_a_daemon_the_node_runs_on_stock(
    ray_version: str, start_node: Callable[..., RayNode], short_tmp: Path
) -> None:
    """A store that cannot be: the node comes up on Ray's own agent, and its log says why."""
    blocked = short_tmp / "a-file"
    blocked.touch()
    socket = short_tmp / "none.sock"
    node = start_node(ray_version, {"RAY_ENVD_SOCKET": str(socket), "RAY_ENVD_STORE": str(blocked / "store")})
    seen = task("import os; answer = os.environ['ENVD_SEEN']", {"env_vars": {"ENVD_SEEN": "yes"}})
    assert ask(node, seen).value == "yes"
    assert not serves(socket)
    log = (node.session / "logs" / "runtime_env_agent.log").read_text()
    assert "stock" in log
    assert str(blocked) in log


def test_clusters_on_one_daemon_keep_their_own_limits(
    start_node: Callable[..., RayNode], daemon: Daemon, short_tmp: Path
) -> None:
    """Ray's cache limits come with each raylet: one forgets a job's folder when it is over, one keeps it."""
    common = {"RAY_ENVD_SOCKET": str(daemon.socket)}
    small = start_node(VERSIONS[0], {**common, "RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB": "0"})
    large = start_node(VERSIONS[1], {**common, "RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB": "1"})
    folder = short_tmp / "work"
    folder.mkdir()
    (folder / "data.txt").write_text("x" * 10_000)
    asked = task("import os; answer = os.getcwd()")
    init = {"runtime_env": {"working_dir": str(folder)}}
    places = [Path(ask(node, asked, init=init).value) for node in (small, large)]
    wait_until(lambda: not places[0].exists(), 30, "the small cluster's folder to go")
    assert (places[1] / "data.txt").exists()
    with admin_of(daemon.socket) as admin:
        assert len(admin.List(admin_pb2.ListRequest()).sessions) == 2
