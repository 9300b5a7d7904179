"""doctor on containers: each fault is made, found, and gone once its remedy was applied.

What cannot be made on every machine is made by a podman of our own that says what the real one would.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from fetch_servers import Authority
from podman_fixtures import MakeImage
from podman_world import PodmanWorld
from processes import NodeError
from registries import PASSWORD, USER, Registry
from users import User

from ray_envd.agent.doctor import containers, registries, rootless
from ray_envd.agent.doctor.finding import Finding, Level
from ray_envd.cache.owner import Owner

Findings = dict[str, Finding]


def examine(variables: Mapping[str, str], user: User | None = None, *addresses: str) -> Findings:
    owner = Owner.of(user.uid, user.gid) if user else Owner.current()
    environment = dict(variables) if user else {**os.environ, **variables}
    return {each.check: each for each in containers.examine(owner, environment, addresses)}


def is_bad(finding: Finding, level: Level, *words: str) -> None:
    """The level, the words in what was found, and a remedy."""
    assert finding.level is level, finding
    for word in words:
        assert word in finding.found
    assert finding.remedy


# the whole, with the real podman


def test_a_node_on_which_containers_run(podman_world: PodmanWorld, registry: Registry) -> None:
    """A real one was started; what had to be done for it is told, and nothing of it is left."""
    images = podman_world.images()
    found = examine(podman_world.variables, None, registry.address)
    assert found["containers"].level is Level.OK, found
    assert "one was started by" in found["containers"].found
    assert "rootful" in found["podman"].found or os.geteuid()
    assert found["container storage"].found == f"overlay in {podman_world.folder}/graph"
    assert found["container limits"].level is Level.OK
    assert found["podman service"].level is Level.OK
    assert (
        found[f"registry {registry.address}"].found
        == "it answers by plain HTTP, which registries.conf allows"
    )
    assert podman_world.images() == images
    assert podman_world.containers() == []


def test_a_node_without_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with the remedy, and no failure: only containers need it."""
    monkeypatch.setattr("ray_envd.agent.podman.environment._PATH", ())
    (finding,) = examine({"PATH": "/nowhere"}).values()
    is_bad(finding, Level.WARN, "not installed")
    assert "apt-get install podman" in finding.remedy


def test_no_runtime_and_slow_storage(
    podman_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage of copies is a warning; where no OCI runtime is found, or works, containers fail."""
    world = PodmanWorld.make(podman_folder / "faulty", small=False)
    storage, engine = world.folder / "storage.conf", world.folder / "containers.conf"
    try:
        storage.write_text(storage.read_text().replace('"overlay"', '"vfs"'))
        good = engine.read_text()
        engine.write_text(f'{good}[engine.runtimes]\ncrun = ["/nowhere/crun"]\nrunc = ["/nowhere/runc"]\n')
        # Podman looks on the PATH too, whatever its settings say.
        (tmp_path / "podman").symlink_to(shutil.which("podman") or "")
        with monkeypatch.context() as patch:
            patch.setattr("ray_envd.agent.podman.environment._PATH", ())
            found = examine({**world.variables, "PATH": str(tmp_path)})
        is_bad(found["podman"], Level.FAIL, "no OCI runtime")
        assert "runc" in found["podman"].remedy
        engine.write_text(f'{good}[engine.runtimes]\ncrun = ["/bin/false"]\nrunc = ["/bin/false"]\n')
        found = examine(world.variables)
        assert "containers" in found, found
        is_bad(found["containers"], Level.FAIL)
        is_bad(found["container storage"], Level.WARN, "vfs", "copies its whole image")
        engine.write_text(good)
        assert examine(world.variables)["containers"].level is Level.OK
    finally:
        world.close()


@pytest.fixture
def poor_user(podman_folder: Path, other_users: None) -> Iterator[PodmanWorld]:
    """A user without subordinate ids, with a storage."""
    user = User.make(podman_folder, subordinates=False)
    world = PodmanWorld.make(user.home / "world", small=False, user=user)
    yield world
    world.close()


def test_a_user_becomes_able_to_run_containers(poor_user: PodmanWorld) -> None:
    """Subordinate ids and the runtime folder are missed with the commands that help, and then all is well."""
    user = poor_user.user
    assert user is not None
    without = {name: value for name, value in poor_user.variables.items() if name != "XDG_RUNTIME_DIR"}
    found = examine(without, user)
    is_bad(found["subordinate ids"], Level.FAIL, user.name, "subuid and subgid")
    is_bad(found["XDG_RUNTIME_DIR"], Level.FAIL, "is not set")
    command = re.match(r"usermod [^(]*", found["subordinate ids"].remedy)
    assert command
    # Another range than the one proposed, which somebody here may have.
    words = shlex.split(command[0].replace("200000-265535", "1900000000-1900065535"))
    assert words[-1] == user.name
    subprocess.run(words, check=True)
    poor_user.podman("system", "migrate")
    found = examine(poor_user.variables, user)
    assert [each for each in found.values() if each.level is Level.FAIL] == []
    assert found["subordinate ids"].found == f"{user.name} has 65536"
    assert "rootless" in found["podman"].found
    assert "one was started by" in found["containers"].found


# a podman of our own

INFO = """{
 "host": {"cgroupVersion": "v1", "cgroupManager": "systemd", "ociRuntime": {"name": "crun"},
  "security": {"rootless": ROOTLESS}},
 "store": {"graphDriverName": "overlay", "graphRoot": "/graph", "runRoot": "/run"},
 "version": {"Version": "VERSION"}
}"""
HYBRID = "Error: OCI runtime error: crun: cgroups in hybrid mode not supported, drop all controllers"
LIMITS = "Error: runc: error setting rlimits: operation not permitted: OCI permission denied"
RUNS = f"""
case "$*" in
  *--runtime=runc*) ;;
  *) echo "{HYBRID}" >&2; exit 126 ;;
