"""Helpers of the store's tests."""

import os
from pathlib import Path

from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.store import Entry, Store

ME = Owner.current()


def key(name: object, kind: str = "pip", owner: Owner = ME) -> ObjectKey:
    """A key made from anything."""
    return ObjectKey(owner.uid, kind, digest_of(str(name)))


def put(
    store: Store, name: object, *, kind: str = "pip", size: int = 100, owner: Owner = ME, held: bool = False
) -> Entry:
    """Builds and commits an object with one file."""
    build = store.begin(key(name, kind, owner), owner)
    with acting_as(owner):
        (build.path / "content").write_bytes(b"x" * size)
    entry = store.commit(build, summary=str(name), build_seconds=1.5, details={"name": str(name)})
    if not held:
        store.unhold(entry.key, entry.generation)
    return entry


def kill(store: Store) -> None:
    """Drops a store as a killed daemon would: nothing is written, the lock goes."""
    store._catalog._writer.submit(int).result()  # its thread is done: it would end with the daemon
    store._process_lock.release()


def never(_key: ObjectKey) -> bool:
    """Nothing is referenced."""
    return False


def below(folder: Path) -> list[str]:
    """Everything in a tree, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def du(folder: Path) -> int:
    """The bytes on disk of a tree without hard links, as ``du`` counts them."""
    return sum(path.lstat().st_blocks * 512 for path in [folder, *folder.rglob("*")])


def let_pass(folder: Path) -> None:
    """Lets other users through pytest's private folders above this one."""
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o711)


def age(folder: Path) -> None:
    """Lets a folder and its files look as if nothing had happened to them for some seconds."""
    for path in (*folder.iterdir(), folder):
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - 5 * 10**9))
