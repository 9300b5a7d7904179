"""Looking into a daemon's store, and damaging what is there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from daemons import Daemon
from processes import clean_environment, wait_until
from raylet import Created, Raylet

from ray_envd.agent.pb import admin_pb2 as pb


def pip(wheels: Path, *packages: str) -> dict[str, Any]:
    """A pip field that knows the local wheels only."""
    options = ["--no-index", "--find-links", str(wheels)]
    return {"pip": {"packages": list(packages), "pip_install_options": options}}


def site_of(raylet: Raylet, created: Created) -> Path:
    """Where in the store a worker of a prepared env has ``tiny`` from."""
    return Path(raylet.run(created, "import tiny; print(tiny.__file__)")).parent


def verify(daemon: Daemon, *ids: str, repair: bool = False) -> dict[str, Any]:
    """What a verification says of each object, by its id; what is not sealed yet is sealed by it."""
    with daemon.admin() as stub:
        events = list(stub.Verify(pb.VerifyRequest(ids=ids, repair=repair), timeout=60))
    assert sorted(event.done for event in events) == list(range(1, len(events) + 1))
    return {event.object.id: event for event in events}


def verify_command(daemon: Daemon, *arguments: str) -> tuple[int, dict[str, Any]]:
    """``ray-envd verify --json``: its exit code, and what it says of each object by its id."""
    done = subprocess.run(
        [sys.executable, "-m", "ray_envd", "verify", "--json", "--socket", str(daemon.socket), *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    told = {each["object"]["id"]: each for each in json.loads(done.stdout)}
    return done.returncode, told


def damaged(told: dict[str, Any]) -> dict[str, Any]:
    """Those that are damaged."""
    return {name: each for name, each in told.items() if each.damage}


def markers(daemon: Daemon, kind: str = "python") -> list[dict[str, Any]]:
    """The markers of a kind, damaged ones included."""
    return [json.loads(path.read_text()) for path in daemon.store.glob(f"markers-v1/*/{kind}/*.json")]


def wait_until_sealed(daemon: Daemon, kind: str = "python") -> None:
    """Every object of the kind is sealed."""
    wait_until(
        lambda: (found := markers(daemon, kind)) and all(each["sealed"] for each in found),
        120,
        f"seals of {kind}",
    )


def flip(path: Path, at: int = 0) -> None:
    """Changes one bit in place, as a bad disk would: neither size nor time tells. Below 0: from the end."""
    state = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        place = file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        found = file.read(1)
        file.seek(place)
        file.write(bytes([found[0] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    path.chmod(state.st_mode)


def copy_of_python(folder: Path) -> Path:
    """A Python of its own folder, whose binary can be replaced: a copy beside a link to the library."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    real = Path(os.path.realpath(sys.executable))
    binary = shutil.copy2(real, folder / "bin" / name)
    (folder / "lib" / name).symlink_to(Path(os.__file__).parent)
    return Path(binary)
