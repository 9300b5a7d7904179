"""What images are for: Ray Serve with eight applications on one cluster, each in an image of its own.

They are deployed by the script of ``examples/serve-multi-app``. The tests share them and run in their order.
"""

import json
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from asking import STOCK
from daemons import Daemon
from field_asks import offline
from helpers import wait_until
from podman_fixtures import MakeImage
from podman_world import PodmanWorld
from processes import free_ports
from rays import ROOT, RayNode
from registries import Registry

pytestmark = [
    pytest.mark.podman,
    pytest.mark.skipif(STOCK, reason="stock fails with images as root, and composes them with nothing"),
]
DEPLOY = ROOT / "examples" / "serve-multi-app" / "deploy.py"
NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
#: Down to no replica soon after the last request, and up with the next one.
TO_ZERO = {
    "min_replicas": 0,
    "initial_replicas": 1,
    "max_replicas": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 1,
    "downscale_to_zero_delay_s": 1,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 1,
}


@dataclass
class Town:
    """The cluster with its applications, as somebody sees them who deploys and somebody who asks."""

    node: RayNode
    folder: Path
    port: int
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def deploy(self, *names: str) -> dict[str, Any]:
        """Runs the example's script for some of the applications; how each stands then."""
        path = self.folder / "apps.json"
        path.write_text(json.dumps(list(self.apps.values())))
        environment = {"SERVE_PORT": str(self.port), "DEPLOY_SECONDS": "150"}
        process = self.node.spawn(
            [DEPLOY, path, *names],
            stderr=subprocess.DEVNULL,
            environment=environment,
            stdin=subprocess.DEVNULL,
        )
        output, _ = process.communicate(timeout=240)
        found = dict(json.loads(output.splitlines()[-1]))
        assert sorted(found) == sorted(names)
        assert process.returncode == int(any(each["status"] != "RUNNING" for each in found.values()))
        return found

    def ask(self, name: str, timeout: float = 60.0) -> dict[str, Any]:
        """One request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{name}", timeout=timeout) as answer:
            return dict(json.load(answer))


class Client(threading.Thread):
    """Somebody who asks some applications, one after the other, again and again."""

    def __init__(self, town: Town, names: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._town, self._names, self._over = town, names, threading.Event()
        self.answers, self.failures = Counter[str](), list[str]()

    def run(self) -> None:
        while not self._over.wait(0.02):
            for name in self._names:
                try:
                    self._town.ask(name)
                except Exception as error:  # noqa: BLE001 - whatever a client may see is a failed request
                    self.failures.append(f"{name}: {error}")
                else:
                    self.answers[name] += 1

    def __enter__(self) -> Self:
        self.start()
        wait_until(lambda: self.failures or len(self.answers) == len(self._names), 30, "first answers")
        return self

    def __exit__(self, *_: object) -> None:
        before = self.answers.copy()
        wait_until(lambda: self.failures or self.answers > before, 30, "last answers")
        self._over.set()
        self.join(60)


@pytest.fixture(scope="module")
def empty_town(
    pythons: Callable[[str], Path], workspace: Path, podman_world: PodmanWorld, container_daemon: Daemon
) -> Iterator[Town]:
    """A cluster."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir=workspace))
    environment = {**podman_world.variables, "RAY_ENVD_SOCKET": str(container_daemon.socket)}
    node = RayNode(pythons("2.60.0"), folder, environment).start(120.0)
    yield Town(node, folder, free_ports(1)[0])
    node.stop()


