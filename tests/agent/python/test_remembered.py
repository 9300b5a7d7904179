"""What probes found, kept for the next daemon."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from package_world import Kit, make_venv, pythons

from ray_envd.agent.python import remembered
from ray_envd.agent.python.interpreter import Interpreter, Interpreters
from ray_envd.agent.python.remembered import Remembered
from ray_envd.cache.owner import Owner


class Counted:
    """A virtual environment's Python that notes each of its starts, and what is remembered of it."""

    def __init__(self, kit: Kit, root: Path) -> None:
        self.kit = kit
        self.venv, self.folder, self.log = root / "venv", root / "interpreters", root / "starts"
        real = make_venv(self.venv, next(iter(pythons().values())))
        self.python = root / "python"
        words = f"echo start >> {shlex.quote(str(self.log))}\nexec {shlex.quote(real)}"
        self.python.write_text(f'#!/bin/sh\n{words} "$@"\n')
        self.python.chmod(0o755)
        self.folder.mkdir()

    async def by_a_new_daemon(self) -> Interpreter:
        """The interpreter as a daemon sees it that remembers nothing but what is on disk."""
        daemon = Interpreters(lambda _owner: self.folder)
        return await daemon.probe(str(self.python), owner=Owner.current(), environment=self.kit.environment)

    @property
    def starts(self) -> int:
        """How often it was started."""
        return len(self.log.read_text().splitlines())

    @property
    def file(self) -> Path:
        """The one file that is kept."""
        (found,) = self.folder.iterdir()
        return found

    @property
    def site(self) -> Path:
        """Its site-packages."""
        (found,) = self.venv.glob("lib/python*/site-packages")
        return found


@pytest.fixture
def counted(kit: Kit, tmp_path: Path) -> Counted:
    """A fresh one."""
    return Counted(kit, tmp_path)


async def test_the_next_daemon_starts_no_python(counted: Counted) -> None:
    """It knows all that the last one knew, and the same digest, from the disk."""
    first = await counted.by_a_new_daemon()
    second = await counted.by_a_new_daemon()
    assert counted.starts == 1
    assert second == first
    assert second.digest == first.digest


async def test_another_environment_is_another_interpreter(counted: Counted, tmp_path: Path) -> None:
    """Variables that decide what is importable tell one finding from the other."""
    await counted.by_a_new_daemon()
    (tmp_path / "extra/dep-9.0.dist-info").mkdir(parents=True)
    (tmp_path / "extra/dep-9.0.dist-info/METADATA").write_text("Name: dep\nVersion: 9.0\n")
    counted.kit.environment["PYTHONPATH"] = str(tmp_path / "extra")
    assert (await counted.by_a_new_daemon()).installed == {"dep": "9.0"}
    assert counted.starts == 2


async def test_what_was_installed_between_two_daemons_is_noticed(counted: Counted) -> None:
    """Also if the folder's date says that nothing happened, as in images whose files all have one date."""
    assert (await counted.by_a_new_daemon()).installed == {}
    before = counted.site.stat()
    (counted.site / "tiny-1.0.dist-info").mkdir()
    (counted.site / "tiny-1.0.dist-info/METADATA").write_text("Name: tiny\nVersion: 1.0\n")
    os.utime(counted.site, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (await counted.by_a_new_daemon()).installed == {"tiny": "1.0"}
    assert (await counted.by_a_new_daemon()).installed == {"tiny": "1.0"}
    assert counted.starts == 2


def truncated(file: Path) -> None:
    """A daemon that died while it wrote, or a disk that lost its power."""
    file.write_bytes(file.read_bytes()[:100])


def of_another_shape(file: Path) -> None:
    """JSON, but nothing that a probe says."""
    file.write_text('{"version": 7, "stamps": []}')


def impossible_paths(file: Path) -> None:
    """Paths that no system call takes."""
    file.write_text(file.read_text().replace('"stamps": {"', '"stamps": {"\\u0000'))


def nested(file: Path) -> None:
    """JSON that is deeper than a parser goes."""
    file.write_text("[" * 200_000)


def too_large(file: Path) -> None:
    """More than anybody wants to read."""
    with file.open("r+b") as stream:
        stream.truncate(remembered._MOST_BYTES + 1)


def a_pipe(file: Path) -> None:
    """What a reader would wait for."""
    file.unlink()
    os.mkfifo(file)


def a_link(file: Path) -> None:
    """What leads elsewhere."""
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


DAMAGES = [truncated, of_another_shape, impossible_paths, nested, too_large, a_pipe, a_link]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_ignored_and_written_anew(
    counted: Counted, damage: Callable[[Path], None]
) -> None:
    """The interpreter is asked again, once."""
    first = await counted.by_a_new_daemon()
    damage(counted.file)
    assert await counted.by_a_new_daemon() == first
    assert await counted.by_a_new_daemon() == first
    assert counted.starts == 2


async def test_a_folder_that_cannot_be_written_costs_nothing_but_time(counted: Counted) -> None:
    """A probe whose findings cannot be kept still counts."""
    counted.folder.rmdir()
    counted.folder.write_text("no folder")
    assert (await counted.by_a_new_daemon()).installed == {}
    assert (await counted.by_a_new_daemon()).installed == {}
    assert counted.starts == 2


def test_only_the_newest_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many interpreters come and go, the folder does not grow for ever."""
    monkeypatch.setattr(remembered, "_MOST_FILES", 3)
    kept = Remembered(tmp_path)
    for number in range(5):
        kept.put(number, {"number": number})
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(number, number))
    assert [kept.get(number) for number in range(5)] == [None, None, *({"number": n} for n in (2, 3, 4))]
