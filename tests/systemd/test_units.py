"""The units: clean for systemd, in step with the program, and without what would break builds or podman."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from ray_envd.agent.config import TABLE
from ray_envd.agent.link.hello import SYSTEM_SOCKET

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ROOT / "systemd" / "ray-envd.service"
USER = ROOT / "systemd" / "user" / "ray-envd.service"

Unit = Mapping[str, list[str]]


def read(path: Path) -> Unit:
    """A unit's settings; one that is given twice has two values, as for systemd."""
    settings: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            settings[name].append(value)
    return settings


def words(unit: Unit) -> list[str]:
    """The arguments of ray-envd in ExecStart."""
    argv = shlex.split(unit["ExecStart"][0])
    assert argv[:2] == ["/usr/bin/env", "ray-envd"]
    return argv[2:]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(("unit", "manager"), [(SYSTEM, "--system"), (USER, "--user")])
def test_verify_has_nothing_to_say(unit: Path, manager: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` is silent: no unknown setting, no bad value, no missing program."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", manager, "verify", str(unit)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", [SYSTEM, USER])
def test_command_is_one_that_the_program_takes(path: Path) -> None:
    """The arguments of ExecStart are understood by the command line of this version."""
    argv = [word.replace("%h", "/root").replace("%t", "/run") for word in words(read(path))]
    done = subprocess.run(
        [sys.executable, "-m", "ray_envd", *argv, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_find_the_system_daemon() -> None:
    """The unit's socket is where a link looks that was told no other; every user may pass to it."""
    unit = read(SYSTEM)
    argv = words(unit)
    socket = argv[argv.index("--socket") + 1]
    assert socket + ".link" == SYSTEM_SOCKET
    assert Path(socket).parent == Path("/run") / unit["RuntimeDirectory"][0]
    assert unit["RuntimeDirectoryMode"] == ["0755"]
    store = argv[argv.index("--store") + 1]
    assert Path(store) == Path("/var/lib") / unit["StateDirectory"][0]


@pytest.mark.parametrize("path", [SYSTEM, USER])
def test_times_fit(path: Path) -> None:
    """A drain ends before SIGKILL, and a new daemon is there before links give up."""
    unit = read(path)
    setting = TABLE["drain_timeout"]
    drain = setting.kind.parse(setting.default)
    assert float(unit["TimeoutStopSec"][0]) >= drain + 10
    assert float(unit["RestartSec"][0]) < 5
    assert float(unit["WatchdogSec"][0]) >= 10
    assert unit["KillMode"] == ["mixed"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["OOMPolicy"] == ["continue"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PrivateTmp", "no"),
        ("ProtectHome", "no"),
        ("ProtectSystem", "no"),
        ("PrivateDevices", "no"),
        ("PrivateUsers", "no"),
        ("RestrictNamespaces", "no"),
        ("ProtectControlGroups", "no"),
        ("NoNewPrivileges", "no"),
        ("RestrictSUIDSGID", "no"),
        ("MemoryDenyWriteExecute", "no"),
        ("Delegate", "yes"),
    ],
)
def test_what_builds_and_podman_need_is_left(name: str, value: str) -> None:
    """Nobody hardens the daemon out of its work without meeting this test."""
    assert read(SYSTEM)[name] == [value]


def test_every_hardening_line_of_the_user_unit_is_absent() -> None:
    """Any of them implies NoNewPrivileges there, and rootless podman needs its setuid helpers."""
    hardening = re.compile(r"NoNewPriv|Private|Protect|Restrict[A-Z]|SystemCall|Lock|MemoryDeny|Capability")
    assert not [name for name in read(USER) if hardening.match(name)]


ACT = """
import asyncio, os, sys
from pathlib import Path
from ray_envd.agent import process
from ray_envd.cache.owner import Owner, acting_as
folder, owner = Path(sys.argv[1]), Owner.of(65534, 65534)
with acting_as(owner):
    (folder / "made").mkdir(0o700)
    (folder / "made" / "file").touch()
done = asyncio.run(process.run(["id", "-u"], env=dict(os.environ), cwd="/", owner=owner))
assert done.lines == ("65534",), done
with acting_as(owner):
    (folder / "made" / "file").unlink()
print("acted", (folder / "made").stat().st_uid)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="takes root and setpriv")
def test_capabilities_suffice_to_act_as_a_user(short_tmp: Path) -> None:
    """With the unit's bounding set a root daemon makes files and runs tools as another user."""
    kept = " ".join(read(SYSTEM)["CapabilityBoundingSet"]).lower().replace("cap_", "").split()
    assert {"setuid", "setgid", "chown", "dac_override", "kill"} <= set(kept)
    assert not {"sys_module", "sys_boot", "sys_time", "sys_rawio"} & set(kept)
    short_tmp.chmod(0o777)
    bounds = ",".join(["-all", *(f"+{name}" for name in kept)])
    done = subprocess.run(
        ["setpriv", f"--bounding-set={bounds}", sys.executable, "-c", ACT, str(short_tmp)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "acted 65534\n", done.stderr
