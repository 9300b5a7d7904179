"""A store on a file system with reflinks: what is written into an environment stays in that one."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, quick_folder, wait_until
from raylet import Env, MakeRaylet

from ray_envd.agent.doctor import store as doctor
from ray_envd.cache.reflink import clones_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system"),
]
#: mkfs.xfs makes none smaller; the image's file is sparse.
_BYTES = 320 * 1024**2
_WHERE = "import shared; print(shared.__file__)"
_SPOIL = "import shared; open(shared.__file__, 'r+').write('SPOILT')"


@pytest.fixture(params=["xfs", "btrfs"])
def disk(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own."""
    place = short_tmp / "disk"
    place.mkdir()
    # Its loop device writes to memory: on a busy disk a daemon waits for seconds.
    with tempfile.TemporaryDirectory(prefix="re-", dir=quick_folder(_BYTES)) as folder:
        yield from _mounted(Path(folder) / "image", place, request.param)


def _mounted(image: Path, place: Path, kind: str) -> Iterator[Path]:
    with image.open("wb") as file:
        file.truncate(_BYTES)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    mount = ["mount", "-o", "loop", image, place]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no image can be mounted here: {done.stderr.strip()}")
    place.chmod(0o755)
    yield place
    unmount = ["umount", place]
    wait_until(lambda: not subprocess.run(unmount, check=False).returncode, 10, "the disk's last user")


@pytest.fixture
def daemon_there(disk: Path, start_daemon: Any) -> Daemon:
    """A daemon whose store is on it."""
    made: Daemon = start_daemon(folder=disk)
    return made


def test_it_is_known(disk: Path, tmp_path: Path) -> None:
    """By trying it, and nothing is left of the attempt; doctor says how environments are protected."""
    assert clones_files(disk)
    assert "reflinks work" in doctor.hard_links(disk).found
    assert not [path for path in disk.iterdir() if path.name != "lost+found"]
    with pytest.raises(OSError, match="No such file"):
        clones_files(tmp_path / "nowhere")


def test_a_write_into_an_environment_stays_there(
    daemon_there: Daemon, make_raylet: MakeRaylet, interpreter: str, tmp_path: Path
) -> None:
    """Others with the same wheel, uv's cache, and what is built from it later are as they were."""
    for name in ("shared", "one", "two", "three"):
        make_wheel(tmp_path, name, "1.0", source="#" * 9000)
    raylet = make_raylet(daemon_there, python=interpreter)

    def prepared(name: str) -> Any:
        options = ["--no-index", "--find-links", str(tmp_path)]
        env: Env = {"uv": {"packages": ["shared", name], "uv_pip_install_options": options}}
        return raylet.prepared(env)

    first, second = prepared("one"), prepared("two")
    spoilt, spared = Path(raylet.run(first, _WHERE)), Path(raylet.run(second, _WHERE))
    before = spared.read_text()
    raylet.run(first, _SPOIL)
    assert spoilt.read_text().startswith("SPOILT")
    (cached,) = (daemon_there.store / f"users/{os.geteuid()}/uv-cache/archive-v0").glob("*/shared.py")
    later = Path(raylet.run(prepared("three"), _WHERE))
    assert spared.read_text() == cached.read_text() == later.read_text() == before
    assert {path.stat().st_nlink for path in (spoilt, spared, cached, later)} == {1}
