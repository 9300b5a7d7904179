"""The command line against a fake daemon: what it asks, what it prints, how it ends."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fake_daemon import ENV, TREE, FakeDaemon

from ray_envd.agent.cli import COMMANDS, cli
from ray_envd.agent.cli.common import EXIT_CODES, Exit, State
from ray_envd.agent.pb import admin_pb2 as pb


def invoke(*args: str, stdin: str | None = None, **environ: str) -> Result:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("RAY_ENVD_")}
    return CliRunner().invoke(cli, list(args), input=stdin, env={**clean, **environ})


@pytest.fixture
def ask(fake: FakeDaemon, daemon_socket: Path) -> Any:
    """Runs a command against the fake daemon."""
    return lambda *args, **more: invoke(*args, "--socket", str(daemon_socket), **more)


# the whole


def test_help_knows_every_command_without_importing_it() -> None:
    """Names, short helps and exit codes are there; grpc and rich are not loaded."""
    script = """
import sys
from ray_envd.agent.cli import main
sys.argv = ["ray-envd", "--help"]
try:
    main()
finally:
    print(sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout
    for code, text in EXIT_CODES.items():
        assert f"{int(code):>3}  {text}" in done.stdout
    for heavy in ("'grpc'", "'rich.console'", "'structlog'", "'uvloop'"):
        assert heavy not in done.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_where_the_table_says_and_says_the_same(name: str) -> None:
    """The table's sentence is the first of the command's own help, and --help works."""
    command = getattr(importlib.import_module(f"ray_envd.agent.cli.{COMMANDS[name][0]}"), name)
    assert isinstance(command, click.Command)
    assert (command.help or "").startswith(COMMANDS[name][1].rstrip("."))
    assert invoke(name, "--help").exit_code == 0


def test_usage_errors_exit_with_2_and_point_at_the_help() -> None:
    """Unknown commands and options, missing arguments; a likely command is named."""
    done = invoke("stat")
    assert (done.exit_code, "Did you mean 'stats'?" in done.stderr) == (2, True)
    assert invoke("zzz").exit_code == 2
    done = invoke("rm")
    assert done.exit_code == 2
    assert "`ray-envd rm --help`" in done.stderr
    done = invoke("gc", "--to", "much")
    assert (done.exit_code, "not a size" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "args",
    [
        ("ls",),
        ("stats",),
        ("gc",),
        ("verify",),
        ("rm", "x"),
        ("pin", "x"),
        ("drain",),
        ("create", "{}"),
        ("prefetch", "{}"),
    ],
)
def test_no_daemon_is_exit_code_3_with_the_remedy(short_tmp: Path, args: tuple[str, ...]) -> None:
    """One readable message, never a traceback; as JSON an object with code, message and remedy."""
    missing = str(short_tmp / "none.sock")
    done = invoke(*args, "--socket", missing)
    assert done.exit_code == Exit.UNREACHABLE
    assert done.stderr.startswith(f"error: no daemon listens on {missing}")
    assert "remedy: start one" in done.stderr
    assert "Traceback" not in done.output
    done = invoke(*args, "--socket", missing, "--json")
    assert done.exit_code == Exit.UNREACHABLE
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unavailable"
    assert set(error) == {"code", "message", "remedy"}
    assert done.stderr == ""


def test_shared_options_stand_before_or_after_the_command(fake: FakeDaemon, daemon_socket: Path) -> None:
    """And the socket comes from the variable or the file otherwise."""
    where = str(daemon_socket)
    before = invoke("--socket", where, "--json", "ls")
    after = invoke("ls", "--socket", where, "--json")
    variable = invoke("ls", "--json", RAY_ENVD_SOCKET=where)
    config = daemon_socket.parent / "c.toml"
    config.write_text(f'socket = "{where}"\n')
    file = invoke("ls", "--json", "--config", str(config))
    assert before.stdout == after.stdout == variable.stdout == file.stdout
    assert len(json.loads(before.stdout)) == 2
    assert invoke("--socket", "/nowhere", "ls", "--socket", where).exit_code == 0


def test_a_wrong_setting_is_a_usage_error() -> None:
    """Also as JSON."""
    done = invoke("ls", "--json", RAY_ENVD_MIN_FREE="x")
    assert done.exit_code == Exit.USAGE
    error = json.loads(done.stdout)["error"]
    assert (error["code"], "RAY_ENVD_MIN_FREE" in error["message"]) == ("config", True)


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is reported with its type; the traceback only on demand; credentials in URLs stay out."""

    def broken(_self: State, **_flags: str) -> None:
        raise KeyError("https://bob:canary@host/x")

    monkeypatch.setattr(State, "load", broken)
    done = invoke("ls")
    assert done.exit_code == Exit.FAILED
    assert "unexpected KeyError" in done.stderr
    assert "canary" not in done.output
    assert "Traceback" not in done.stderr
    assert "Traceback" in invoke("ls", RAY_ENVD_LOG_LEVEL="debug").stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """The script asks the installed command with click's protocol; bash accepts it."""
    done = invoke("completion", shell)
    assert done.exit_code == 0
    assert f"_RAY_ENVD_COMPLETE={shell}_complete" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_ids_are_completed_from_the_daemon(fake: FakeDaemon, daemon_socket: Path) -> None:
    """A shell offers the daemon's ids; without a daemon it offers none and prints nothing."""
    script = [sys.executable, "-c", "from ray_envd.agent.cli import main; main()"]
    ask = {"_RAY_ENVD_COMPLETE": "bash_complete", "COMP_WORDS": "ray-envd rm py", "COMP_CWORD": "2"}
    for socket, expected in ((str(daemon_socket), "plain,python-env/ab12ab12ab12"), ("/nowhere", "")):
        environ = {**os.environ, **ask, "RAY_ENVD_SOCKET": socket}
        done = subprocess.run(script, env=environ, capture_output=True, text=True, check=False, timeout=30)
        assert (done.stdout.strip(), done.stderr) == (expected, "")


# the store


def test_ls(ask: Any) -> None:
    """Last used first; short ids, what it is, both sizes, age, uses, references; brackets are no markup."""
    done = ask("ls")
    assert done.exit_code == 0
    head, _, first, second = done.stdout.splitlines()
    assert head.split() == ["ID", "OWNER", "WHAT", "SIZE", "FREES", "USED", "USES", "REFS", "STATE"]
    assert first.startswith("archive/cd34cd34cd34 ")
    assert "gcs://_ray_pkg_abc.zip [bold]" in first
    assert "pinned" in first
    assert "idna==3.7, six==1.16.0" in second
    assert second.split()[-9:-5] == ["12.3", "MB", "45.7", "kB"]
    assert second.split()[-2:] == ["7", "2"]
    row = json.loads(ask("ls", "--json").stdout)[1]
    assert (row["bytes"], row["exclusive_bytes"]) == (12_345_678, 45_678)
    assert [each["id"] for each in json.loads(ask("ls", "--json", "--kind", "archive").stdout)] == [TREE]
    assert ask("ls", "--kind", "nothing").stdout == "nothing is stored\n"


def test_ls_shows_what_is_damaged(ask: Any, fake: FakeDaemon) -> None:
    """With the reason, and the whole id: no prefix finds it. It came on a second page."""
    damaged = f"python/{'0' * 64}.1"
    fake.further = [pb.Object(id=damaged, kind="python", damaged="six.py differs")]
    assert len(json.loads(ask("ls", "--json").stdout)) == 3
    [line] = [line for line in ask("ls").stdout.splitlines() if line.startswith(damaged)]
    assert "damaged: six.py differs" in line


def test_a_narrow_terminal_keeps_ids_and_figures(ask: Any) -> None:
    """What gives way is the summary."""
    done = ask("ls", COLUMNS="80")
    assert "python-env/ab12ab12ab12" in done.stdout
    assert "12.3 MB" in done.stdout
    assert "idna==3.7, six==1.16.0" not in done.stdout


def test_ls_sessions(ask: Any) -> None:
    """Who is attached, with Ray's version and the raylet's pid."""
    done = ask("ls", "--sessions")
    assert "0-abc" in done.stdout
    assert "2.60.0" in done.stdout
    assert "4711" in done.stdout
    assert json.loads(ask("ls", "--sessions", "--json").stdout)[0]["raylet_pid"] == 4711


def test_stats(ask: Any) -> None:
    """Figures with units; as JSON plain numbers."""
    text = ask("stats").stdout
    for expected in (
        "pid 4242",
        "1 h 1 m",
        "13.3 MB of 100 MB (13%)",
        "30 hits",
        "75 % hits",
        "50.0 MB",
        "13.8 MB",
        "3 of 5 runtime envs of the warm file are ready, 1 failed",
    ):
        assert expected in text
    assert "30.0 MB if nothing were shared; 2.35 MB of one object alone, 10.0 MB of several" in text
    figures = json.loads(ask("stats", "--json").stdout)
    assert (figures["used_bytes"], figures["store_bytes"]) == (13_346_677, 13_846_677)


def test_verify_tells_what_is_damaged_and_who_uses_it(ask: Any, fake: FakeDaemon) -> None:
    """A paragraph for each object with something to tell, then the sum; 1 while anything damaged is there."""
    done = ask("verify", "python/12")
    assert done.exit_code == 1
    assert (list(fake.requests[-1].ids), fake.requests[-1].repair) == (["python/12"], False)
    lines = done.stdout.splitlines()
    assert any("is damaged: archive has changed" in line for line in lines)
    assert "    and 2 more files" in lines
    assert "    in use by session 0-abc (/tmp/ray/s1), 3x: {...}" in lines
    assert any("RECORD" in line and "lib/odd.py and 1 more files" in line for line in lines)
    assert lines[-1] == "2 verified, 1 damaged"
    fake.repaired = True
    done = ask("verify", "--repair")
    assert (done.exit_code, fake.requests[-1].repair) == (0, True)
    assert done.stdout.splitlines()[-1] == "2 verified, 1 damaged, 1 removed, 777 B freed"
    told = json.loads(ask("verify", "--json").stdout)
    assert [(bool(each["damage"]), each["freed_bytes"]) for each in told] == [(True, 777), (False, None)]


def test_gc_prints_the_plan_with_reasons(ask: Any, fake: FakeDaemon) -> None:
    """--dry-run and --to reach the daemon; a percentage is of the budget."""
    done = ask("gc", "--dry-run")
    head, _, row, _ = done.stdout.splitlines()
    assert head.split() == ["ID", "WHAT", "FREES", "WORTH", "REASON"]
    assert re.search(r"777 B +12\.3 +not used for 3 days", row)
    assert "999 B would be freed, 12.3 MB would remain" in done.stdout
    assert fake.requests[-1] == pb.GcRequest(dry_run=True)
    assert "999 B freed, 12.3 MB remain" in ask("gc", "--to", "1MB").stdout
    assert fake.requests[-1].target_bytes == 10**6
    ask("gc", "--to", "50%")
    assert fake.requests[-1].target_bytes == 50_000_000
    ask("gc", "--to", "0")
    assert fake.requests[-1].HasField("target_bytes")
    assert json.loads(ask("gc", "--json").stdout)["victims"][0]["object"]["id"] == TREE


def test_rm_does_all_it_can(ask: Any) -> None:
    """One failure does not stop the rest; the exit code is the first failure's: 4 not found, 5 in use."""
    done = ask("rm", "nope", "cd34", "ab12")
    assert done.exit_code == Exit.NOT_FOUND
    assert f"removed {TREE}, 999 B freed" in done.stdout
    assert "no object nope" in done.stderr
    assert "in use" in done.stderr
    assert "remedy: `ray-envd ls` lists what is stored" in done.stderr
    assert ask("rm", "ab12", "nope").exit_code == Exit.IN_USE
    assert ask("rm", "cd34").exit_code == 0
    rows = json.loads(ask("rm", "--json", "nope", "cd34").stdout)
    assert rows[0]["error"]["code"] == "not_found"
    assert rows[1] == {"id": TREE, "freed_bytes": 999}


def test_pin_and_unpin(ask: Any) -> None:
    """The full id is told."""
    assert ask("pin", "ab12").stdout == f"pinned {ENV}\n"
    assert ask("unpin", "cd34").stdout == f"unpinned {TREE}\n"
    assert json.loads(ask("pin", "ab12", "--json").stdout)[0]["pinned"] is True


def test_drain(ask: Any, fake: FakeDaemon) -> None:
    """The deadline reaches the daemon; what was cut off is told."""
    assert "1 preparations were cut off" in ask("drain").stdout
    assert fake.requests[-1].deadline_seconds == 0
    assert json.loads(ask("drain", "--timeout", "1m", "--json").stdout) == {"cancelled": 1}
    assert fake.requests[-1].deadline_seconds == 60
    assert ask("drain", "--timeout", "soon").exit_code == 2


# settings


def test_config_shows_values_and_origins(tmp_path: Path) -> None:
    """Effective values, percentages also in bytes, and where each came from."""
    config = tmp_path / "c.toml"
    config.write_text('drain_timeout = "1m"\n')
    done = invoke("config", "--config", str(config), "--socket", "/tmp/x.sock", RAY_ENVD_STORE=str(tmp_path))
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[2:]}
    assert rows["socket"].split()[1:] == ["/tmp/x.sock", "--socket"]
    assert rows["store"].split()[1:] == [str(tmp_path), "RAY_ENVD_STORE"]
    assert rows["drain_timeout"].endswith(f"{config}: drain_timeout")
    assert "80% (" in rows["max_bytes"]
    made = json.loads(invoke("config", "--json", RAY_ENVD_HTTP="127.0.0.1:0").stdout)
    assert made["http"] == {
        "value": "127.0.0.1:0",
        "source": "variable",
        "from": "RAY_ENVD_HTTP",
        "flag": "--http",
        "variable": "RAY_ENVD_HTTP",
    }
    assert made["max_bytes"]["bytes"] > 0
    assert "did you mean RAY_ENVD_STORE" in invoke("config", RAY_ENVD_STROE="x").stderr
    assert "| `store` `--store`" in invoke("config", "--reference").stdout


def test_serve_has_a_flag_for_every_setting(monkeypatch: pytest.MonkeyPatch, short_tmp: Path) -> None:
    """Flags reach the daemon as settings, its exit code comes back."""
    seen = []

    def serve(settings: Any) -> int:
        seen.append(settings)
        return 5

    monkeypatch.setattr("ray_envd.agent.server.serve", serve)
    store = str(short_tmp / "s")
    done = invoke(
        "serve", "--store", store, "--idle-exit", "600", "--http", "0.0.0.0:0", "--http-allow-remote"
    )
    assert done.exit_code == 5
    assert (str(seen[0].store), seen[0].idle_exit, seen[0].http_allow_remote) == (store, 600, True)
    assert invoke("serve", "--no-http-allow-remote", "--http", "0.0.0.0:0").exit_code == 2
