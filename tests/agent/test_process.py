"""Running tools."""

import asyncio
import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import wait_until
from processes import marked

from ray_envd.agent import process
from ray_envd.agent.errors import ToolMissingError
from ray_envd.cache.owner import Owner

ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


async def run(*argv: str, **more: object) -> process.Completed:
    return await process.run(argv, env=ENV, cwd="/", owner=Owner.current(), **more)  # type: ignore[arg-type]  # run's own, passed on


async def test_output_of_both_streams_comes_in_order_with_the_exit_code() -> None:
    """A failing tool is not an exception; its lines are kept."""
    lines: list[str] = []
    done = await run("sh", "-c", "echo one; echo two >&2; echo; exit 3", on_line=lines.append)
    assert done.returncode == 3
    assert done.lines == ("one", "two", "") == tuple(lines)
    assert done.tail() == ("one", "two")


async def test_a_tool_lets_the_daemon_go_first() -> None:
    """It and what it starts, so that hits are answered while builds take what is left of the machine."""
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    script = "import os, subprocess; print(os.getpriority(os.PRIO_PROCESS, 0)); subprocess.run(['nice'])"
    done = await run(sys.executable, "-uc", script)
    assert done.lines == (str(max(10, mine)),) * 2


_SESSION_OF_A_TOOL = """
import asyncio, os, sys
from ray_envd.agent import process
from ray_envd.cache.owner import Owner
script = "import os; print(os.getsid(0), os.getpgid(0), os.getpid())"
done = asyncio.run(process.run([sys.executable, "-c", script], env={}, cwd="/", owner=Owner.current()))
print(os.getsid(0), os.getpgid(0), *done.lines)
"""


def test_a_tool_shares_its_daemons_session() -> None:
    """Its nice value counts against the daemon then, also where each session has a share of the cores."""
    command = [sys.executable, "-c", _SESSION_OF_A_TOOL]
    output = subprocess.run(command, check=True, capture_output=True, start_new_session=True).stdout
    session, group, its_session, its_group, its_pid = output.split()
    assert its_session == session
    assert its_group == its_pid != group


def test_a_tool_cannot_reach_its_daemons_terminal() -> None:
    """A daemon that somebody runs by hand gives its tools a session of their own."""
    terminal, its_end = pty.openpty()
    take = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    command = [sys.executable, "-c", take + _SESSION_OF_A_TOOL]
    try:
        done = subprocess.run(
            command, check=True, stdin=its_end, stdout=subprocess.PIPE, start_new_session=True
        )
    finally:
        os.close(terminal)
        os.close(its_end)
    session, _, its_session, _, its_pid = done.stdout.split()
    assert its_session == its_pid != session


async def test_a_missing_program_is_typed() -> None:
    """The error names the program and the remedy."""
    with pytest.raises(ToolMissingError, match="no-such-tool"):
        await run("/no-such-tool")


async def test_cancelling_ends_the_whole_group(tmp_path: Path) -> None:
    """Grandchildren that ignore SIGTERM are gone too."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; (trap '' TERM; sleep 60) & echo $! $$ > {pids}; wait"
    task = asyncio.create_task(run("sh", "-c", script))
    await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text().strip(), 5, "its pids")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = (await asyncio.to_thread(pids.read_text)).split()
    await asyncio.to_thread(wait_until, lambda: not any(_lives(int(pid)) for pid in found), 2, "their end")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


#: Leaves its session, its parent and its environment behind, as a daemon does, and writes its pid.
_ESCAPE = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN);"
        code += "open(sys.argv[1], 'a').write(f'{os.getpid()}\\\\n'); time.sleep(600)"
        os.execve(sys.executable, [sys.executable, "-I", "-c", code, sys.argv[1]], {})
    os._exit(0)
os.wait()
"""


async def test_what_a_tool_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """Also a daemon in a session of its own, without environment, that holds the tool's output open."""
    pids = tmp_path / "pids"
    waits = (
        "import pathlib, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nprint('out')"
    )
    done = await asyncio.wait_for(run(sys.executable, "-I", "-c", _ESCAPE + waits, str(pids)), 30)
    assert done.returncode == 0
    assert done.lines == ("out",)
    assert not _lives(int(await asyncio.to_thread(pids.read_text)))


async def test_cancelling_ends_what_has_escaped(tmp_path: Path) -> None:
    """The cancellation is passed on when nothing of the run lives, whatever became of its parents."""
    pids = tmp_path / "pids"
    code = _ESCAPE + "import time; time.sleep(600)"
    task = asyncio.create_task(run(sys.executable, "-I", "-c", code, str(pids)))
    await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text().strip(), 20, "its pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _lives(int(await asyncio.to_thread(pids.read_text)))


async def test_a_listener_that_fails_ends_the_run(tmp_path: Path) -> None:
    """An error of our own is raised, and the tool does not run on without anybody to read it."""
    pids = tmp_path / "pids"

    def fail(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="hello"):
        await run("sh", "-c", f"echo $$ > {pids}; echo hello; sleep 600", on_line=fail)
    assert not _lives(int(await asyncio.to_thread(pids.read_text)))


async def test_lines_come_while_the_tool_runs(tmp_path: Path) -> None:
    """A user reads along; an output that is closed early does not end the run, nor its wait."""
    lines: list[str] = []
    gate = tmp_path / "gate"
    script = f"printf 'one\\ntw'; while [ ! -e {gate} ]; do sleep 0.02; done; echo o;"
    script += "exec >&- 2>&-; sleep 0.2; exit 4"
    task = asyncio.create_task(run("sh", "-c", script, on_line=lines.append))
    await asyncio.to_thread(wait_until, lambda: lines == ["one"], 10, "the first line")
    gate.touch()
    done = await task
    assert done.lines == ("one", "two")
    assert done.returncode == 4


async def test_a_line_without_end_is_bounded() -> None:
    """Output without line ends does not fill the daemon's memory in one piece."""
    done = await run("sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x")
    assert sum(len(line) for line in done.lines) == 1_000_000
    assert max(len(line) for line in done.lines) < 200_000


async def test_the_environment_is_exactly_what_was_given() -> None:
    """Nothing of the daemon's own environment reaches a tool."""
    done = await process.run(
        [sys.executable, "-I", "-c", "import os; print(sorted(os.environ))"],
        env={"ONLY": "this"},
        cwd="/",
        owner=Owner.current(),
    )
    assert "PATH" not in done.lines[0]
    assert "ONLY" in done.lines[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run tools as somebody else")
async def test_a_tool_runs_as_its_owner_without_roots_groups() -> None:
    """A build of another user has his uid, his gid and no group of root's."""
    done = await process.run(["id"], env=ENV, cwd="/", owner=Owner(12345, 12346, "/", "12345"))
    assert "uid=12345 gid=12346 groups=12346" in done.lines[0]


async def test_a_next_daemon_ends_what_one_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools carry the mark of their store, and so do their children; those of another store are spared."""
    monkeypatch.setattr(process, "_mark", {})
    mine, others = tmp_path / "mine", tmp_path / "others"
    running = {}
    for store in (mine, others):
        await asyncio.to_thread(process.adopt, store)
        running[store] = asyncio.create_task(run("sh", "-c", "sleep 60 & wait"))
        mark = f"TOOL_OF={store}"
        await asyncio.to_thread(wait_until, lambda mark=mark: len(marked(mark)) == 2, 10)
    assert await asyncio.to_thread(process.adopt, mine) == 2
    assert (await running[mine]).returncode == -9
    assert not running[others].done()
    running[others].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running[others]
