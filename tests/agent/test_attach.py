"""Attaching and detaching on made-up installations of Ray that real interpreters find."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray_installation import ORIGINAL, Installation

from ray_envd import __version__
from ray_envd.agent import stock_agent
from ray_envd.agent.attach import AttachError, attach, detach, status
from ray_envd.agent.link.script import SETTINGS_NAME, STOCK_NAME
from ray_envd.agent.link_files import LinkFiles

SOCKET = Path("/run/ray-envd/ray-envd.sock.link")
DAEMON = ["/opt/ray-envd/bin/ray-envd", "serve"]


def test_attach_and_detach_leave_no_trace(ray: Installation) -> None:
    """Detach restores Ray's own agent byte for byte, and its mode; both may be repeated."""
    ray.main.chmod(0o640)
    before = ray.files()
    report = attach(ray.python, socket=SOCKET, daemon=DAEMON)
    assert (report.changed, report.action, report.ray_version) == (True, "attached", "2.60.0")
    assert report.agent_dir == ray.agent
    link = LinkFiles.own()
    assert ray.main.read_bytes() == link.main
    assert {path.stat().st_mode & 0o777 for path in ray.agent.rglob("*") if path.is_file()} == {0o640}
    modules = {f"{link.package}/{name}" for name in link.modules}
    bytecode = {name for name in ray.files() if "__pycache__" in name}
    assert ray.files().keys() == {"main.py", STOCK_NAME, SETTINGS_NAME} | modules | bytecode
    assert len(bytecode) == len(modules) + 1
    assert ray.files()[STOCK_NAME] == ORIGINAL
    assert ray.settings() == {
        "version": __version__,
        "socket": str(SOCKET),
        "daemon": DAEMON,
        "ray_version": "2.60.0",
        "start_seconds": 10.0,
        "restart_seconds": 20.0,
    }
    again = attach(ray.python, socket=SOCKET, daemon=DAEMON)
    assert (again.changed, again.action) == (False, "unchanged")
    assert detach(ray.python).action == "detached"
    assert ray.files() == before
    assert ray.main.stat().st_mode & 0o777 == 0o640
    assert not detach(ray.python).changed