esac
case "$*" in
  *--ulimit=nofile=*) exit 0 ;;
  *) echo "{LIMITS}" >&2; exit 126 ;;
esac
"""
MakePodman = Callable[..., dict[str, str]]


@pytest.fixture
def make_podman(tmp_path: Path) -> MakePodman:
    """Variables under which podman is a script: what it says of itself, and what it does on ``run``."""

    def make(run: str = RUNS, version: str = "4.9.3", *, rootless: bool = False) -> dict[str, str]:
        info = INFO.replace("ROOTLESS", str(rootless).lower()).replace("VERSION", version)
        (tmp_path / "info.json").write_text(info)
        script = (
            'command=; for word in "$@"; do\n'
            'case "$word" in info|run|import|rmi|login) command=$word; break;; esac; done\n'
            f'case "$command" in info) cat {tmp_path}/info.json; exit 0;; run) ;; *) exit 0;; esac\n{run}'
        )
        (tmp_path / "podman").write_text(f"#!/bin/sh\n{script}")
        (tmp_path / "podman").chmod(0o755)
        return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    return make


def test_what_ray_envd_makes_up_for_is_told(make_podman: MakePodman) -> None:
    """A runtime that refuses hybrid cgroups and limits that are refused are no failure."""
    finding = examine(make_podman())["containers"]
    assert finding.level is Level.OK
    assert "one was started by runc; crun, which podman would take, does not run" in finding.found
    assert "CAP_SYS_RESOURCE" in finding.found
    assert "--ulimit=nofile=" in finding.found


@pytest.mark.parametrize(
    ("run", "words", "remedy"),
    [
        (
            'echo "Error: crun: cgroups in hybrid mode not supported" >&2; exit 126',
            "no OCI runtime",
            "install runc",
        ),
        (
            'echo "Error: fuse: device not found, try modprobe fuse" >&2; exit 126',
            "fuse-overlayfs",
            "modprobe",
        ),
        ('echo "Error: writing blob: no space left on device" >&2; exit 125', "no room", "free space"),
        ('echo "Error: cannot clone: Operation not permitted" >&2; exit 125', "no user namespaces", "sysctl"),
        ('echo "Error: something new" >&2; exit 125', "something new", "podman run"),
    ],
)
def test_what_podman_says_has_a_remedy(make_podman: MakePodman, run: str, words: str, remedy: str) -> None:
    """Each known complaint, and a new one in podman's own words."""
    finding = examine(make_podman(run))["containers"]
    is_bad(finding, Level.FAIL, words)
    assert remedy in finding.remedy


def test_an_old_podman(make_podman: MakePodman) -> None:
    """Its version is told, with the one that is needed."""
    finding = examine(make_podman(version="3.4.4"))["podman"]
    is_bad(finding, Level.FAIL, "3.4.4")
    assert "4.0" in finding.remedy


def test_limits_that_are_ignored(make_podman: MakePodman) -> None:
    """An ordinary user's under cgroups v1: said, with both ways out."""
    finding = examine(make_podman(rootless=True))["container limits"]
    is_bad(finding, Level.WARN, "ignored")
    assert "cgroups v2" in finding.remedy
    assert "as root" in finding.remedy


# what a user's podman needs


def test_programs_that_map_ids(tmp_path: Path) -> None:
    """Missing, or without root's rights."""
    is_bad(rootless.id_mappers(str(tmp_path)), Level.FAIL, "newuidmap is missing")
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).touch(mode=0o755)
    finding = rootless.id_mappers(str(tmp_path))
    is_bad(finding, Level.FAIL, "setuid")
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).chmod(0o4755)
    assert finding.remedy.startswith(f"chmod u+s {tmp_path / 'newuidmap'}")
    assert rootless.id_mappers(str(tmp_path)).level is Level.OK


