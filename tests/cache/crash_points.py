"""Kills a process at every step that touches the file system, restarts, and checks the store's promises.

Run as a program by test_crash_points.py: it forks, which a process with gRPC's threads must not. An audit
hook (PEP 578) sees every open, rename, removal, folder and link; before the n-th one the process kills itself
with SIGKILL, for n from 1 until the scenario gets through. What it had been told was done is in a pipe that
the parent reads. Then recovery is killed at one of its own steps, and in the end let through.

Steps inside SQLite and the stores to mapped memory are not seen here.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from helpers import quick_folder
from shelf import ME, below, key

from ray_envd.cache.collect import collect
from ray_envd.cache.gc import Limits
from ray_envd.cache.keys import digest_of
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry, Store

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "os.truncate"}
_CONTENT = b"x" * 10_000


class Bomb:
    """Kills the process at its n-th step, once armed."""

    def __init__(self) -> None:
        self.left = 0
        sys.addaudithook(self._step)

    def _step(self, event: str, _arguments: object) -> None:
        if self.left and event in _EVENTS:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


bomb = Bomb()


def scenario(root: Path, done: Callable[[str], None]) -> None:
    """A life of a store: every operation that changes the disk, each reported when it has returned."""
    store = Store.open(root)
    references = References.open(store.layout.sessions)
    references.start("s", {})
    for name in ("a", "b", "c"):
        build = store.begin(key(name), ME)
        (build.path / "folder").mkdir()
        (build.path / "folder" / "content").write_bytes(_CONTENT)
        store.commit(build, summary=name, build_seconds=1, details={"name": name})
        done(f"committed {name}")
    store.pin(key("c"))
    done("pinned c")
    for name in ("a", "b"):
        store.link(digest_of("request", name), key(name), None)
        references.bind("s", digest_of(name), [key(name)], {})
        references.acquire("s", digest_of(name))
        done(f"acquired {name}")
        store.unhold(key(name))
    store.unhold(key("c"))
    abandoned = store.begin(key("d"), ME)
    (abandoned.path / "content").write_bytes(_CONTENT)
    (store.user_dir(ME).staging / "download").write_bytes(_CONTENT)
    store.abandon(abandoned)
    store.begin(key("e"), ME)
    references.bind("s", digest_of("a"), [key("a"), key("c")], {})
    references.release("s", digest_of("b"))
    done("released b")
    done("evicting b")
    collect(store, references, Limits(), now=4e9, target=0)
    done("evicted b")
    store.unpin(key("c"))
    done("unpinned c")
    references.start("t", {})
    references.bind("t", digest_of("c"), [key("c")], {})
    references.acquire("t", digest_of("c"))
    done("acquired c")
    done("ending t")
    references.end("t")
    done("ended t")
    store.flush()
    store.close()


def recovery(root: Path, _done: Callable[[str], None]) -> None:
    """A start, as far as the sweep."""
    store = Store.open(root)
    References.open(store.layout.sessions)
    store.sweep()


def run(
    what: Callable[[Path, Callable[[str], None]], None], root: Path, kill_at: int
) -> tuple[list[str], bool]:
    """Runs it in a child that dies at a step; returns what it had done, and whether it got through."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            bomb.left = kill_at
            what(root, partial(_tell, writer))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        done = lines.read().splitlines()
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return done, not os.WIFSIGNALED(status)


def _tell(writer: int, text: str) -> None:
    os.write(writer, f"{text}\n".encode())


def check(root: Path, done: list[str]) -> None:
    """The promises, after a restart."""
    store = Store.open(root)
    references = References.open(store.layout.sessions)
    store.sweep()
    there = {entry.summary: entry for entry in store.entries()}
    _check_objects(there, done)
    _check_references(references, done)
    _check_residue(store, {entry.key.id for entry in there.values()})
    for name in {"a", "b", "c", "d", "e"} - there.keys():
        build = store.begin(key(name), ME)
        assert below(build.path) == []
        store.abandon(build)
    store.close()


def _check_objects(there: dict[str, Entry], done: list[str]) -> None:
    """What was committed and not evicted is there, whole and pinned as was said; nothing else is."""
    for entry in there.values():
        assert (entry.path / "folder" / "content").read_bytes() == _CONTENT, f"{entry.summary} is not whole"
        assert entry.details == {"name": entry.summary}
    for name in ("a", "b", "c"):
        if f"committed {name}" in done and not (name == "b" and "evicting b" in done):
            assert name in there, f"{name} was committed and is lost"
    assert "b" not in there or "evicted b" not in done, "b was evicted and is back"
    assert not {"d", "e"} & there.keys()
    if "pinned c" in done and "evicted b" not in done:
        assert there["c"].pinned
    if "unpinned c" in done:
        assert not there["c"].pinned


def _check_references(references: References, done: list[str]) -> None:
    """Every count is what was answered; the one operation under way may or may not count."""
    for name, session in (("a", "s"), ("b", "s"), ("c", "t")):
        count = references.count(session, digest_of(name))
        ended = {"b": "released b", "c": "ended t"}.get(name, "never")
        ending = {"b": "acquired b", "c": "ending t"}.get(name, "never")
        if ended in done:
            assert count == 0, f"{name} has {count} references after its end"
        elif f"acquired {name}" in done and ending not in done:
            assert count == 1, f"{name} has {count} references"
        else:
            assert count in {0, 1}
        if count:
            assert references.is_referenced(key(name))


def _check_residue(store: Store, objects: set[str]) -> None:
    dirs = store.user_dir(ME)
    assert below(dirs.trash) == below(dirs.staging) == []
    assert {path for path in below(dirs.objects) if path.count("/") == 1} == objects
    assert {
        path.split("/", 1)[1].removesuffix(".json")
        for path in below(store.layout.markers)
        if path.count("/") > 1
    } == objects


def main() -> None:
    """Every step of the scenario, each followed by another step of the recovery."""
    step = recoveries = 0
    through = False
    while not through:
        step += 1
        with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
            root = Path(folder) / "store"
            done, through = run(scenario, root, step)
            # Steps of recovery are fewer; over all of the scenario's, each of them has its turn many times.
            recoveries += not run(recovery, root, step % 29 + 1)[1]
            check(root, done)
    sys.stdout.write(f"{step - 1} steps, {recoveries} killed recoveries\n")


if __name__ == "__main__":
    main()