@pytest.fixture(scope="module")
def town(empty_town: Town, make_image: MakeImage, wheels: Path) -> Town:
    """Two applications, then eight: two versions of a package, packages and a folder over an image."""
    work = empty_town.folder / "work.zip"
    make_archive(work, {"model.txt": "weights"})
    for count, name in enumerate(NAMES):
        version = f"{count % 2 + 1}.0"
        image = make_image(f"town/{name}", {"envd-quote": version}, variables={"APP_IMAGE": name})
        empty_town.apps[name] = {"name": name, "package": "envd-quote", "runtime_env": {"image": image}}
    pip = {"packages": ["envd-sample==2.0"], "pip_install_options": offline(wheels)}
    variables = {"ALSO_TELL": json.dumps(["envd-sample"])}
    empty_town.apps["three"]["runtime_env"] |= {"pip": pip, "env_vars": variables}
    empty_town.apps["four"]["runtime_env"] |= {"working_dir": f"file://{work}"}
    empty_town.apps["eight"]["replicas"] = TO_ZERO
    for some in (NAMES[:2], NAMES[2:]):
        found = empty_town.deploy(*some)
        assert {each["status"] for each in found.values()} == {"RUNNING"}, found
    return empty_town


@pytest.fixture(autouse=True)
def _last_words(container_daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[None]:
    """If a test fails, the daemon's last words are shown."""
    failures = request.session.testsfailed
    yield
    if request.session.testsfailed > failures:
        sys.stderr.write(f"\n--- daemon\n{container_daemon.tail(40)}\n")


def make_archive(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"top/{name}", text)


def test_each_application_answers_from_its_own_image(town: Town, podman_world: PodmanWorld) -> None:
    """Eight images and versions that conflict, on one cluster; packages and a folder over an image's."""
    for count, name in enumerate(NAMES):
        answer = town.ask(name)
        assert (answer["app"], answer["image"]) == (name, name)
        assert answer["versions"]["envd-quote"] == f"{count % 2 + 1}.0"
        assert answer["versions"].get("envd-sample") == ("2.0" if name == "three" else None)
        assert ("model.txt" in answer["files"]) == (name == "four")
    assert len(podman_world.containers()) >= len(NAMES) - 1


def test_one_is_upgraded_and_no_request_fails(town: Town, make_image: MakeImage) -> None:
    """A new image in place: the application's own clients see the old or the new one, the others nothing."""
    image = make_image("town/two", {"envd-quote": "3.0"}, tag="next", variables={"APP_IMAGE": "two"})
    old = town.ask("two")
    town.apps["two"]["runtime_env"] = {"image": image}
    with Client(town, NAMES[:7]) as client:
        assert town.deploy("two")["two"]["status"] == "RUNNING"
        new = wait_until(lambda: (a := town.ask("two"))["pid"] != old["pid"] and a, 60, "the new image")
    assert client.failures == []
    assert (old["versions"]["envd-quote"], new["versions"]["envd-quote"]) == ("2.0", "3.0")


def test_scaled_to_zero_and_back(town: Town) -> None:
    """Without requests its container goes; the next request gets its answer from a new one."""
    first = town.ask("eight")
    wait_until(
        lambda: not Path(f"/proc/{first['pid']}").exists(), 60, "the end of the last replica", every=0.2
    )
    again = town.ask("eight", timeout=120)
    assert again["image"] == "eight"
    assert again["pid"] != first["pid"]


def test_a_broken_image_is_the_trouble_of_one(town: Town, registry: Registry) -> None:
    """Its application fails with our words, and no client of the others notices."""
    broken = {"name": "broken", "package": "envd-quote"}
    town.apps["broken"] = {**broken, "runtime_env": {"image": f"{registry.address}/town/missing:1"}}
    with Client(town, NAMES[:7]) as client:
        found = town.deploy("broken")["broken"]
    assert client.failures == []
    assert found["status"] == "DEPLOY_FAILED"
    assert "runtime_env['image']" in found["message"]
    assert "town/missing:1" in found["message"]
    assert "remedy:" in found["message"]


def test_the_registry_is_gone(town: Town, registry: Registry) -> None:
    """What runs goes on, and replicas of an image that is here start."""
    old = town.ask("one")["pid"]
    registry.stop()
    try:
        with Client(town, NAMES[:7]) as client:
            town.apps["one"]["replicas"] = 2
            assert town.deploy("one")["one"]["status"] == "RUNNING"
            pids = {old}
            wait_until(lambda: pids.add(town.ask("one")["pid"]) or len(pids) > 2, 60, "two new replicas")
        assert client.failures == []
    finally:
        registry.start()