def test_tables_of_subordinate_ids(tmp_path: Path) -> None:
    """By name or number, in several pieces; too few are a fault."""
    owner = Owner(1234, 1234, "/home/ann", "ann")
    (tmp_path / "subuid").write_text("bob:1:70000\nann:100000:65536\n")
    (tmp_path / "subgid").write_text("1234:100000:1000\nann:300000:64536\n# not:an\n")
    assert rootless.subordinate_ids(owner, tmp_path).found == "ann has 65536"
    (tmp_path / "subgid").write_text("ann:100000:1000\n")
    is_bad(rootless.subordinate_ids(owner, tmp_path), Level.FAIL, "ann has 1000")
    (tmp_path / "subgid").unlink()
    is_bad(rootless.subordinate_ids(owner, tmp_path), Level.FAIL, "none in", "subgid")


def test_the_runtime_folder(tmp_path: Path) -> None:
    """Gone, open to others, somebody else's, and right."""
    owner = Owner.current()
    folder = tmp_path / "run"
    named = {"XDG_RUNTIME_DIR": str(folder)}
    is_bad(rootless.runtime_folder(owner, named), Level.FAIL, "No such file")
    folder.mkdir(mode=0o755)
    finding = rootless.runtime_folder(owner, named)
    is_bad(finding, Level.FAIL, "others can enter")
    assert finding.remedy == f"chmod 700 {folder}"
    folder.chmod(0o700)
    assert rootless.runtime_folder(owner, named).level is Level.OK
    if owner.uid == 0:
        os.chown(folder, 65534, 65534)
    others = folder if owner.uid == 0 else Path("/")
    is_bad(rootless.runtime_folder(owner, {"XDG_RUNTIME_DIR": str(others)}), Level.FAIL, "belongs to uid")


def test_message_queues(tmp_path: Path) -> None:
    """Without them containers run all the same, and how to have them is told."""
    finding = containers.message_queues(tmp_path / "mqueue")
    is_bad(finding, Level.WARN, "mqueue is missing")
    assert "mount -t mqueue" in finding.remedy
    assert containers.message_queues(tmp_path).level is Level.OK


def test_the_service(short_tmp: Path) -> None:
    """One that listens is named; where there is none, or a dead one, ray-envd starts its own."""
    owner, path = Owner.current(), short_tmp / "podman" / "podman.sock"

    def look() -> str:
        finding = containers.service(owner, {"XDG_RUNTIME_DIR": str(short_tmp)}, short_tmp)
        assert finding.level is Level.OK
        return finding.found

    assert "No such file" in look()
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert look() == f"one listens on {path}"
    assert "Connection refused" in look()


# registries


def look_at(world: PodmanWorld, registry: Registry) -> Finding:
    return examine(world.variables, None, registry.address)[f"registry {registry.address}"]


def test_a_registry_that_speaks_plain_http(
    podman_folder: Path, registry: Registry, make_image: MakeImage
) -> None:
    """Podman refuses it; with the entry that the remedy names it pulls."""
    world = PodmanWorld.make(podman_folder / "strict")
    image = make_image("doctor/plain", files={"/plain": b"1"})
    try:
        finding = look_at(world, registry)
        is_bad(finding, Level.FAIL, "plain HTTP, which podman refuses")
        with pytest.raises(NodeError, match="HTTP response to HTTPS client"):
            world.podman("pull", image)
        entry = re.search(r"\[\[registry\]\].*true", finding.remedy)
        assert entry
        lines = re.sub(r" (location|insecure)", r"\n\1", entry[0])
        with (world.folder / "registries.conf").open("a") as conf:
            conf.write(f"\n{lines}\n")
        assert look_at(world, registry).level is Level.OK
        world.podman("pull", image)
        registry.stop()
        try:
            is_bad(look_at(world, registry), Level.FAIL, "does not answer", "refused")
        finally:
            registry.start()
    finally:
        world.close()


def test_a_registry_that_wants_a_password(podman_folder: Path) -> None:
    """A warning until somebody has logged in."""
    guarded = Registry(podman_folder / "wants", password=True).start()
    world = PodmanWorld.make(podman_folder / "login", [guarded.address], small=False)
    try:
        finding = look_at(world, guarded)
        is_bad(finding, Level.WARN, "wants a password")
        assert f"podman login {guarded.address}" in finding.remedy
        world.podman("login", "--username", USER, "--password", PASSWORD, guarded.address)
        assert f"{USER} is logged in" in look_at(world, guarded).found
    finally:
        guarded.stop()
        world.close()


def test_a_registry_with_a_certificate_of_its_own(
    podman_folder: Path, podman_world: PodmanWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its authority has to be put where podman looks for it."""
    authority = Authority.at(tmp_path)
    private = Registry(
        podman_folder / "private", certificate=(authority.certificate, authority.certificate)
    ).start()
    folder = tmp_path / "certs.d" / private.address
    monkeypatch.setattr(registries, "_CERTIFICATES", (str(tmp_path / "certs.d"),))
    try:
        finding = look_at(podman_world, private)
        is_bad(finding, Level.FAIL, "not trusted")
        assert f"{folder}/ca.crt" in finding.remedy
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.ca.read_bytes())
        assert look_at(podman_world, private).found == "it answers by HTTPS"
    finally:
        private.stop()
