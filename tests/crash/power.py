"""Lives that end by a loss of power: the machine is gone with all that ran on it, and boots anew."""

import secrets
from pathlib import Path
from typing import Any

from disk import Disk
from helpers import wait_until
from life import Life
from life_model import Model
from processes import kill, marked


class PoweredLife(Life):
    """A life whose store is on a disk that loses power where the daemon would have been killed."""

    waits = False

    def __init__(self, folder: Path, *arguments: Any, disk: Disk, **options: Any) -> None:
        super().__init__(folder, *arguments, store=disk.folder / "store", **options)
        self.disk = disk
        self._boot_id = folder / "boot_id"
        self._new_boot()

    def _new_boot(self) -> None:
        self._boot_id.write_text(f"{secrets.token_hex(16)}\n")

    def environment(self, trace: Path, at: int) -> dict[str, str]:
        """As ever, but that the disk loses its power."""
        return self._shim.environment(self.roots, trace, at=at, power=True, boot_id=self._boot_id)

    def lose_power(self) -> None:
        """The power fails now, between two operations; a daemon is started after it."""
        self.disk.fail()
        self.daemon.kill()
        self.after_death()
        assert self._boot(0)

    def after_death(self) -> None:
        """Nothing runs any more, and all that was agreed on is void: the raylets are gone too."""
        for raylet in self.raylets.values():
            raylet.kill()
        self.raylets.clear()
        # What the clients were told of objects: those may be lost.
        self.model = Model()
        mark = f"RAY_ENVD_TOOL_OF={self.store}"
        wait_until(lambda: kill(marked(mark)) or not marked(mark), 10, "the end of the tools")
        self.disk.restart()
        self._new_boot()
