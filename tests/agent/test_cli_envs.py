"""``create`` and ``run``."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import ENV, FakeDaemon

from ray_envd.agent.cli.common import CliError, Exit
from ray_envd.agent.cli.spec_argument import read_spec
from ray_envd.agent.pb import admin_pb2 as pb

PROGRAM = [sys.executable, "-m", "ray_envd"]
FAILURE = pb.CreateRuntimeEnvFailure(
    code="resolution", message="runtime_env['pip'] could not be resolved: no six==99\n  remedy: another"
)


@pytest.fixture
def environ(fake: FakeDaemon, daemon_socket: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ENVD_")}
    return {**clean, "RAY_ENVD_SOCKET": str(daemon_socket), "COVERAGE_PROCESS_START": ""}


@pytest.fixture
def call(environ: dict[str, str]) -> Any:
    """Runs the real command; ``input``, ``cwd`` and more go to subprocess."""

    def run(*args: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        env = {**environ, **more.pop("env", {})}
        return subprocess.run(
            [*PROGRAM, *args], capture_output=True, text=True, timeout=60, check=False, env=env, **more
        )

    return run


# SPEC


def test_a_spec_is_json_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three are read; local names in it are found from the file's folder."""
    (tmp_path / "code").mkdir()
    (tmp_path / "more.whl").write_bytes(b"")
    (tmp_path / "reqs.txt").write_text("# a comment\nsix==1.16.0\n\n  idna\n")
    spec = {
        "working_dir": "code",
        "py_modules": ["more.whl", "s3://b/x.zip"],
        "pip": "reqs.txt",
        "env_vars": {"A": "1"},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert read_spec('{"a": 1}') == {"a": 1}
    assert read_spec(str(tmp_path / "spec.json")) == {
        "working_dir": f"local://{tmp_path / 'code'}",
        "py_modules": [f"file://{tmp_path / 'more.whl'}", "s3://b/x.zip"],
        "pip": {"packages": ["six==1.16.0", "idna"]},
        "env_vars": {"A": "1"},
    }
    monkeypatch.chdir(tmp_path)
    assert read_spec('{"working_dir": "."}') == {"working_dir": f"local://{tmp_path}"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON list, not an object"),
        ("/no/such/file", "cannot be read: No such file"),
        ('{"uv": "/no/reqs.txt"}', "the field 'uv' cannot be read"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_reason(spec: str, reason: str) -> None:
    """And nothing of its content is repeated."""
    with pytest.raises(CliError, match=reason) as caught:
        read_spec(spec)
    assert caught.value.exit == Exit.USAGE
    assert caught.value.remedy


# create


def test_create_shows_phases_as_lines_without_a_terminal(call: Any, fake: FakeDaemon) -> None:
    """Steps go to stderr, the result to stdout."""
    done = call("create", "-", input='{"pip": ["six"]}')
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == ["ready in 40 ms (built)", "  python-env/ab12ab12ab12"]
    assert done.stderr.splitlines() == [
        "pip: resolving",
        "pip: downloading six (50 %, 5/10)",
        "working_dir: unpacking (3)",
    ]
    assert fake.requests[0].serialized_runtime_env == '{"pip": ["six"]}'


def test_running_counts_are_one_line_without_a_terminal(call: Any, fake: FakeDaemon) -> None:
    """A download of a thousand steps is no thousand lines."""
    fake.steps = [
        pb.ProgressEvent(field="pip", phase="downloading", detail="six", done=n, total=99) for n in range(99)
    ]
    assert len(call("create", "{}").stderr.splitlines()) == 1


def test_create_passes_what_it_was_told(call: Any, fake: FakeDaemon) -> None:
    """Interpreter as an absolute path, time-out as Ray means it, chosen variables only."""
    env = {"MY_A": "1", "MY_B": "2", "YOUR_C": "no"}
    done = call("create", "{}", "--python", "sh", "--timeout", "1m", "--pass-env", "MY_*", env=env)
    assert done.returncode == 0
    request = fake.requests[0]
    assert request.python.startswith("/")
    assert request.python.endswith("/sh")
    assert request.setup_timeout_seconds == 60
    assert dict(request.environment) == {"MY_A": "1", "MY_B": "2"}
    assert not request.hold
    call("create", "{}", "--timeout", "none")
    assert fake.requests[1].setup_timeout_seconds == -1
    assert call("create", "{}", "--python", "/no/python").returncode == 2


def test_create_as_json_is_a_line_for_each_event(call: Any) -> None:
    """The last line is the result, or the error; nothing is on stderr."""
    done = call("create", "{}", "--json")
    *steps, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert steps[1] == {
        "event": "progress",
        "field": "pip",
        "phase": "downloading",
        "detail": "six",
        "done": 5,
        "total": 10,
    }
    assert (last["event"], last["objects"][0], last["context"]["py_executable"]) == ("result", ENV, "python3")
    assert done.stderr == ""


def test_a_failed_env_is_exit_code_1(call: Any, fake: FakeDaemon) -> None:
    """The daemon's message as it is, with code as JSON."""
    fake.failure = FAILURE
    done = call("create", "{}")
    assert done.returncode == 1
    assert "error: runtime_env['pip'] could not be resolved: no six==99" in done.stderr
    assert "Traceback" not in done.stderr
    done = call("create", "{}", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "resolution"


def test_a_terminal_gets_bars(environ: dict[str, str]) -> None:
    """Fields, phases and details are drawn, and gone at the end; brackets in them are no markup."""
    screen, worker = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "create", "{}"],
        env={**environ, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=worker,
    )
    os.close(worker)
    output = b""
    while True:
        try:
            part = os.read(screen, 4096)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(screen)
    assert process.wait(30) == 0
    assert b"working_dir" in output
    assert b"downloading six" in output
    assert b"50%" in output
    assert b"\x1b[2K" in output


# run


def test_run_starts_the_command_as_a_worker(call: Any, fake: FakeDaemon, tmp_path: Path) -> None:
    """Variables with Ray's expansion, the prefix's folder, arguments as they are, the exit code."""
    fake.context = json.dumps(
        {
            "command_prefix": ["cd", str(tmp_path), "&&"],
            "env_vars": {"GREETING": "hi ${NAME}", "GONE": "${NOT_SET_AT_ALL}."},
            "py_executable": f"{sys.executable} -I",
        }
    )
    code = (
        "import os, sys\n"
        "print(os.getcwd(), os.environ['GREETING'], os.environ['GONE'], sys.argv[1:])\n"
        "sys.exit(7)\n"
    )
    done = call("run", "{}", "--", "python", "-c", code, "a b", "$HOME", env={"NAME": "bob"})
    assert done.stdout == f"{tmp_path} hi bob . ['a b', '$HOME']\n"
    assert done.returncode == 7
    assert "pip: resolving" in done.stderr


def test_run_takes_the_words_after_the_dashes_as_they_are(call: Any) -> None:
    """Options of the command are not ours; without dashes they are an error of usage."""
    assert call("run", "{}", "--", "echo", "--json", "-h").stdout == "--json -h\n"
    assert call("run", "{}").returncode == 2
    assert call("run", "{}", "--", "no-such-command").returncode == 127


def test_the_env_is_held_for_as_long_as_the_command_runs(environ: dict[str, str], fake: FakeDaemon) -> None:
    """Also if the command is killed, and the holder keeps neither a child nor the output of the command."""
    script = "import os, sys; print('up', flush=True); sys.stdin.read()"
    command = [*PROGRAM, "run", "{}", "--", "python", "-c", script]
    for end in ("stdin", "kill"):
        fake.released.clear()
        with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"up\n"
            assert fake.holding.is_set()
            assert not fake.released.is_set()
            if end == "kill":
                process.kill()
            process.stdin.close()
            assert process.stdout.read() == b""
            assert process.wait(10) == (-signal.SIGKILL if end == "kill" else 0)
        assert fake.released.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_the_commands(environ: dict[str, str], number: signal.Signals) -> None:
    """It has the process id that was started, so a signal reaches it, and its handler decides."""
    script = (
        "import os, signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(42))\n"
        "print(os.getpid(), flush=True)\n"
        "while True: signal.pause()\n"
    )
    command = [*PROGRAM, "run", "{}", "--", "python", "-c", script]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(number)
        assert process.wait(10) == 42


def test_the_command_has_a_clean_start(call: Any) -> None:
    """No child that it did not start, no signal that Python ignores, no descriptor left open."""
    script = (
        "import os\n"
        "try: os.waitpid(-1, os.WNOHANG); print('a child')\n"
        "except ChildProcessError: print('no child')\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4])\n"
    )
    done = call("run", "{}", "--", "python", "-c", script, stdin=subprocess.DEVNULL)
    assert done.stdout == "no child\n[0, 1, 2, 3]\n"
    done = call("run", "{}", "--", "grep", "SigIgn", "/proc/self/status")
    # Signals 32 and 33 are glibc's own: its posix_spawn, which make uses, leaves them ignored.
    assert int(done.stdout.split()[1], 16) & 0x7FFF_FFFF == 0


def test_a_failure_of_run_is_told_like_one_of_create(call: Any, fake: FakeDaemon, short_tmp: Path) -> None:
    """Exit code and message come through from the process that holds."""
    fake.failure = FAILURE
    done = call("run", "{}", "--", "true")
    assert done.returncode == 1
    assert "no six==99" in done.stderr
    done = call("run", "{}", "--socket", str(short_tmp / "none.sock"), "--", "true")
    assert done.returncode == Exit.UNREACHABLE
    done = call("run", "{}", "--json", "--socket", str(short_tmp / "none.sock"), "--", "true")
    assert json.loads(done.stdout)["error"]["code"] == "unavailable"


def test_interrupting_the_preparation_ends_it(environ: dict[str, str], fake: FakeDaemon) -> None:
    """Ctrl-C before the command runs: exit code 130, and the daemon sees the caller go."""
    fake.slow = True
    with subprocess.Popen(
        [*PROGRAM, "run", "{}", "--", "true"], env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "resolving" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == Exit.INTERRUPTED
    assert fake.released.wait(10)
