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

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.storage import KIND, Storage, Storages
from ray_envd.agent.containers.surroundings import FAILURES, Surroundings
from ray_envd.agent.podman.pull_errors import untold
from ray_envd.agent.podman.records import (
    ApiError,
    ConflictError,
    Inspected,
    MissingError,
    UnreachableError,
)
from ray_envd.agent.room import Report, Room
from ray_envd.agent.workshop import Made, Workshop
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import acting_as
from ray_envd.cache.store import Build, Entry

if TYPE_CHECKING:
    from ray_envd.agent.podman.client import Client

_log = logging.getLogger(__name__)
_FILE = "image.json"
_REMOVE_WITHIN = 120.0  # seconds


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

    def __init__(
        self,
        workshop: Workshop,
        storages: Storages,
        surroundings: Surroundings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._workshop, self._storages, self._surroundings = workshop, storages, surroundings
        self._store, self._claims = workshop.store, workshop.store.claims
        self._loop = loop

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
            await self._surroundings.look_around(storage)
        return entry, built

    async def _fill(
        self, storage: Storage, image: str, reference: str, field: str, build: Build, _: Report, room: Room
    ) -> Made:
        try:
            found = await storage.service.call(lambda client: client.inspect(image))
        except MissingError as error:
            raise GoneError(str(error)) from error
        except (ApiError, UnreachableError) as error:
            raise untold(reference, error, field) from error
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
        storage = await self._storages.again(uid, claim["environment"])
        return await storage.service.call(partial(_remove_image, str(claim["image"]), set(claim["names"])))

    async def sweep(self) -> None:
        """Removes images that an earlier daemon pulled and that have no object."""
        for uid, name, claim in await asyncio.to_thread(lambda: list(self._claims.all())):
            if "image" not in claim:
                continue
            key = ObjectKey(uid, KIND, name)
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