def test_attached_script_runs_under_that_interpreter(ray: Installation, short_tmp: Path) -> None:
    """The link finds its settings and the stock agent beside it."""
    attach(ray.python, socket=SOCKET, daemon=["/nonexistent/ray-envd"])
    environment = {"RAY_ENVD_SOCKET": str(short_tmp / "none.sock")}
    flags = ["--runtime-env-dir=/tmp/x/y", "--node-ip-address=127.0.0.1"]
    done = subprocess.run(
        [str(ray.python), str(ray.main), *flags], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode() == "café\n"
    assert b"/nonexistent/ray-envd cannot be run" in done.stderr


def test_other_settings_are_an_update(ray: Installation) -> None:
    """Attaching again with another socket, or supervised, changes the settings and keeps the stock agent."""
    attach(ray.python, socket=SOCKET, daemon=DAEMON)
    assert attach(ray.python, socket=None, daemon=None).action == "updated"
    assert ray.settings()["socket"] is None
    assert ray.settings()["daemon"] is None
    assert ray.files()[STOCK_NAME] == ORIGINAL


def test_shared_files_are_never_written_through(ray: Installation, tmp_path: Path) -> None:
    """An installer's cache that holds the same file by a hard link keeps Ray's own agent."""
    cache = tmp_path / "cached-main.py"
    os.link(ray.main, cache)
    attach(ray.python, socket=SOCKET, daemon=None)
    assert cache.read_bytes() == ORIGINAL
    detach(ray.python)
    assert cache.read_bytes() == ray.main.read_bytes() == ORIGINAL


def test_status_follows_an_installation(ray: Installation) -> None:
    """Each state has its advice: not attached, attached, Ray upgraded, older link, stock agent gone."""
    first = status(ray.python)
    assert (first.attached, first.known, first.link_version) == (False, True, None)
    assert first.advice == "run `ray-envd attach`"
    attach(ray.python, socket=SOCKET, daemon=DAEMON)
    attached = status(ray.python)
    assert (attached.attached, attached.current, attached.stock_kept, attached.advice) == (
        True,
        True,
        True,
        "",
    )
    assert (attached.socket, attached.daemon) == (SOCKET, tuple(DAEMON))
    assert attached.link_version == __version__

    ray.install("2.59.0", b"# a newer agent\n")
    upgraded = status(ray.python)
    assert (upgraded.attached, upgraded.stock_kept) == (False, True)
    assert "attach` again" in upgraded.advice
    assert attach(ray.python, socket=SOCKET, daemon=DAEMON).action == "attached"
    assert ray.files()[STOCK_NAME] == b"# a newer agent\n"
    assert ray.settings()["ray_version"] == "2.59.0"

    ray.main.write_bytes(ray.main.read_bytes() + b"# of another ray-envd\n")
    older = status(ray.python)
    assert (older.attached, older.current) == (True, False)
    assert "another version" in older.advice
    assert attach(ray.python, socket=SOCKET, daemon=DAEMON).action == "updated"

    (ray.agent / STOCK_NAME).unlink()
    lost = status(ray.python)
    assert not lost.stock_kept
    assert "install Ray again" in lost.advice
    for change in (lambda: attach(ray.python, socket=SOCKET, daemon=None), lambda: detach(ray.python)):
        with pytest.raises(AttachError) as failed:
            change()
        assert "install Ray again" in failed.value.remedy


def test_detach_after_an_upgrade_keeps_the_new_agent(ray: Installation) -> None:
    """A stale stock agent never replaces the one that an upgrade of Ray brought."""
    attach(ray.python, socket=SOCKET, daemon=None)
    ray.install("2.59.0", b"# a newer agent\n")
    assert not detach(ray.python).changed
    assert ray.files() == {"main.py": b"# a newer agent\n"}


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("2.48.0", False),
        ("2.49.0", True),
        ("2.49.1", True),
        ("2.54.0", True),
        ("2.60.1", True),
        ("2.61.0", False),
        ("3.0.0.dev0", False),
        ("nightly", False),
    ],
)
def test_unknown_versions_take_force(ray: Installation, version: str, *, known: bool) -> None:
    """A Ray outside the known range is refused with a remedy, and changed only by force."""
    ray.install(version)
    before = ray.files()
    assert status(ray.python).known == known
    if not known:
        with pytest.raises(AttachError, match=version) as refused:
            attach(ray.python, socket=SOCKET, daemon=None)
        assert "--force" in refused.value.remedy
        assert ray.files() == before
    assert attach(ray.python, socket=SOCKET, daemon=None, force=not known).changed


def test_editable_installation_is_found(bare_venv: Path, tmp_path: Path) -> None:
    """Ray that a .pth file brings is attached where it really is."""
    folder = tmp_path / "venv"
    shutil.copytree(bare_venv, folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "_ray.pth").write_text(f"{tmp_path / 'checkout'}\n")
    ray = Installation(folder / "bin" / "python", tmp_path / "checkout" / "ray")
    assert attach(ray.python, socket=SOCKET, daemon=None).agent_dir == ray.agent
    assert status(ray.python).attached


def test_rays_own_user_site_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter of the system finds what `pip install --user` put into the home."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    monkeypatch.setenv("HOME", str(tmp_path))
    program = "import site; print(site.getusersitepackages())"
    folder = subprocess.run([python, "-E", "-c", program], capture_output=True, text=True, check=True).stdout
    ray = Installation(python, Path(folder.strip()) / "ray")
    assert status(python).agent_dir == ray.agent


