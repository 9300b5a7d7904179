"""Trees of sessions: shared while in use, as they were made for the next user, nothing of a job's lost."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from ray_envd.agent import trees as module
from ray_envd.agent.errors import EnvError
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.agent.tree_files import Look
from ray_envd.agent.trees import LAYERS, Trees
from ray_envd.cache.owner import Owner


def report(_phase: str, _detail: str = "", *, done: int = 0, total: int = 0) -> None:
    """Nobody listens."""


class Place:
    """One session's trees; ``made`` counts how often they were made."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.session = Session(
            "s", Owner.current(), "/python", {}, folder, settings=SessionSettings(**settings)
        )
        self.trees = Trees()
        self.made = 0
        self.files = {"data/file": "content", "module.py": "x = 1", "empty/": ""}

    def make(self, path: Path, _stopped: Callable[[], bool]) -> int:
        self.made += 1
        for name, text in self.files.items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                target.mkdir()
            else:
                target.write_text(text)
        return 1000

    async def obtain(self, origin: str = "o", field: str = "working_dir", name: str = "tree") -> Path:
        return await self.trees.obtain(self.session, field, name, origin, self.make, report)

    async def use(self, env: str = "env", **options: Any) -> Path:
        """Obtains the tree for an env, which then has a user."""
        path = await self.obtain(**options)
        assert self.trees.are_there([str(path)])
        self.trees.enter(self.session.id, env, [str(path)])
        return path

    def leave(self, env: str = "env") -> None:
        self.trees.leave(self.session.id, env)

    async def restarted(self, users: dict[str, list[str]] | None = None) -> None:
        """What another daemon finds."""
        self.trees = Trees()
        await self.trees.recover(self.session, users or {})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


WRITES: dict[str, Callable[[Path], Any]] = {
    "a file is changed": lambda tree: (tree / "module.py").write_text("x = 2"),
    "a file is deleted": lambda tree: (tree / "data/file").unlink(),
    "a file is added": lambda tree: (tree / "data/result.csv").write_text("1,2"),
    "a folder is added": lambda tree: (tree / "out").mkdir(),
    "an empty folder is deleted": lambda tree: (tree / "empty").rmdir(),
    "a mode is changed": lambda tree: (tree / "module.py").chmod(0o755),
    "a folder's mode is changed": lambda tree: (tree / "data").chmod(0o777),
    "a link is put in the place of a file": lambda tree: [
        (tree / "module.py").unlink(),
        (tree / "module.py").symlink_to("data/file"),
    ],
    "all of it is deleted": lambda tree: [
        (tree / "module.py").rename(tree.parent / "away"),
        tree.rename(tree.parent / "gone"),
    ],
}


