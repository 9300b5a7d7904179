"""The shim ``steps.c``: a daemon under it ends at a chosen call that changes its disk."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HEX = re.compile(r"[0-9a-f]{8,}")
_PID_OR_TIME = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class Step:
    """One call of a daemon that changed the disk, or answered a raylet.

    Attributes:
        number: from 1.
        call: of libc; ``reply`` for a send to a raylet.
        path: what it was about; its folder's place, digests and random names are left out.
    """

    number: int
    call: str
    path: str

    @property
    def name(self) -> str:
        """Call and path: equal for steps that do the same to the same thing."""
        return f"{self.call} {self.path}"


@dataclass(frozen=True)
class Shim:
    """The compiled shim."""

    library: Path

    @classmethod
    def compile(cls, folder: Path) -> "Shim":
        """Needs gcc."""
        library = folder / "steps.so"
        source = Path(__file__).with_name("steps.c")
        command = [
            "gcc",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
            "-shared",
            "-fPIC",
            "-o",
            library,
            source,
            "-ldl",
        ]
        subprocess.run(command, check=True)
        return cls(library)

    def environment(
        self,
        roots: Sequence[Path],
        trace: Path,
        *,
        at: int = 0,
        power: bool = False,
        boot_id: Path | None = None,
    ) -> dict[str, str]:
        """Variables of a daemon that ends before its step ``at`` (0: never).

        With ``power`` the file system of the first root loses at that instant what it has not written. The
        daemon reads the file ``boot_id`` as the machine's boot id.
        """
        variables = {
            "LD_PRELOAD": str(self.library),
            "STEPS_ROOTS": ":".join(map(str, roots)),
            "STEPS_TRACE": str(trace),
            "STEPS_AT": str(at),
        }
        if power:
            variables["STEPS_POWER"] = "1"
        if boot_id is not None:
            variables["STEPS_BOOT_ID"] = str(boot_id)
        return variables


def read_trace(trace: Path, roots: Sequence[Path]) -> list[Step]:
    """The steps of a daemon, in the order of their numbers; several daemons' if they wrote to one file.

    Raises:
        AssertionError: the power loss asked for could not be had.
    """
    steps = []
    for line in trace.read_text().splitlines() if trace.exists() else ():
        number, call, path = line.split(" ", 2)
        assert call != "no-power-loss", path
        for root in roots:
            path = path.replace(str(root), root.name, 1) if path.startswith(str(root)) else path
        steps.append(Step(int(number), call, _PID_OR_TIME.sub("N", _HEX.sub("*", path))))
    return steps
