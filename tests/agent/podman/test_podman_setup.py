"""How podman is brought to start containers: a program in its place says what podman says elsewhere."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_envd.agent.errors import EnvError, HostError, OutOfSpaceError, Retry, ToolMissingError
from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.podman.setup import limits_of
from ray_envd.cache.owner import Owner

_INFO = {
    "host": {
        "cgroupVersion": "v2",
        "cgroupManager": "systemd",
        "ociRuntime": {"name": "crun"},
        "security": {"rootless": False},
    },
    "store": {"graphDriverName": "overlay", "graphRoot": "/g", "runRoot": "/r"},
    "registries": {"localhost:5000": {"Insecure": True}},
    "version": {"Version": "4.3.1"},
}
#: As podman 4.3.1 puts it.
_RLIMIT = "Error: crun: setrlimit `RLIMIT_NPROC`: Operation not permitted: OCI permission denied"
_HYBRID = "Error: crun: cgroups in hybrid mode not supported, drop all controllers: OCI runtime error"
_MQUEUE = "Error: crun: cannot stat `/dev/mqueue`: No such file or directory: OCI runtime attempted to invoke"
_SYSTEMD = "Error: crun: sd-bus call: Interactive authentication required: OCI permission denied"
_STARTED = "Error: crun: executable file `python3` not found in $PATH: OCI runtime attempted to invoke"
_SUBUID = 'Error: cannot find UID/GID for user x: no subuid ranges found for user "x" in /etc/subuid'
_OWNER = Owner.current()

Make = Callable[..., dict[str, str]]


@pytest.fixture
def machine(tmp_path: Path) -> Make:
    """Puts a podman on PATH; of its refusals the first counts whose condition (of bash) holds."""

    def make(*refusals: tuple[str, str], info: str = json.dumps(_INFO, indent=1)) -> dict[str, str]:
        (tmp_path / "info").write_text(f"a warning\n{info}\n")
        lines = [f'[[ "$*" == *info* ]] && {{ cat {tmp_path}/info; exit {0 if info[0] == "{" else 125}; }}']
        for number, (condition, words) in enumerate(refusals):
            (tmp_path / f"said{number}").write_text(f"{words}\n")
            lines.append(f"[[ {condition} ]] && {{ cat {tmp_path}/said{number}; exit 126; }}")
        program = tmp_path / "bin" / "podman"
        program.parent.mkdir(exist_ok=True)
        calls = f'echo "$*" >> {tmp_path}/calls'
        program.write_text("\n".join(["#!/bin/bash", calls, *lines, "exit 0", ""]))
        program.chmod(0o755)
        return {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    return make


async def test_each_refusal_is_answered_by_the_change_that_it_demands(machine: Make) -> None:
    """Limits, runtime, cgroup manager and IPC are changed where podman's words say so, and only there."""
    refusals = (
        ('"$*" != *--ulimit=nofile=*', _RLIMIT),
        ('"$*" != *--runtime=runc*', _HYBRID),
        ('"$*" != *--cgroup-manager=cgroupfs*', _SYSTEMD),
        ('"$*" == *--ipc=host*', _MQUEUE),
        ("1 == 1", _STARTED),
    )
    host = await Hosts().of(_OWNER, machine(*refusals), "image")
    assert host.command[1:] == ("--cgroup-manager=cgroupfs", "--runtime=runc")
    assert any(option.startswith("--ulimit=nproc=") for option in host.run_options)
    assert host.worker_options == ("--pid=host", "--volume=/dev/shm:/dev/shm")
    plain = await Hosts().of(_OWNER, machine(), "image")
    assert plain.command[1:] == ()
    assert not any("ulimit" in option for option in plain.run_options)
    assert plain.worker_options == ("--pid=host", "--ipc=host")


async def test_findings_hold_until_podman_or_its_settings_change(machine: Make, tmp_path: Path) -> None:
    """A second question starts nothing; a containers.conf that appears makes all be tried anew."""
    hosts, environment, calls = Hosts(), machine(), tmp_path / "calls"
    await hosts.of(_OWNER, environment, "image")
    before = calls.read_text()
    assert await hosts.info(_OWNER, environment)
    await hosts.of(_OWNER, environment, "image")
    assert calls.read_text() == before
    settings = tmp_path / ".config" / "containers"
    settings.mkdir(parents=True)
    (settings / "containers.conf").write_text("[engine]\n")
    await hosts.of(_OWNER, environment, "image")
    assert len(calls.read_text().splitlines()) == 2 * len(before.splitlines())


