"""What all lives of the scenario share: shim, inputs, and how it goes when nothing dies."""

import contextlib
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from disk import Disk
from fetch_servers import KeyValueStore
from helpers import quick_folder
from life import DiedError, Life
from life_model import Use
from power import PoweredLife
from promises import check
from scenario import make_interpreter, make_uses, scenario
from shim import Shim, Step
from whole import Manifest, manifest, markers

L = TypeVar("L", bound=Life)


@dataclass
class World:
    """Make it by :meth:`make`.

    Attributes:
        folder: everything of it; on a file system in memory if there is one, since fsync is only a cost here.
        shim: ends daemons.
        uses: the envs.
        python: of the raylets.
        gcs: the clusters' key-value store.
        objects: the content of every object that the scenario makes, by id.
        steps: of a daemon that lives through the scenario.
        start_steps: of the start of one that finds what the first has left.
    """

    folder: Path
    shim: Shim
    uses: Mapping[str, Use]
    python: str
    gcs: KeyValueStore
    objects: dict[str, Manifest] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    start_steps: list[Step] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def make(cls) -> Iterator["World"]:
        """A world for as long as the context lasts."""
        folder = Path(tempfile.mkdtemp(prefix="re-", dir=quick_folder()))
        gcs = KeyValueStore()
        try:
            uses = make_uses(folder, gcs)
            world = cls(folder, Shim.compile(folder), uses, make_interpreter(folder), gcs)
            world._live_through()
            yield world
        finally:
            gcs.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def _live_through(self) -> None:
        """The scenario without a death: what it makes, and in which steps."""
        with self.life() as life:
            acquire = life.acquire

            def noted(name: str, env: str) -> None:
                acquire(name, env)
                for key, path in markers(life.store).items():
                    self.objects.setdefault(key, manifest(path, life.store))

            life.acquire = noted  # type: ignore[method-assign]  # watched, not replaced
            scenario(life)
            self.steps = life.steps()
            life.start()
            self.start_steps = life.steps()

    def lose_power_at(self, step: int, recovery_step: int) -> list[Step]:
        """As :meth:`kill_at`, with losses of power, on ext4 or xfs; half beside a stranger."""
        options = {"crash_at": step, "recovery_crash_at": recovery_step}
        kind = "xfs" if recovery_step % 3 == 0 else "ext4"
        with self.powered_life(kind, stranger=bool(step % 2), **options) as life:
            return self._live(life)

    def _live(self, life: Life) -> list[Step]:
        try:
            scenario(life)
        except DiedError:
            check(life, self.objects)
        return life.crashes

    @contextlib.contextmanager
    def powered_life(self, kind: str, *, stranger: bool, **options: Any) -> Iterator[PoweredLife]:
        """A new life on a disk of its own."""
        with contextlib.ExitStack() as stack:
            place = Path(tempfile.mkdtemp(prefix="d", dir=self.folder))
            disk = stack.enter_context(Disk.make(place, kind))
            if stranger:
                stack.enter_context(disk.stranger())
            yield stack.enter_context(self.life(PoweredLife, disk=disk, **options))

    @contextlib.contextmanager
    def life(self, kind: type[L] = Life, **options: Any) -> Iterator[L]:
        """A new life in a folder of its own; ``options`` are the kind's."""
        folder = Path(tempfile.mkdtemp(prefix="l", dir=self.folder))
        life = kind(folder, self.shim, self.uses, python=self.python, gcs=self.gcs.address, **options)
        try:
            yield life
        except BaseException as error:
            where = traceback.format_exc().splitlines()[-12:]
            error.add_note("\n".join((*where, str(life.crashes), life.daemon.tail())))
            raise
        finally:
            life.close()
            shutil.rmtree(folder, ignore_errors=True)

    def kill_at(self, step: int, recovery_step: int) -> list[Step]:
        """One life with two deaths, checked; returns the steps before which the daemons died.

        The second death may come too late for the recovery, and the first for the scenario.
        """
        with self.life(crash_at=step, recovery_crash_at=recovery_step) as life:
            return self._live(life)
