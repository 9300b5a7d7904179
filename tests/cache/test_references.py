import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from shelf import below, key

from ray_envd.cache.counts import Counts
from ray_envd.cache.errors import CorruptError, NotFoundError, NotReferencedError
from ray_envd.cache.keys import digest_of
from ray_envd.cache.references import References

ENV, OTHER = digest_of("env"), digest_of("other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def references(folder: Path) -> References:
    opened = References.open(folder)
    opened.start("s", {"python": "/usr/bin/python3"})
    opened.bind("s", ENV, [key("a"), key("b")], {"context": "{}"})
    return opened


def test_references_are_counted_per_session_and_env(references: References) -> None:
    """An object is referenced as long as any env of any session that stands on it is."""
    references.start("t", {})
    references.bind("t", ENV, [key("b")], {})
    assert references.acquire("s", ENV) == 1
    assert references.acquire("s", ENV) == 2
    assert references.acquire("t", ENV) == 1
    assert [references.object_count(key(name)) for name in "abc"] == [1, 2, 0]
    assert references.total() == 3
    assert references.release("s", ENV) == 1
    assert references.release("s", ENV) == 0
    assert [references.is_referenced(key(name)) for name in "ab"] == [False, True]
    assert (references.count("s", ENV), references.count("t", ENV)) == (0, 1)


def test_a_release_without_an_acquire_is_an_error_and_changes_nothing(references: References) -> None:
    """Also for an env or a session that nobody knows."""
    for session, env in (("s", ENV), ("s", OTHER), ("nobody", ENV)):
        with pytest.raises(NotReferencedError):
            references.release(session, env)
    assert references.total() == 0
    assert references.acquire("s", ENV) == 1


def test_only_a_bound_env_of_a_known_session_is_acquired(references: References) -> None:
    """Otherwise nobody would know which objects to keep."""
    for session, env in (("s", OTHER), ("nobody", ENV)):
        with pytest.raises(NotFoundError):
            references.acquire(session, env)
    with pytest.raises(NotFoundError):
        references.bind("nobody", ENV, [], {})


@pytest.mark.parametrize("session", ["", ".", "..", "a/b", "a b", "x" * 129, "a\n"])
def test_a_session_id_that_could_lead_elsewhere_is_refused(references: References, session: str) -> None:
    """It becomes the name of a folder."""
    with pytest.raises(ValueError, match="not a session id"):
        references.start(session, {})


def test_an_env_digest_is_a_digest(references: References) -> None:
    """It becomes the name of a file, and has a fixed place in the counts."""
    for digest in ("", "../x", "ab", ENV.upper()):
        with pytest.raises(ValueError, match="not the digest"):
            references.bind("s", digest, [], {})


def test_everything_is_there_after_a_restart(references: References, folder: Path) -> None:
    """Sessions, facts, envs and counts, without any closing word."""
    references.acquire("s", ENV)
    references.acquire("s", ENV)
    references.bind("s", OTHER, [key("c")], {"n": 1})
    again = References.open(folder)
    assert again.sessions() == references.sessions()
    assert sorted(again.envs("s"), key=lambda env: env.env_digest) == sorted(
        references.envs("s"), key=lambda env: env.env_digest
    )
    assert again.total() == 2
    assert [again.is_referenced(key(name)) for name in "abc"] == [True, True, False]
    assert again.release("s", ENV) == 1
    assert again.acquire("s", OTHER) == 1


def test_a_session_that_comes_back_keeps_its_counts(references: References, folder: Path) -> None:
    """Its facts are the new ones."""
    references.acquire("s", ENV)
    for opened in (references, References.open(folder)):
        opened.start("s", {"python": "/opt/python"})
        assert opened.count("s", ENV) == 1
        assert opened.sessions()[0].facts == {"python": "/opt/python"}


def test_a_sessions_end_ends_its_references_alone(references: References, folder: Path) -> None:
    """Twice ended is ended; another session's references stay; nothing is left on disk."""
    references.start("t", {})
    references.bind("t", ENV, [key("a")], {})
    for _ in range(3):
        references.acquire("s", ENV)
    references.acquire("t", ENV)
    assert references.end("s") == 3
    assert references.end("s") == 0
    assert references.total() == 1
    assert [references.object_count(key(name)) for name in "ab"] == [1, 0]
    assert [path.name for path in folder.iterdir()] == ["t"]
    references.start("s", {})
    assert references.envs("s") == []


def test_a_bound_env_in_use_keeps_its_objects_and_gains_new_ones(
    references: References, folder: Path
) -> None:
    """Those who have it stand on the old objects, those who come on the new, until nobody has it."""
    references.acquire("s", ENV)
    references.bind("s", ENV, [key("b"), key("c")], {"context": "new"})
    for opened in (references, References.open(folder)):
        assert [opened.object_count(key(name)) for name in "abc"] == [1, 1, 1]
        assert opened.envs("s")[0].summary == {"context": "new"}
    references.release("s", ENV)
    assert not any(references.is_referenced(key(name)) for name in "abc")
    references.bind("s", ENV, [key("c")], {})
    references.acquire("s", ENV)
    for opened in (references, References.open(folder)):
        assert [opened.object_count(key(name)) for name in "abc"] == [0, 0, 1]


def test_thousands_of_envs_of_a_session(references: References, folder: Path) -> None:
    """The file of counts grows under the counts that it holds."""
    references.acquire("s", ENV)
    for number in range(600):
        references.bind("s", digest_of(number), [key(number)], {})
        for _ in range(number % 3):
            references.acquire("s", digest_of(number))
    again = References.open(folder)
    assert [again.count("s", digest_of(n)) for n in range(600)] == [n % 3 for n in range(600)]
    assert again.count("s", ENV) == 1
    assert again.total() == references.total() == 601


def test_unfinished_and_foreign_sessions_are_dropped(
    references: References, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder without session.json, noise, a stray file: none keeps the daemon from starting."""
    references.acquire("s", ENV)
    (folder / "unfinished" / "envs").mkdir(parents=True)
    (folder / "stray").write_text("x")
    (folder / "bad name").mkdir()
    references.start("noise", {})
    (folder / "noise" / "counts").write_bytes(b"noise" * 1000)
    references.start("broken", {})
    (folder / "broken" / "session.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        again = References.open(folder)
    assert [record.session_id for record in again.sessions()] == ["s"]
    assert [path.name for path in folder.iterdir()] == ["s"]
    assert again.total() == 1
    assert len(caplog.messages) == 5


def test_a_session_of_an_earlier_boot_is_over(
    references: References, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its raylet cannot be alive, and its counts were never meant to survive a loss of power."""
    references.acquire("s", ENV)
    monkeypatch.setattr("ray_envd.cache.session_files.boot_id", lambda: "another")
    again = References.open(folder)
    assert (again.sessions(), again.total()) == ([], 0)
    assert below(folder) == []


def test_half_written_files_of_a_killed_daemon_are_cleared(references: References, folder: Path) -> None:
    """A half-written env was not acquired yet; the others are untouched."""
    references.acquire("s", ENV)
    half = folder / "s" / "envs" / f".{OTHER}.json.new"
    half.write_text('{"obj')
    again = References.open(folder)
    assert not half.exists()
    assert [env.env_digest for env in again.envs("s")] == [ENV]
    assert again.count("s", ENV) == 1


def test_a_binding_that_cannot_be_written_changes_nothing(
    references: References, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an env stands on is replaced whole or not at all."""
    references.acquire("s", ENV)
    before = references.envs("s")

    def fail(_path: Path, _target: Path) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="space"):
            references.bind("s", ENV, [key("z")], {})
    assert references.envs("s") == before
    assert References.open(folder).envs("s") == before


def test_a_slot_whose_digest_was_cut_off_counts_nothing(tmp_path: Path) -> None:
    """A kill between digest and count leaves a slot that is free again."""
    counts = Counts(tmp_path / "counts")
    counts.add(ENV)
    counts[ENV] = 5
    counts.close()
    with (tmp_path / "counts").open("r+b") as file:
        file.seek(80)
        file.write(bytes.fromhex(OTHER)[:11])
    again = Counts(tmp_path / "counts")
    assert again.digests == [ENV]
    again.add(OTHER)
    assert (again[ENV], again[OTHER]) == (5, 0)
    again.forget(ENV)
    assert again[ENV] == 0


def test_a_file_that_was_just_made_when_the_daemon_died_is_begun_anew(tmp_path: Path) -> None:
    """Any length of zeros is an empty file of counts; another version of it is refused."""
    for size in (0, 39, 40, 4096):
        (tmp_path / "counts").write_bytes(bytes(size))
        counts = Counts(tmp_path / "counts")
        while counts.is_full:
            counts.extend()
            counts.remap()
        counts.add(ENV)
        counts[ENV] = 2**40
        counts.close()
        assert Counts(tmp_path / "counts")[ENV] == 2**40
    (tmp_path / "counts").write_bytes(b"RAYENVDC" + (2).to_bytes(8, sys.byteorder) + bytes(4080))
    with pytest.raises(CorruptError):
        Counts(tmp_path / "counts")


def test_threads_count_exactly(references: References, folder: Path) -> None:
    """Acquires and releases from many threads, while envs are bound and the file grows beneath."""
    start = threading.Barrier(5)

    def count() -> None:
        start.wait(10)
        for _ in range(500):
            references.acquire("s", ENV)
        for _ in range(300):
            references.release("s", ENV)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait(10)
    for number in range(300):
        references.bind("s", digest_of(number), [key(number)], {})
    for thread in threads:
        thread.join(30)
    assert references.count("s", ENV) == references.total() == 800
    assert References.open(folder).count("s", ENV) == 800


_COUNTER = """
import os, sys
from pathlib import Path
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.references import References
references = References.open(Path(sys.argv[1]))
references.start("s", {})
envs = [digest_of(n) for n in range(3)]
for number, env in enumerate(envs):
    references.bind("s", env, [ObjectKey(0, "pip", env)], {})
number = 0
while True:
    number += 1
    env = envs[number % 3]
    if number % 7 == 0 and references.count("s", env):
        references.release("s", env)
    else:
        references.acquire("s", env)
    os.write(1, b".")
"""


def _expected(steps: int) -> list[int]:
    counts = [0, 0, 0]
    for number in range(1, steps + 1):
        counts[number % 3] += -1 if number % 7 == 0 and counts[number % 3] else 1
    return counts


@pytest.mark.parametrize("after", [0, 1, 300, 2000])
def test_counts_are_exact_after_a_kill(folder: Path, after: int) -> None:
    """SIGKILL at any instant: every step that was answered is counted, at most the next one as well."""
    with subprocess.Popen(
        [sys.executable, "-c", _COUNTER, str(folder)], stdout=subprocess.PIPE, bufsize=0
    ) as counter:
        assert counter.stdout is not None
        seen = 0
        while seen < after:
            seen += len(counter.stdout.read(min(512, after - seen)) or b"")
        os.kill(counter.pid, signal.SIGKILL)
        counter.wait(10)
        seen += len(counter.stdout.read() or b"")
    references = References.open(folder)
    counts = [references.count("s", digest_of(n)) for n in range(3)]
    assert counts in (_expected(seen), _expected(seen + 1))
    assert references.total() == sum(counts)


def test_unbinding_forgets_only_what_nobody_uses(tmp_path: Path) -> None:
    """An env in use stays; one that is not leaves its slot and its file, also for the next daemon."""
    references = References.open(tmp_path / "r")
    references.start("s", {})
    used, unused = "a" * 64, "b" * 64
    for digest in (used, unused):
        references.bind("s", digest, [], {})
    references.acquire("s", used)
    assert references.unbind("s", unused)
    assert not references.unbind("s", used)
    assert not references.unbind("s", unused)
    assert [env.env_digest for env in references.envs("s")] == [used]
    references.close()
    again = References.open(tmp_path / "r")
    assert [(env.env_digest, env.count) for env in again.envs("s")] == [(used, 1)]
    again.close()
