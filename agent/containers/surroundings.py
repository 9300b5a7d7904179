"""What others do to the storages in which our images lie: images come and go there without a word to us."""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from ray_envd.agent.containers.storage import KIND, Storage, Storages
from ray_envd.agent.errors import EnvError
from ray_envd.agent.podman.records import ApiError, MissingError, UnreachableError, chain_ids
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import StoreError
from ray_envd.cache.store import Entry

if TYPE_CHECKING:
    from ray_envd.agent.podman.client import Client

_log = logging.getLogger(__name__)
_LOOK_EVERY = 60.0  # seconds between looks at whether somebody else has changed podman's storage
#: What podman may answer, or not.
FAILURES = (EnvError, ApiError, UnreachableError, OSError)


class Surroundings:
    """Of the images of all users. Use from one event loop."""

    def __init__(self, workshop: Workshop, storages: Storages) -> None:
        self._workshop, self._store, self._storages = workshop, workshop.store, storages
        #: By user and storage: its stamp when it was looked at last.
        self._looked: dict[tuple[int, str], list[int]] = {}
        #: Of images that are not ours: their layers never change.
        self._chains: dict[str, tuple[str, ...]] = {}

    async def run(self) -> None:
        """Keeps sizes true to what others do, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("podman's storage could not be looked at")
            await asyncio.sleep(_LOOK_EVERY)

    async def look(self) -> None:
        """Looks around in each storage that has changed.

        Raises:
            EnvError: podman cannot be used.
        """
        for storage in await self._in_use():
            stamp = await asyncio.to_thread(storage.stamp)
            if self._looked.get((storage.uid, str(storage.root))) != stamp:
                await self.look_around(storage)

    async def _in_use(self) -> list[Storage]:
        """Every storage with objects."""
        found = {}
        for entry in self._images():
            storage = await self._storages.again(entry.key.owner, entry.details["environment"])
            found[storage.uid, storage.root] = storage
        return list(found.values())

    def _images(self) -> list[Entry]:
        return [each for each in self._store.entries() if each.key.kind == KIND and not each.damaged]

    async def look_around(self, storage: Storage) -> None:
        """Finds out which layers of our images others have as well, and which images are gone.

        A failure is logged: then what is not known counts as others'.
        """
        mine = {
            str(entry.details["image"]): entry
            for entry in self._images()
            if (entry.key.owner, entry.details["root"]) == (storage.uid, str(storage.root))
        }
        ours = {image for image, entry in mine.items() if entry.details["pulled"]}
        stamp = await asyncio.to_thread(storage.stamp)
        try:
            there, chains = await storage.service.call(partial(self._foreign_chains, ours))
        except FAILURES as error:
            _log.warning("podman's storage could not be looked at: %s", error)
            return
        units = [unit for image in ours for unit in mine[image].size.units]
        theirs = {storage.unit_id(chain) for chain in chains}
        self._store.note_foreign({unit.id: unit.id in theirs for unit in units if not unit.sample})
        self._looked[storage.uid, str(storage.root)] = stamp
        for image, entry in mine.items():
            if image not in there:
                await self._note_gone(entry)

    def _foreign_chains(self, ours: set[str], client: "Client") -> tuple[set[str], set[str]]:
        """The ids of all images, and the layers of those that are not ours."""
        there = {each.id for each in client.images()}
        found = set[str]()
        for image in there - ours:
            if image not in self._chains:
                try:
                    self._chains[image] = tuple(chain_ids(client.layers(image)))
                except MissingError:
                    continue
            found.update(self._chains[image])
        return there, found

    async def _note_gone(self, entry: Entry) -> None:
        try:
            await self._workshop.guard.on_damage(entry, "somebody removed the image from podman's storage")
        except StoreError as error:
            _log.info("%s: %s", entry.id, error)
