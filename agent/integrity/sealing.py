"""Sealing: what is to be done to a new object once nobody waits for it.

Modules are compiled, or linked from an environment that has compiled the very same ones, so that no worker
writes into the store; write permissions are taken away; what the tree
is now is written down, file by file; and the marker says that nothing is added any more. One object at a
time, at a low priority, after the builds. An object is handed out before, and a daemon that ends leaves the
rest to the next one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import EnvError
from ray_envd.agent.integrity.damage import Damage
from ray_envd.agent.integrity.donors import Donors
from ray_envd.agent.integrity.inspection import take_inventory
from ray_envd.agent.integrity.steps import Steps
from ray_envd.agent.python.bytecode import compile_modules
from ray_envd.agent.python.wheel_files import compiled_files, wheel_files
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import StoreError
from ray_envd.cache.inventory import Found
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.manifest import Change, Difference, Manifest
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.protection import protect
from ray_envd.cache.store import Entry, Store

_log = logging.getLogger(__name__)
_CALM = 2.0  # seconds after a build
_MOST_PAUSES = 30  # of so many seconds, while builds come first; then objects are sealed beside them
_COMPILE_SECONDS = 900.0
#: Folders of an environment in which names come and go if somebody installs into it.
_BINARIES = "venv/bin"


class ImageCompiler(Protocol):
    """Compiles modules with the Python of an image, which only a container of it can run."""

    def is_ready(self, uid: int, image: str) -> bool:
        """Whether it can be done for a user: not before he has used the image since the daemon started."""

    async def compile(self, owner: Owner, image: str, site_packages: Path, *, seconds: float) -> None:
        """See :func:`ray_envd.agent.python.bytecode.compile_modules`.

        Raises:
            EnvError: no container can be started.
        """


class Sealer:
    """Seals what is not sealed yet. ``poke`` from anywhere on the event loop."""

    def __init__(
        self, workshop: Workshop, damage: Damage, steps: Steps, is_building: Callable[[], bool]
    ) -> None:
        """``is_building`` says whether others should come first."""
        self._workshop, self._damage, self._steps = workshop, damage, steps
        self._is_building = is_building
        self._poked = asyncio.Event()
        self._poked.set()
        self._one_at_a_time = asyncio.Lock()
        self._failed: set[tuple[ObjectKey, int]] = set()
        self.after_seal: Callable[[], None] = lambda: None
        self.images: ImageCompiler | None = None

    def poke(self) -> None:
        """Something was built."""
        self._poked.set()

    async def run(self) -> None:
        """Seals until cancelled."""
        async with self._one_at_a_time:
            await self._workshop.thread(self._sweep)
        while True:
            await self._poked.wait()
            self._poked.clear()
            pause = _CALM
            for entry in await self._workshop.thread(self._unsealed):
                await self._calm(pause)
                started = time.monotonic()
                try:
                    if not await self._steps.run(self.seal(entry)):
                        self._poked.set()
                except (EnvError, StoreError, OSError) as error:
                    # As good as before, but for what sealing would have given it.
                    _log.warning("%s cannot be sealed: %s", entry.id, error)
                    self._failed.add((entry.key, entry.generation))
                except Exception:  # noqa: BLE001 - logged; the daemon must not end over its housekeeping
                    _log.exception("%s cannot be sealed", entry.id)
                    self._failed.add((entry.key, entry.generation))
                # After a restart there may be thousands: half of one core, at most.
                pause = time.monotonic() - started

    def _sweep(self) -> None:
        """Drops the manifests of objects that an earlier daemon removed without them."""
        store = self._workshop.store
        store.manifests.sweep([(entry.key, entry.generation) for entry in store.entries()])

    def _unsealed(self) -> list[Entry]:
        """Those that were used last come first: they are most likely to be used next."""
        found = [
            entry
            for entry in self._workshop.store.entries()
            if not (entry.facts.sealed or entry.damaged or (entry.key, entry.generation) in self._failed)
            and self._can_compile(entry)
        ]
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    async def _calm(self, pause: float) -> None:
        """Waits so many seconds, and lets builds go first, but not for ever."""
        await asyncio.sleep(pause)
        for _ in range(_MOST_PAUSES):
            if not self._is_building():
                return
            await asyncio.sleep(_CALM)

    async def seal(self, entry: Entry, *, again: bool = False) -> Entry | None:
        """Seals an object now; None if it has left, or turned out to be damaged.

        Args:
            entry: the object.
            again: also if it is sealed, for one whose manifest is lost.

        Raises:
            EnvError: it cannot be looked at, or its interpreter cannot be run.
            StoreError, OSError: it cannot be written down.
        """
        store = self._workshop.store
        async with self._one_at_a_time:
            held = store.keep(entry.key)
            if held is None:
                return None
            try:
                if held.generation != entry.generation:
                    return None
                if held.facts.sealed and not again:
                    return held
                with self._workshop.metrics.builds.phase(entry.key.kind, "seal"):
                    return await self._seal(held)
            finally:
                store.unhold(held.key, held.generation)

    async def _seal(self, entry: Entry) -> Entry | None:
        thread, store = self._workshop.thread, self._workshop.store
        owner = await thread(store.layout.owner, entry.key.owner)
        async with Donors(store, entry) as donors:
            if (site_packages := entry.details.get("site_packages")) is not None:
                await self._compile(entry, Path(str(site_packages)), owner, donors)
            await to_the_end(thread(_protect, entry.path, owner))
            found = await take_inventory(entry.path, owner, digests=True)
            if wrong := _not_what_it_is_called(entry, found):
                await self._damage.condemn(entry, wrong)
                return None
            for donor, differences in await thread(donors.untrue, found):
                # Whatever else has the same files goes with it, and so does this object.
                await self._damage.condemn(donor, differences)
            if store.get(entry.key) is None:
                return None
            sealed = await to_the_end(thread(_write_down, store, entry, found, owner))
        self.after_seal()
        return sealed

    def _can_compile(self, entry: Entry) -> bool:
        image = entry.details.get("image")
        return image is None or self.images is None or self.images.is_ready(entry.key.owner, str(image))

    async def _compile(self, entry: Entry, site_packages: Path, owner: Owner, donors: Donors) -> None:
        image = entry.details.get("image")
        if image is None:
            python = Path(str(entry.details["python"]))
            folders = donors.site_packages
            await compile_modules(python, site_packages, owner, seconds=_COMPILE_SECONDS, donors=folders)
        elif self.images is not None and self._can_compile(entry):
            try:
                await self.images.compile(owner, str(image), site_packages, seconds=_COMPILE_SECONDS)
            except EnvError as error:  # such as an image that was removed meanwhile
                _log.warning("%s is not compiled: %s", entry.id, error)


def _protect(path: Path, owner: Owner) -> None:
    with acting_as(owner):
        protect(path)


def _write_down(store: Store, entry: Entry, found: list[Found], owner: Owner) -> Entry:
    """The manifest first: what is sealed has one."""
    store.manifests.write(entry.key, entry.generation, Manifest.of(entry.created, found))
    stamped = dict.fromkeys(entry.facts.stamps)
    units, linkable = None, None
    if (site_packages := entry.details.get("site_packages")) is not None:
        folder = Path(str(site_packages))
        with acting_as(owner):
            units = wheel_files(folder, entry.path)
            linkable = compiled_files(units, entry.path)
        stamped |= dict.fromkeys((_BINARIES, folder.relative_to(entry.path).as_posix()))
    return store.seal(entry.key, entry.generation, units=units, linkable=linkable, stamped=stamped)


def _not_what_it_is_called(entry: Entry, found: list[Found]) -> list[Difference]:
    """An archive is named by the digest of its file."""
    if entry.key.kind != "archive":
        return []
    name = str(entry.details["file"])
    return [
        Difference(each.path, Change.CHANGED)
        for each in found
        if each.path == name and each.content != entry.key.digest
    ]