def test_callers_folder_and_variables_do_not_count(
    ray: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ray in the current folder or on PYTHONPATH is not the one that raylets run."""
    other = Installation(ray.python, tmp_path / "here" / "ray", "2.50.0")
    monkeypatch.chdir(other.package.parent)
    monkeypatch.setenv("PYTHONPATH", str(other.package.parent))
    assert status(ray.python).agent_dir == ray.agent


def test_interpreter_that_cannot_tell(bare_venv: Path, tmp_path: Path) -> None:
    """No program, no Python, no Ray, no agent in it: each is said, with a remedy."""
    script = tmp_path / "not-python"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no luck >&2\nexit 3\n")
    failing.chmod(0o755)
    for python, words in (
        (tmp_path / "missing", "cannot be run: No such file"),
        (script, "does not answer like a Python"),
        (failing, "no luck"),
        (bare_venv / "bin" / "python", "has no Ray"),
    ):
        with pytest.raises(AttachError, match=words) as failed:
            status(python)
        assert failed.value.remedy


def test_ray_without_an_agent_is_said(ray: Installation) -> None:
    """A Ray too old or too new to have that script is not touched."""
    ray.main.unlink()
    with pytest.raises(AttachError, match=r"has no _private/runtime_env/agent/main\.py"):
        attach(ray.python, socket=SOCKET, daemon=None, force=True)


@pytest.mark.parametrize(
    ("socket", "daemon"),
    [
        (Path("relative.sock"), None),
        (Path("/" + "x" * 107), None),
        (SOCKET, ["ray-envd", "serve"]),
        (SOCKET, []),
    ],
)
def test_settings_that_could_not_work_are_refused(
    ray: Installation, socket: Path, daemon: list[str] | None
) -> None:
    """A path that no socket can have, or a program that a raylet would not find."""
    with pytest.raises(AttachError) as failed:
        attach(ray.python, socket=socket, daemon=daemon)
    assert failed.value.remedy
    assert not status(ray.python).attached


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to be another user")
def test_folder_of_another_user(bare_venv: Path, short_tmp: Path) -> None:
    """As root the files become the owner's; what that owner may not write is left alone, with a remedy."""
    short_tmp.chmod(0o755)
    shutil.copytree(bare_venv, short_tmp / "venv", symlinks=True)
    (short_tmp / "venv").chmod(0o755)
    (site_packages,) = short_tmp.glob("venv/lib/python*/site-packages")
    ray = Installation(short_tmp / "venv" / "bin" / "python", site_packages / "ray")
    shutil.chown(ray.agent, 65534, 65534)
    shutil.chown(ray.main, 65534, 65534)
    attach(ray.python, socket=SOCKET, daemon=None)
    assert {path.stat().st_uid for path in ray.agent.rglob("*")} == {65534}
    detach(ray.python)
    ray.agent.chmod(0o555)
    before = ray.files()
    with pytest.raises(AttachError, match="cannot be changed: Permission denied") as refused:
        attach(ray.python, socket=SOCKET, daemon=None)
    assert "sudo" in refused.value.remedy
    assert ray.files() == before


_WRITES = 3 + 2 * len(LinkFiles.own().modules) + 1


@pytest.mark.parametrize("step", [1, 2, _WRITES // 2, _WRITES - 1, _WRITES])
def test_interruption_leaves_one_agent_or_the_other(
    ray: Installation, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A disk that is full at any of the writes leaves Ray's own agent in place and no stray file."""
    real = stock_agent.AgentFiles._replace
    calls = 0

    def failing(self: stock_agent.AgentFiles, path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(28, "No space left on device")
        real(self, path, content)

    monkeypatch.setattr(stock_agent.AgentFiles, "_replace", failing)
    with pytest.raises(AttachError, match="No space left"):
        attach(ray.python, socket=SOCKET, daemon=None)
    assert ray.main.read_bytes() == ORIGINAL
    assert not status(ray.python).attached
    monkeypatch.undo()
    assert attach(ray.python, socket=SOCKET, daemon=None).action == "attached"
    detach(ray.python)
    assert ray.files() == {"main.py": ORIGINAL}
