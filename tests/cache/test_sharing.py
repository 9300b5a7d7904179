"""Sizes of objects that are linked to a pool and to one another, against what removing them really frees."""

import os
import shutil
import tempfile
from pathlib import Path

from helpers import quick_folder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from shelf import ME, du, key, never

from ray_envd.cache.sizes import measure
from ray_envd.cache.store import Store

_WHEELS = 4
_FILES = 3


def _wheel_files(wheel: int) -> list[str]:
    return [f"w{wheel}-{number}" for number in range(_FILES)]


class SharingMachine(RuleBasedStateMachine):
    """Environments linked from a pool of wheels that comes and goes, as uv's cache does."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="sharing-", dir=quick_folder()))
        self.store = Store.open(self.root / "store")
        self.pool = self.store.user_dir(ME).uv_cache
        self.made: dict[int, set[int]] = {}

    def _in_pool(self, wheel: int) -> Path:
        folder = self.pool / f"wheel-{wheel}"
        if not folder.exists():
            folder.mkdir()
            for number, name in enumerate(_wheel_files(wheel)):
                (folder / name).write_bytes(b"x" * (wheel + 1) * (number + 1) * 5000)
        return folder

    @rule(env=st.integers(0, 5), wheels=st.sets(st.integers(0, _WHEELS - 1), min_size=1))
    def build(self, env: int, wheels: set[int]) -> None:
        if env in self.made:
            return
        build = self.store.begin(key(env), ME)
        units = {}
        for wheel in sorted(wheels):
            folder = self._in_pool(wheel)
            for name in _wheel_files(wheel):
                os.link(folder / name, build.path / name)
                units[name] = f"wheel-{wheel}"
        (build.path / "own").write_bytes(b"x" * 9000)
        entry = self.store.commit(build, summary="", build_seconds=1, details={}, units=units)
        self.store.unhold(entry.key)
        assert entry.size.apparent == du(build.path)
        self.made[env] = wheels

    @rule(env=st.integers(0, 5))
    def evict(self, env: int) -> None:
        if env not in self.made:
            return
        entry = self.store.get(key(env))
        assert entry is not None
        expected = self.store.ledger().exclusive(entry.size)
        before = self._disk()
        freed = self.store.evict(key(env), never)
        del self.made[env]
        assert freed == expected == before - self._disk()

    @rule(wheel=st.integers(0, _WHEELS - 1))
    def prune(self, wheel: int) -> None:
        """The pool loses a wheel; those who have it keep it, and it is theirs from then on."""
        shutil.rmtree(self.pool / f"wheel-{wheel}", ignore_errors=True)
        self.store.refresh_units()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(self.root / "store")
        self.store.refresh_units()

    def _disk(self) -> int:
        """Blocks of the objects, each file once, those that the pool has too not."""
        pool = {path.stat().st_ino for path in self.pool.rglob("*")}
        seen = dict[int, int]()
        for path in self.store.layout.object(key(0)).parent.glob("*/**/*"):
            seen[path.stat().st_ino] = path.stat().st_blocks * 512
        folders = {path.stat().st_ino: path.stat().st_blocks * 512 for path in self._objects()}
        return sum(size for inode, size in (seen | folders).items() if inode not in pool)

    def _objects(self) -> list[Path]:
        return [self.store.layout.object(key(env)) for env in self.made]

    @invariant()
    def the_sums_agree_with_the_disk(self) -> None:
        assert self.store.stored_bytes() == self.store.ledger().total == self._disk()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)


SharingMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSharing = SharingMachine.TestCase


def test_links_inside_of_a_tree_are_its_own(tmp_path: Path) -> None:
    """A file with two names in one object is freed with it, and counts once."""
    (tmp_path / "a").write_bytes(b"x" * 9000)
    os.link(tmp_path / "a", tmp_path / "b")
    measured = measure(tmp_path)
    assert measured.size.units == ()
    assert measured.size.private == (tmp_path / "a").stat().st_blocks * 512 + tmp_path.stat().st_blocks * 512


def test_the_same_files_are_the_same_unit_whoever_has_them(tmp_path: Path) -> None:
    """A unit is known by its inodes: a copy is another one, whatever it is called."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "f").write_bytes(b"x" * 5000)
    for name, make in (("one", os.link), ("two", os.link), ("three", shutil.copy)):
        (tmp_path / name).mkdir()
        make(pool / "f", tmp_path / name / name)
    os.link(tmp_path / "three" / "three", tmp_path / "elsewhere")
    sizes = [measure(tmp_path / name, {name: f"called {name}"}).size for name in ("one", "two", "three")]
    assert sizes[0].units[0].id == sizes[1].units[0].id != sizes[2].units[0].id
    assert [unit.sample for size in sizes for unit in size.units] == ["one", "two", "three"]


def test_what_others_may_link_is_a_unit_before_anybody_does(tmp_path: Path) -> None:
    """So it is the same unit once somebody has; until then its removal frees it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    made = tmp_path / "one/made"
    made.write_bytes(b"x" * 5000)
    (tmp_path / "one/own").write_bytes(b"x" * 5000)
    before = measure(tmp_path / "one", linkable={"made": "unit"})
    (tmp_path / "two/made").hardlink_to(made)
    after = measure(tmp_path / "two", linkable={"made": "unit"})
    assert before.size.units == after.size.units
    assert [*before.links.values(), *after.links.values()] == [1, 2]
    assert before.size.apparent == measure(tmp_path / "one").size.apparent
