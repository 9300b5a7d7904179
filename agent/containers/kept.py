"""Images as objects of the store: what of podman's storage is ours, what it weighs, and its end.

An image that we pulled has a claim (:mod:`ray_envd.cache.claims`) from then on until it is gone, and an
object while it may be used. An object without a claim is of an image that was there before: it weighs
nothing, and its image is never removed.
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_envd.agent.containers.storage import Storage, storage_environment
from ray_envd.agent.errors import EnvError
from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.records import (
    ApiError,
    ConflictError,
    Inspected,
    MissingError,
    UnreachableError,
    chain_ids,
)
from ray_envd.agent.podman.service import Services
from ray_envd.agent.room import Report, Room
from ray_envd.agent.workshop import Bench, Made, Workshop
from ray_envd.cache.errors import StoreError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.store import Build, Entry

if TYPE_CHECKING:
    from ray_envd.agent.podman.client import Client

_log = logging.getLogger(__name__)
_KIND = "image"
_FILE = "image.json"
_REMOVE_WITHIN = 120.0  # seconds
_LOOK_EVERY = 60.0  # seconds between looks at whether somebody else has changed podman's storage
#: What podman may answer, or not.
FAILURES = (EnvError, ApiError, UnreachableError, OSError)


class GoneError(Exception):
    """The image is not there any more."""


class End(Enum):
    """What became of an image that was to be removed."""

    REMOVED = "removed"
    GONE = "gone before"
    IN_USE = "a container uses it"
    NAMED = "somebody else has named it"


class Kept:
    """Of all users. Use from one event loop but for :meth:`leave`.

    That one keeps a thread of the workshop's waiting, so nothing here waits for those.
    """

    def __init__(self, workshop: Workshop, services: Services, loop: asyncio.AbstractEventLoop) -> None:
        self._workshop, self._services = workshop, services
        self._store, self._claims = workshop.store, workshop.store.claims
        self._loop = loop
        #: By what leads to it: a session's has its proxies and may have a service already.
        self._storages: dict[tuple[int, frozenset[tuple[str, str]]], Storage] = {}
        self._looked: dict[tuple[int, str], list[int]] = {}
        self._chains: dict[str, tuple[str, ...]] = {}

    async def storage(self, owner: Owner, environment: Mapping[str, str]) -> Storage:
        """A user's storage, by his raylet's environment.

        Raises:
            EnvError: podman cannot be used.
        """
        chosen = await asyncio.to_thread(podman_environment, owner, environment)
        service = self._services.of(owner, chosen)
        info = await service.info()
        storage = Storage(service, info.graph_root, info.driver)
        self._storages[owner.uid, frozenset(storage.environment.items())] = storage
        return storage

    async def storage_again(self, uid: int, environment: Mapping[str, str]) -> Storage:
        """The same by what was kept of it."""
        known = self._storages.get((uid, frozenset(storage_environment(environment).items())))
        if known is not None:
            return known
        owner = await asyncio.to_thread(self._store.layout.owner, uid)
        return await self.storage(Owner.of(owner.uid, owner.gid), environment)

    # objects

    async def obtain(
        self, storage: Storage, image: str, reference: str, bench: Bench, field: str
    ) -> tuple[Entry, bool]:
        """The object of an image that is there, held by the bench, and whether it was made now.

        Raises:
            GoneError: the image is not there any more.
            EnvError: podman or the disk.
        """
        key = storage.key(image)
        fill = partial(self._fill, storage, image, reference, field)
        entry, built = await bench.obtain(key, fill, field=field, summary=reference, reserve=0)
        if built:
            await self.look_around(storage)
        return entry, built

    async def _fill(
        self, storage: Storage, image: str, reference: str, field: str, build: Build, _: Report, room: Room
    ) -> Made:
        try:
            found = await storage.service.call(lambda client: client.inspect(image))
        except MissingError as error:
            raise GoneError(str(error)) from error
        except (ApiError, UnreachableError) as error:
            raise EnvError(f"podman cannot tell of {reference}: {error}", field=field) from error
        claim = await asyncio.to_thread(self._claims.get, storage.uid, build.key.digest)
        details = _details(found, storage, reference, pulled=claim is not None)
        sign = await asyncio.to_thread(_write, build, details, storage.sign_of(image))
        claim = claim or {}
        room.finish()
        return Made(
            details,
            fetched_bytes=int(claim.get("fetched", 0)),
            present=sign,
            outside=tuple(map(storage.unit, found.layers)) if claim else (),
            seconds=float(claim.get("seconds", 0)),
        )

    # claims

    async def claim(
        self, storage: Storage, image: str, names: Iterable[str], *, fetched: int, seconds: float
    ) -> None:
        """Says that an image is ours, with these names of it; durable."""
        digest = storage.key(image).digest
        before = await asyncio.to_thread(self._claims.get, storage.uid, digest) or {}
        said = {
            "image": image,
            "names": sorted({*before.get("names", ()), *names}),
            "environment": storage.environment,
            "fetched": max(fetched, int(before.get("fetched", 0))),
            "seconds": max(seconds, float(before.get("seconds", 0))),
            "since": before.get("since", time.time()),
        }
        await asyncio.to_thread(self._claims.put, storage.uid, digest, said)

    async def is_claimed(self, storage: Storage, image: str) -> bool:
        """Whether an image is ours."""
        digest = storage.key(image).digest
        return await asyncio.to_thread(self._claims.get, storage.uid, digest) is not None

    # the end of an image

    def leave(self, entry: Entry) -> bool:
        """An object leaves: removes its image; whether that is gone. Blocks; not on the event loop."""
        future = asyncio.run_coroutine_threadsafe(self._leave(entry), self._loop)
        try:
            return future.result(_REMOVE_WITHIN)
        except (*FAILURES, TimeoutError) as error:
            future.cancel()
            _log.warning(
                "%s (%s) could not be removed, it is tried again: %s", entry.id, entry.summary, error
            )
            return False

    async def _leave(self, entry: Entry) -> bool:
        uid, digest = entry.key.owner, entry.key.digest
        claim = await asyncio.to_thread(self._claims.get, uid, digest)
        if claim is None:
            return False
        end = await self._remove(uid, claim)
        # Who uses it now is not ours; so is it no more.
        await asyncio.to_thread(self._claims.drop, uid, digest)
        if end in {End.IN_USE, End.NAMED}:
            _log.info("%s (%s) stays in podman's storage: %s", entry.id, entry.summary, end.value)
        return end in {End.REMOVED, End.GONE}

    async def _remove(self, uid: int, claim: Mapping[str, Any]) -> End:
        storage = await self.storage_again(uid, claim["environment"])
        return await storage.service.call(partial(_remove_image, str(claim["image"]), set(claim["names"])))

    async def sweep(self) -> None:
        """Removes images that an earlier daemon pulled and that have no object."""
        for uid, name, claim in await asyncio.to_thread(lambda: list(self._claims.all())):
            if "image" not in claim:
                continue
            key = ObjectKey(uid, _KIND, name)
            try:
                if self._store.get(key) is None and not self._workshop.once.running(key):
                    # As if it were built: whoever asks for it meanwhile waits, and finds it gone.
                    await self._workshop.once.do(key, partial(self._sweep_one, key, claim))
            except FAILURES as error:
                _log.warning("the image %s of uid %d is left alone: %s", name, uid, error)

    async def _sweep_one(self, key: ObjectKey, claim: Mapping[str, Any]) -> None:
        if self._store.get(key) is not None:
            return
        end = await self._remove(key.owner, claim)
        _log.info("%s, which nothing refers to: %s", key.id, end.value)
        if end is not End.IN_USE:
            await asyncio.to_thread(self._claims.drop, key.owner, key.digest)

    # what others do to the storage

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
            storage = await self.storage_again(entry.key.owner, entry.details["environment"])
            found[storage.uid, storage.root] = storage
        return list(found.values())

    def _images(self) -> list[Entry]:
        return [each for each in self._store.entries() if each.key.kind == _KIND and not each.damaged]

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


def _details(found: Inspected, storage: Storage, reference: str, *, pulled: bool) -> dict[str, Any]:
    return {
        "image": found.id,
        "digest": found.digest or f"sha256:{found.id}",
        "variables": dict(found.variables),
        "reference": reference,
        "pulled": pulled,
        "root": str(storage.root),
        "environment": storage.environment,
    }


def _write(build: Build, details: Mapping[str, Any], sign: str) -> tuple[str, ...]:
    """Says in the object's folder what it stands for; returns the sign if there is one."""
    with acting_as(build.owner):
        said = {name: details[name] for name in ("image", "digest", "reference", "pulled", "root")}
        (build.path / _FILE).write_text(json.dumps(said, indent=1))
        try:
            with open(sign, "rb"):
                return (sign,)
        except OSError:
            return ()  # in a storage that is only read, beside the user's own


def _remove_image(image: str, ours: set[str], client: "Client") -> End:
    listed = next((each for each in client.images() if each.id == image), None)
    if listed is None:
        return End.GONE
    if set(listed.names) - ours:
        return End.NAMED
    if client.containers_of(image):
        return End.IN_USE
    try:
        for name in listed.names or (image,):
            client.remove(name)
    except ConflictError:
        return End.IN_USE
    except MissingError:
        return End.GONE
    return End.REMOVED