def forge(tree: Path) -> None:
    """Another content of the same size and time."""
    times = (tree / "module.py").stat()
    (tree / "module.py").write_text("x = 9")
    os.utime(tree / "module.py", ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("write", [*WRITES.values(), forge], ids=[*WRITES, "its times are set back"])
async def test_the_next_user_gets_what_was_packed(place: Place, write: Callable[[Path], Any]) -> None:
    """Whatever a job did to a tree, whoever comes after the last user finds it as it was made."""
    tree = await place.use()
    await in_thread(write, tree)
    place.leave()
    assert not place.trees.are_there([str(tree)])
    assert await place.use() == tree
    texts = await in_thread(lambda: [(tree / name).read_text() for name in ("data/file", "module.py")])
    assert texts == ["content", "x = 1"]
    assert await in_thread(lambda: {each.name for each in tree.iterdir()}) == {"data", "empty", "module.py"}
    assert place.made == 2


async def test_a_tree_that_nobody_wrote_into_is_used_again(place: Place) -> None:
    """It is not made anew, and once it was looked at it is there for a hit in memory."""
    tree = await place.use()
    place.leave()
    assert not place.trees.are_there([str(tree)])
    await in_thread(wait_until, lambda: place.trees.are_there([str(tree)]), 10, "the look at it")
    await place.use()
    assert place.made == 1


async def test_a_look_at_once(place: Place) -> None:
    """Whoever cannot wait for it gets it now: a pristine tree is there, one that was written into is not."""
    tree = str(await place.use())
    place.leave()
    assert await place.trees.settle([tree])
    place.trees.enter(place.session.id, "env", [tree])
    await in_thread(Path(tree, "written").touch)
    place.leave()
    assert not await place.trees.settle([tree])


async def test_users_share_a_tree(place: Place) -> None:
    """While anybody uses it, it stays as its users made it, also for those who come."""
    tree = await place.use("one")
    await in_thread((tree / "written").write_text, "by one")
    await place.use("two")
    place.leave("one")
    assert place.trees.are_there([str(tree)])
    await place.use("three")
    assert await in_thread((tree / "written").exists)
    assert place.made == 1


async def test_results_are_kept(place: Place) -> None:
    """What a job wrote stands beside the new tree under a name of its own, whole."""
    tree = await place.use()
    await in_thread((tree / "result").write_text, "42")
    place.leave()
    assert await in_thread((tree / "result").read_text) == "42"
    await place.use()
    (left,) = await in_thread(lambda: list(tree.parent.glob("tree.left-*")))
    assert await in_thread(lambda: ((left / "result").read_text(), (left / "module.py").exists())) == (
        "42",
        True,
    )


async def test_compiled_modules_are_no_results(place: Place) -> None:
    """A worker that only imports leaves __pycache__: that is removed, and nothing is made anew."""
    tree = await place.use()
    await in_thread(lambda: [(tree / "data/__pycache__").mkdir(), (tree / "data/__pycache__/m.pyc").touch()])
    place.leave()
    await place.use()
    assert not await in_thread((tree / "data/__pycache__").exists)
    assert place.made == 1


async def test_compiled_modules_of_a_package_are_part_of_it(place: Place) -> None:
    """A package that brings its own is made anew when one of them was replaced."""
    place.files["__pycache__/m.pyc"] = "packed"
    tree = await place.use()
    await in_thread((tree / "__pycache__/m.pyc").write_text, "forged")
    place.leave()
    await place.use()
    assert await in_thread((tree / "__pycache__/m.pyc").read_text) == "packed"


async def test_a_layer_that_was_written_into_is_not_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody wants a job's installations back: they go once its last worker has gone."""
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    tree = await place.use(field=LAYERS)
    await in_thread((tree / "installed").write_text, "x")
    place.leave()
    await in_thread(wait_until, lambda: not tree.exists(), 10, "the layer's end")
    await place.use(field=LAYERS)
    assert await in_thread(lambda: [each.name for each in tree.parent.iterdir() if each.name[0] != "."]) == [
        "tree"
    ]


async def test_an_unused_tree_of_something_else_is_made_anew(place: Place) -> None:
    """A URI whose content has changed: those who use the old one keep it, the next user has the new one."""
    await place.use("one", origin="old")
    await place.use("two", origin="new")
    assert place.made == 1
    place.leave("one")
    place.leave("two")
    await place.use("three", origin="new")
    assert place.made == 2


async def test_the_next_daemon(place: Place) -> None:
    """It leaves trees in use alone, looks at the others, and knows what was set aside."""
    used, unused = await place.use(name="used"), await place.use("two", name="unused")
    for tree in (used, unused):
        await in_thread((tree / "written").write_text, "x")
    await place.restarted({"env": [str(used)]})
    assert place.trees.are_there([str(used)])
    assert not place.trees.are_there([str(unused)])
    await place.use(name="used")
    await place.use("two", name="unused")
    assert await in_thread(lambda: ((used / "written").exists(), (unused / "written").exists())) == (
        True,
        False,
    )
    await place.restarted()
    place.session.settings = SessionSettings(cache_bytes={"working_dir": 0})
    place.trees.shrink(place.session)
    folder = used.parent
    await in_thread(wait_until, lambda: not any(folder.iterdir()), 10, "an empty folder")


async def test_two_raylets_with_one_folder(place: Place) -> None:
    """A tree that two raylets of a machine share stays while either uses it, and when one of them ends."""
    tree = await place.use()
    other = Session("t", Owner.current(), "/python", {}, place.session.runtime_env_dir)
    await place.trees.recover(other, {})
    place.trees.enter(other.id, "env", [str(tree)])
    await in_thread((tree / "written").write_text, "x")
    place.trees.forget(place.session.id)
    assert place.trees.are_there([str(tree)])
    place.trees.shrink(other)
    assert await in_thread((tree / "written").exists)


async def test_a_tree_that_cannot_be_made(place: Place) -> None:
    """The disk's words reach the user, and the next attempt starts afresh."""

    def fail(path: Path, _stopped: Callable[[], bool]) -> int:
        path.mkdir()
        raise OSError(28, "No space left on device", str(path))

    with pytest.raises(EnvError, match="the disk is full"):
        await place.trees.obtain(place.session, "working_dir", "tree", "o", fail, report)
    await place.use()
    assert place.made == 1


async def test_many_who_want_one_tree(place: Place) -> None:
    """It is made once."""
    await asyncio.gather(*(place.obtain() for _ in range(50)))
    assert place.made == 1


def test_a_look_goes_through_any_name(tmp_path: Path) -> None:
    """Names that are no text, links to nowhere and to folders, and pipes: each counts, none is followed."""
    looks = [Look.at(tmp_path, with_caches=True).digest]
    changes: list[Callable[[], Any]] = [
        (tmp_path / os.fsdecode(b"\xff\n")).touch,
        lambda: (tmp_path / "nowhere").symlink_to("missing"),
        lambda: (tmp_path / "up").symlink_to(".."),
        lambda: os.mkfifo(tmp_path / "pipe"),
        (tmp_path / "a").mkdir,
        (tmp_path / "a/b").touch,
    ]
    for change in changes:
        change()
        looks.append(Look.at(tmp_path, with_caches=True).digest)
    assert len(set(looks)) == len(looks)
    assert Look.at(tmp_path, with_caches=True).digest == looks[-1]
