"""A throw-away ordinary user of this machine, with subordinate ids, for rootless podman. Needs root."""

import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import NodeError, kill

_RANGE = 65_536
_FIRST, _LAST = 10_000_000, 2_000_000_000  # far from the ranges that useradd gives away


@dataclass(frozen=True)
class User:
    """An account with a home, a runtime folder (as logind would make) and ranges of subordinate ids."""

    name: str
    uid: int
    gid: int
    home: Path

    @classmethod
    def make(cls, folder: Path, *, subordinates: bool = True) -> "User":
        """Makes one with a home in a folder that every user can enter.

        Raises:
            NodeError: the machine makes no users.
        """
        name = f"envd-{secrets.token_hex(4)}"
        home = folder / name
        _run("useradd", "--home-dir", str(home), "--create-home", "--shell", "/bin/bash", name)
        # What useradd gave him, where it does so, depends on the machine's settings.
        for path in ("/etc/subuid", "/etc/subgid"):
            _forget(Path(path), name)
        if subordinates:
            first = _FIRST + secrets.randbelow((_LAST - _FIRST) // _RANGE) * _RANGE
            ids = f"{first}-{first + _RANGE - 1}"
            _run("usermod", "--add-subuids", ids, "--add-subgids", ids, name)
        entry = pwd.getpwnam(name)
        user = cls(name, entry.pw_uid, entry.pw_gid, home)
        user.runtime.mkdir(mode=0o700)
        os.chown(user.runtime, user.uid, user.gid)
        return user

    @property
    def runtime(self) -> Path:
        """His ``XDG_RUNTIME_DIR``."""
        return self.home / "run"

    @property
    def variables(self) -> dict[str, str]:
        """What a session of his has in its environment."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }

    def remove(self) -> None:
        """Ends his processes and removes the account with all that it has."""
        kill(int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and self._runs(each))
        _run("userdel", "--force", self.name, check=False)
        for path in ("/etc/subuid", "/etc/subgid"):
            _forget(Path(path), self.name)
        shutil.rmtree(self.home, ignore_errors=True)

    def _runs(self, process: Path) -> bool:
        try:
            return process.stat().st_uid == self.uid
        except OSError:
            return False


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise NodeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")


def _forget(path: Path, name: str) -> None:
    """Takes a user's ranges out of a table; userdel leaves them, and their next owner would have them too."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if any(line.startswith(f"{name}:") for line in lines):
        path.write_text("".join(line for line in lines if not line.startswith(f"{name}:")))