@pytest.mark.parametrize(
    ("refusal", "error", "told"),
    [
        (("1 == 1", _SUBUID), HostError, "usermod --add-subuids"),
        (("1 == 1", _HYBRID), HostError, "install runc"),
        (("1 == 1", "Error: write /x: no space left on device"), OutOfSpaceError, "GraphRoot"),
        (("1 == 1", "Error: what nobody has heard of"), HostError, "what nobody has heard of"),
    ],
)
async def test_a_fault_of_the_machine_is_told_with_its_remedy(
    machine: Make, refusal: tuple[str, str], error: type[EnvError], told: str
) -> None:
    """What cannot be helped from here is an error of its own kind, with what an administrator can do."""
    with pytest.raises(error) as raised:
        await Hosts().of(_OWNER, machine(refusal), "image")
    assert told in str(raised.value)
    assert refusal[1] in str(raised.value)


@pytest.mark.parametrize(
    "refusal",
    [
        ("1 == 1", "Error: 0123: image not known"),
        ("1 == 1", "Error: beginning transaction: database is locked"),
        ("-n $(kill -9 $$)", "it was killed before it said anything"),
    ],
)
async def test_what_may_pass_is_tried_again(machine: Make, refusal: tuple[str, str]) -> None:
    """An image that somebody removed, a database that was locked, a podman that was killed."""
    with pytest.raises(EnvError) as raised:
        await Hosts().of(_OWNER, machine(refusal), "image")
    assert raised.value.retry is Retry.TRANSIENT


async def test_podman_missing_old_or_without_a_runtime_is_told_apart(
    machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three machines, three remedies; none of them passes by itself."""
    monkeypatch.setattr("ray_envd.agent.podman.environment._PATH", ())
    old = json.dumps({**_INFO, "version": {"Version": "3.4.4"}}, indent=1)
    cases = [
        ({"PATH": str(tmp_path), "HOME": "/"}, ToolMissingError, "install podman"),
        (machine(info=old), HostError, "install podman 4.0"),
    ]
    for environment, error, told in cases:
        with pytest.raises(error, match=told) as raised:
            await Hosts().info(_OWNER, environment)
        assert raised.value.retry is Retry.PERMANENT
    nothing = machine(info='Error: default OCI runtime "crun" not found: invalid argument')
    with pytest.raises(ToolMissingError, match="install another runtime"):
        await Hosts().info(_OWNER, nothing)


def test_podman_is_told_where_things_are_and_nothing_of_the_job(tmp_path: Path) -> None:
    """Of the raylet's environment only what podman reads is passed on, and never what makes it a client."""
    given = {
        "HOME": "/h",
        "PATH": "/opt/bin",
        "CONTAINERS_STORAGE_CONF": "/s",
        "CONTAINER_HOST": "unix:///x",
        "HTTPS_PROXY": "http://p",
        "NOTIFY_SOCKET": "/n",
        "PYTHONPATH": "/p",
        "SECRET": "x",
    }
    found = podman_environment(Owner(12345, 12345, "/home/x"), given)
    assert found.keys() == {"HOME", "PATH", "CONTAINERS_STORAGE_CONF", "HTTPS_PROXY"}
    assert found["PATH"].startswith("/opt/bin:")
    assert "/usr/sbin" in found["PATH"].split(":")


@pytest.fixture
def limited() -> Iterator[int]:
    """A process that may open 333 files."""
    script = "ulimit -n 333; echo; exec cat"
    with subprocess.Popen(["bash", "-c", script], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_the_limits_are_the_lowest_of_all_who_start_containers(limited: int) -> None:
    """A raylet with a lower hard limit than the daemon's can start what the daemon tried out."""
    assert limits_of(limited).open_files == 333
    assert limits_of().open_files > 333
    assert limits_of(2**22 + 1) == limits_of()
