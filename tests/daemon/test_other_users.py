"""A daemon of root serves the raylets of every user, as each of them, and keeps them apart."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from package_world import make_sdist
from processes import clean_environment
from raylet import MakeRaylet, Raylet
from sources import left_over, make_zip

from ray_envd.agent.pb import admin_pb2

SYSTEM = "/usr/bin/python3"
pytestmark = pytest.mark.usefixtures("other_users")
#: Three users; none of them needs an entry in the password database.
ALICE, BOB, CAROL = 41001, 41002, 41003
#: A hello that says the least.
SOME_WORDS = {"protocol": 1, "python": SYSTEM, "runtime_env_dir": "/x", "environment": {"A": "1"}}


def as_user(uid: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program as a user."""
    return subprocess.run(
        list(map(str, words)),
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,  # a peer that is never answered is a failure, not a standstill
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )


def owners(*folders: Path) -> set[int]:
    """Who owns what lies in folders."""
    return {path.lstat().st_uid for folder in folders for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def alice(make_raylet: MakeRaylet) -> Raylet:
    """A raylet of alice's."""
    return make_raylet(uid=ALICE, python=SYSTEM)


@pytest.fixture
def bob(make_raylet: MakeRaylet) -> Raylet:
    """A raylet of bob's."""
    return make_raylet(uid=BOB, python=SYSTEM)


@pytest.fixture
def packages(place: Path) -> Path:
    """A folder that everybody may read."""
    folder = place / "packages"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


def sessions_of(daemon: Daemon) -> list[Any]:
    """Every session that the daemon serves."""
    with daemon.admin() as admin:
        return list(admin.List(admin_pb2.ListRequest()).sessions)


def readable(folder: Path) -> Path:
    """Lets everybody read what is in a folder."""
    for path in folder.rglob("*"):
        path.chmod(0o755)
    return folder


def test_what_is_made_for_a_user_is_his(node: Daemon, alice: Raylet, packages: Path) -> None:
    """Trees, env files, logs and objects belong to the uid of the link, and the worker can use them."""
    package = make_zip(packages / "p.zip", {"mine.py": "x = 'working dir'"})
    make_wheel(packages, "tiny", "1.0")
    readable(packages)
    options = ["--no-index", "--find-links", str(packages)]
    created = alice.prepared(
        {
            "working_dir": package.as_uri(),
            "pip": {"packages": ["tiny"], "pip_install_options": options},
            "env_vars": {"A": "secret of hers"},
        }
    )
    code = "import mine, tiny, os; print(mine.x, tiny.__version__, os.environ['A'], os.getuid())"
    assert alice.run(created, code) == f"working dir 1.0 secret of hers {ALICE}"
    assert owners(alice.session, node.store / f"users/{ALICE}") == {ALICE}
    assert "installing" in alice.setup_log()
    assert (alice.logs / "runtime_env_setup-01000000.log").stat().st_uid == ALICE
    assert left_over(node.store) == []


def test_the_build_runs_as_the_user(node: Daemon, alice: Raylet, packages: Path) -> None:
    """A package's own code has his identity, and nothing of root's."""
    witness = alice.folder / "witness"
    prologue = (
        f"import os, json\nwith open({str(witness)!r}, 'w') as f:\n"
        "    json.dump([os.getuid(), os.geteuid(), os.getgid(), os.getgroups()], f)\n"
    )
    make_sdist(packages, "curious", "1.0", prologue=prologue)
    readable(packages)
    options = ["--no-index", "--find-links", str(packages)]
    alice.prepared({"pip": {"packages": ["curious"], "pip_install_options": options}})
    uid, effective, gid, groups = json.loads(witness.read_text())
    assert (uid, effective, gid) == (ALICE, ALICE, ALICE)
    assert set(groups) <= {ALICE}
    assert witness.stat().st_uid == ALICE


def test_nobody_else_can_read_it(node: Daemon, alice: Raylet, packages: Path) -> None:
    """A third user sees neither her objects nor the values of her env_vars, nor the daemon's own files."""
    package = make_zip(packages / "private.zip", {"private.py": "x = 1"})
    readable(packages)
    alice.prepared({"working_dir": package.as_uri(), "env_vars": {"A": "secret of hers"}})
    (script,) = alice.resources.glob("ray-envd/*.sh")
    for path in (
        script,
        node.store / f"users/{ALICE}/objects-v1",
        node.store / "users",
        node.store / "markers-v1",
        node.store / "sessions-v1",
        node.store / "catalog-v1",
    ):
        assert as_user(CAROL, "ls" if path.is_dir() else "cat", path).returncode, path
    assert as_user(ALICE, "cat", script).returncode == 0
    assert as_user(CAROL, SYSTEM, "-c", connect(node.socket)).returncode


def connect(path: Path) -> str:
    """A program that connects to a socket and tells how much it is told."""
    return (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(len(s.recv(99)))"
    )


def test_a_user_gets_nothing_that_he_may_not_read(alice: Raylet, bob: Raylet) -> None:
    """A package of hers that he cannot read is not fetched for him, though it is in the store already."""
    package = make_zip(alice.folder / "p.zip", {"m.py": "x = 1"})
    os.chown(package, ALICE, ALICE)
    package.chmod(0o600)
    env = {"working_dir": package.as_uri()}
    assert alice.create(env).ok
    assert "ermission" in bob.refused(env)


def test_no_user_shares_what_another_built(node: Daemon, alice: Raylet, bob: Raylet, packages: Path) -> None:
    """The same env of two users is two objects: what one may write never reaches the other's worker."""
    make_wheel(packages, "tiny", "2.0")
    readable(packages)
    options = ["--no-index", "--find-links", str(packages)]
    env = {"pip": {"packages": ["tiny==2.0"], "pip_install_options": options}}
    for user, uid in ((alice, ALICE), (bob, BOB)):
        assert f"/users/{uid}/" in user.run(user.prepared(env), "import tiny; print(tiny.__file__)")


def test_a_worker_cannot_write_into_the_store(node: Daemon, alice: Raylet, packages: Path) -> None:
    """Once an environment is sealed its files are read-only also for its user; his layer is not."""
    for name in ("tiny", "more"):
        make_wheel(packages, name, "3.0")
    readable(packages)
    options = ["--no-index", "--find-links", str(packages)]
    env = {"uv": {"packages": ["tiny==3.0"], "uv_pip_install_options": options}}
    created = alice.prepared(env)
    module = Path(alice.run(created, "import tiny; print(tiny.__file__)"))
    objects = node.store / f"users/{ALICE}/objects-v1"

    def is_protected() -> bool:
        return all(not each.stat().st_mode & 0o222 for each in (module, *objects.glob("*/*/venv")))

    wait_until(is_protected, 60, "the sealing of environment and shadow")
    attempts = """
import os, sysconfig, tiny
folder = os.path.dirname(tiny.__file__)
for attempt in (
    lambda: open(tiny.__file__, "r+"),
    lambda: os.remove(tiny.__file__),
    lambda: open(os.path.join(folder, "new.py"), "x"),
    lambda: os.rename(tiny.__file__, os.path.join(folder, "old.py")),
):
    try:
        attempt()
    except PermissionError:
        continue
    print("written")
open(os.path.join(sysconfig.get_path("purelib"), "tiny.py"), "w").write("__version__ = 'mine'")
"""
    assert alice.run(created, attempts) == ""
    assert alice.run(created, "import tiny; print(tiny.__version__)") == "mine"
    # uv still works with what is read-only: the shadow, and files of its cache.
    options = [*options, "--reinstall"]
    more = {"uv": {"packages": ["tiny==3.0", "more==3.0"], "uv_pip_install_options": options}}
    again = alice.prepared(more)
    assert alice.run(again, "import more, tiny; print(more.__version__, tiny.__version__)") == "3.0 3.0"
    assert alice.delete(env)
    assert alice.run(alice.prepared(env), "import tiny; print(tiny.__version__)") == "3.0"


def test_nobody_speaks_for_the_session_of_another(node: Daemon, alice: Raylet) -> None:
    """A hello of bob's with the words of her link neither takes over nor ends her session."""
    alice.prepared({"env_vars": {"A": "1"}})
    sessions = {each.id for each in sessions_of(node)}
    (hers,) = [each for each in sessions if each.startswith(f"{ALICE}-")]
    words = {
        "protocol": 1,
        "session": hers.removeprefix(f"{ALICE}-"),
        "python": SYSTEM,
        "runtime_env_dir": str(alice.resources),
        "environment": {"A": "1"},
        "raylet_pid": alice.process.pid if alice.process else 0,
    }
    done = as_user(BOB, SYSTEM, "-c", hello(f"{node.socket}.link", words))
    assert json.loads(done.stdout)["ok"], done.stderr
    wait_until(lambda: {each.id for each in sessions_of(node)} == sessions, 5, "the end of his session")
    assert alice.references() == 1


def hello(path: str, words: dict[str, object]) -> str:
    """A program that says hello, prints the answer and leaves."""
    return f"""
import json, socket, struct
listener = socket.create_server(("127.0.0.1", 0))
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
body = {json.dumps(words)!r}.encode()
socket.send_fds(connection, [struct.pack(">I", len(body))], [listener.fileno()])
connection.sendall(body)
print(connection.recv(65536).decode())
"""


@pytest.mark.parametrize(
    "words",
    [
        {"session": "../../escape"},
        {"session": "a/b"},
        {"session": "x" * 500},
        {"session": "x", "raylet_pid": "many"},
        {"session": "x", "environment": ["A"]},
        {"session": "x", "logging": "loud"},
        {"session": "x", "runtime_env_dir": "relative/../.."},
        {"session": "x", "protocol": 99},
    ],
    ids=str,
)
def test_a_hello_of_nonsense_is_refused(node: Daemon, alice: Raylet, words: dict[str, object]) -> None:
    """Its link is told so, no session is left, and others are served on."""
    before = {each.id for each in sessions_of(node)}
    done = as_user(BOB, SYSTEM, "-c", hello(f"{node.socket}.link", {**SOME_WORDS, **words}))
    assert done.stdout.strip(), done.stderr
    assert not json.loads(done.stdout)["ok"]
    assert {each.id for each in sessions_of(node)} == before
    assert alice.create({"env_vars": {"A": "1"}}).ok


def test_root_writes_no_log_where_a_user_points(alice: Raylet, place: Path) -> None:
    """A link in her log folder to a file of root's is not followed with root's rights."""
    victim = place / "victim"
    victim.write_text("untouched")
    victim.chmod(0o600)
    (alice.logs / "runtime_env_setup-02000000.log").symlink_to(victim)
    alice.prepared({"env_vars": {"A": "1"}}, job="02000000")
    alice.prepared({"env_vars": {"A": "2"}}, job="03000000")
    wait_until(lambda: alice.setup_log("03000000"), 5, "the next log")
    assert victim.read_text() == "untouched"


def test_root_unpacks_nothing_where_a_user_points(alice: Raylet, place: Path, packages: Path) -> None:
    """A link in her session folder to a folder of root's is not followed with root's rights."""
    victim = place / "victims"
    victim.mkdir(mode=0o755)
    package = make_zip(packages / "q.zip", {"m.py": "x = 1"})
    readable(packages)
    (alice.resources / "working_dir_files").symlink_to(victim)
    assert not alice.create({"working_dir": package.as_uri()}).ok
    assert list(victim.iterdir()) == []


@pytest.fixture
def users_daemon(short_tmp: Path) -> Iterator[tuple[Daemon, subprocess.Popen[bytes]]]:
    """A daemon of alice's own."""
    os.chown(short_tmp, ALICE, ALICE)
    short_tmp.chmod(0o755)
    daemon = Daemon.at(short_tmp)
    if as_user(ALICE, sys.executable, "-c", "import ray_envd.agent.server").returncode:
        pytest.skip("this interpreter is not readable for others")
    log = (short_tmp / "daemon.log").open("wb")
    process = subprocess.Popen(
        daemon.command,
        user=ALICE,
        group=ALICE,
        extra_groups=[],
        env={**clean_environment(), "HOME": str(short_tmp)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd="/",
    )
    wait_until(lambda: daemon.socket.exists() and Path(f"{daemon.socket}.link").exists(), 20, "her daemon")
    yield daemon, process
    process.kill()
    process.wait()
    log.close()


def test_a_users_daemon_serves_that_user_alone(
    users_daemon: tuple[Daemon, subprocess.Popen[bytes]], make_raylet: MakeRaylet
) -> None:
    """Her own link is served; another user's is refused, at the socket's mode and at the hello."""
    daemon, _ = users_daemon
    hers = make_raylet(daemon, uid=ALICE, python=SYSTEM)
    assert hers.create({"env_vars": {"A": "1"}}).ok
    link = Path(f"{daemon.socket}.link")
    assert link.stat().st_mode & 0o777 == 0o600
    words = {
        "protocol": 1,
        "session": "x",
        "python": SYSTEM,
        "runtime_env_dir": "/x",
        "environment": {"A": "1"},
    }
    assert as_user(BOB, SYSTEM, "-c", hello(str(link), words)).returncode
    link.chmod(0o666)
    refused = json.loads(as_user(BOB, SYSTEM, "-c", hello(str(link), words)).stdout)
    assert not refused["ok"]
    assert "its own user only" in refused["error"]
    assert refused["fallback"]


def test_the_control_socket_is_closed_to_others(node: Daemon) -> None:
    """Even where the file's mode would let him, the kernel's word keeps him out."""
    node.socket.chmod(0o666)
    try:
        done = as_user(
            CAROL, SYSTEM, "-c", f"{connect(node.socket).replace('s.recv(1)', 'print(len(s.recv(99)))')}"
        )
        assert done.stdout.strip() == "0", done.stderr
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(str(node.socket))
            assert ours.recv(99)
    finally:
        node.socket.chmod(0o600)
