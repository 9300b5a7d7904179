"""The log that Ray shows a job's user while its env is prepared."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_envd.agent.progress import Event
from ray_envd.agent.redaction import Redactor
from ray_envd.agent.sessions import Session
from ray_envd.agent.setup_log import SetupLog, SetupLogWriter
from ray_envd.cache.owner import Owner


@pytest.fixture
def writer() -> Iterator[SetupLogWriter]:
    made = SetupLogWriter()
    yield made
    made.close()


def session(folder: Path, **more: object) -> Session:
    return Session("s", Owner.current(), "/python", {}, folder, log_dir=folder, **more)  # type: ignore[arg-type]  # Session's own, passed on


def test_lines_go_to_the_jobs_file_and_to_named_files_masked(writer: SetupLogWriter, tmp_path: Path) -> None:
    """Every file gets every line; secrets in none."""
    log = SetupLog(writer, session(tmp_path), "01000000", ["extra.log"], Redactor(["canary"]))
    log.event(Event("pip", "downloading", "six from canary", 5, 10))
    assert writer.flushed().wait(5)
    for name in ("runtime_env_setup-01000000.log", "extra.log"):
        text = (tmp_path / name).read_text()
        assert "INFO ray-envd -- pip: downloading six from *** (50 %, 5/10)" in text


@pytest.mark.parametrize("name", ["../outside.log", "/tmp/ray-envd-outside.log", "a/../../x"])
def test_a_file_outside_of_the_log_folder_is_refused_aloud(
    writer: SetupLogWriter, tmp_path: Path, name: str
) -> None:
    """A runtime env cannot make the daemon write elsewhere; the user reads why."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = SetupLog(writer, session(folder), "01000000", [name], Redactor())
    log.write("hello")
    assert writer.flushed().wait(5)
    assert [path.name for path in folder.iterdir()] == ["runtime_env_setup-01000000.log"]
    assert "outside of the log folder" in (folder / "runtime_env_setup-01000000.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_hostile_job_id_is_no_path(writer: SetupLogWriter, tmp_path: Path) -> None:
    """The job id comes from the request; anything but letters and digits is not used in a name."""
    folder = tmp_path / "logs"
    folder.mkdir()
    SetupLog(writer, session(folder), "../../evil", [], Redactor()).write("hello")
    assert writer.flushed().wait(5)
    assert [path.name for path in folder.iterdir()] == ["runtime_env_setup.log"]


def test_logs_rotate_at_the_clusters_limit(writer: SetupLogWriter, tmp_path: Path) -> None:
    """The raylet's --logging-rotate-* flags hold for set-up logs, as in stock."""
    log = SetupLog(writer, session(tmp_path, rotate_bytes=300, rotate_count=2), "1", [], Redactor())
    for number in range(20):
        log.write(f"line {number} " + "x" * 50)
    assert writer.flushed().wait(5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"runtime_env_setup-1.log{suffix}" for suffix in ("", ".1", ".2")]
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())


def test_a_missing_folder_does_not_stop_the_writer(writer: SetupLogWriter, tmp_path: Path) -> None:
    """A log folder that has gone costs the log, not the env."""
    SetupLog(writer, session(tmp_path / "gone"), "1", [], Redactor()).write("lost")
    SetupLog(writer, session(tmp_path), "2", [], Redactor()).write("kept")
    assert writer.flushed().wait(5)
    assert "kept" in (tmp_path / "runtime_env_setup-2.log").read_text()


@pytest.mark.usefixtures("other_users")
def test_the_file_belongs_to_the_sessions_owner(writer: SetupLogWriter, short_tmp: Path) -> None:
    """A daemon of root writes logs as the user, so that his Ray can rotate and remove them."""
    short_tmp.chmod(0o755)
    folder = short_tmp / "logs"
    folder.mkdir()
    os.chown(folder, 12345, 12346)
    owner = Owner(12345, 12346, "/", "12345")
    made = Session("s", owner, "/python", {}, folder, log_dir=folder)
    SetupLog(writer, made, "1", [], Redactor()).write("mine")
    assert writer.flushed().wait(5)
    assert (folder / "runtime_env_setup-1.log").stat().st_uid == 12345
