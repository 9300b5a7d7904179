"""Pulls: one per reference however many wait, one after the other from each repository.

What images of one repository share is downloaded once that way: podman fetches no layer that it has. A pull
that breaks off leaves the layers that had come, so that another attempt goes on from there.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from ray_envd.agent.bench import Bench
from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.containers.kept import GoneError, Kept
from ray_envd.agent.containers.storage import Storage, Storages
from ray_envd.agent.containers.surroundings import FAILURES
from ray_envd.agent.image_reference import Reference
from ray_envd.agent.podman.auth import credentials
from ray_envd.agent.podman.pull_errors import pull_error, untold
from ray_envd.agent.podman.records import ApiError, Credentials, Listed, MissingError, Step, UnreachableError
from ray_envd.agent.room import Report, Room
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.owner import acting_as
from ray_envd.cache.text import bytes_text

if TYPE_CHECKING:
    from ray_envd.agent.podman.client import Client

T = TypeVar("T")
_log = logging.getLogger(__name__)
#: Set aside before anything is known of an image: podman tells sizes once a second.
_GUESS_BYTES = 16 * 1024**2
#: How much larger an image is than its compressed layers: the layers as they come, and unpacked.
_UNPACKED = 3
_SECONDS_TO_UNDO = 30.0
_NOTE = "pull-"


@dataclass
class _Progress:
    """What has come of each layer, in bytes."""

    reference: str
    report: Report
    room: Room
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)

    @property
    def done(self) -> int:
        return sum(done for done, _ in self.layers.values())

    def __call__(self, step: Step) -> None:
        """One step, on the event loop."""
        if step.total:
            self.layers[step.layer] = step.done, step.total
        if step.status == "Download complete" and step.layer not in self.finished:
            self.finished.add(step.layer)
            size = self.layers.get(step.layer, (0, 0))[1]
            self.layers[step.layer] = size, size
            self.report("pulled layer", f"{step.layer} {bytes_text(size)}" if size else step.layer)
        elif step.status == "Already exists" and step.layer not in self.finished:
            self.finished.add(step.layer)
            self.report("has layer", step.layer)
        total = sum(total for _, total in self.layers.values())
        if step.total:
            self.report("pulling", self.reference, done=self.done, total=total)
        self.room.need(total * _UNPACKED)
        self.room.reservation.wrote(self.done)


class Pulls:
    """Of all users. Use from one event loop."""

    def __init__(self, workshop: Workshop, storages: Storages, kept: Kept) -> None:
        self._workshop, self._storages, self._kept = workshop, storages, kept
        self._claims = workshop.store.claims
        self._repositories: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._noted: set[tuple[int, str]] = set()

    async def pull(self, storage: Storage, reference: Reference, bench: Bench, field: str) -> str:
        """The id of the image that a reference names in its registry, which is here now.

        Raises:
            GoneError: somebody has removed it at once.
            EnvError: it cannot be had.
        """
        name = ("pull", storage.uid, str(storage.root), str(reference))
        return await bench.share(name, partial(self._shared, storage, reference, field))

    async def _shared(self, storage: Storage, reference: Reference, field: str, bench: Bench) -> str:
        report = bench.reporter(field)
        report("pulling", str(reference))
        work = partial(self._in_room, storage, reference, field, bench)
        name = ("pull", storage.uid, str(reference))
        async with self._turn(storage, reference, report):
            return await self._workshop.space.run(name, _GUESS_BYTES, work, field=field, report=report)

    @asynccontextmanager
    async def _turn(self, storage: Storage, reference: Reference, report: Report) -> AsyncIterator[None]:
        """Waits, its place lent to others, until no other image of the repository is pulled."""
        place = (str(storage.root), reference.name)
        lock = self._repositories.setdefault(place, asyncio.Lock())
        if not lock.locked():
            async with lock:
                yield
            return
        report("waiting for another pull from", reference.name)
        has_it = False
        try:
            async with self._workshop.slots.lent():
                has_it = await lock.acquire()
            yield
        finally:
            if has_it:
                lock.release()

    async def _in_room(
        self, storage: Storage, reference: Reference, field: str, bench: Bench, room: Room
    ) -> str:
        before = await self._asked(storage.service.call(lambda client: client.images()), reference, field)
        note = _NOTE + hashlib.sha256(f"{storage.root} {reference}".encode()).hexdigest()[:32]
        said = {
            "reference": str(reference),
            "environment": storage.environment,
            "before": [each.id for each in before],
        }
        progress = _Progress(str(reference), bench.reporter(field), room)
        started = time.monotonic()
        self._noted.add((storage.uid, note))
        try:
            await self._workshop.thread(self._claims.put, storage.uid, note, said)
            await self._fetch(storage, reference, field, progress)
            claiming = self._claimed(storage, reference, before, progress.done, started)
            image = await self._asked(claiming, reference, field)
            await self._workshop.thread(self._claims.drop, storage.uid, note)
        except BaseException:
            await to_the_end(self._undo(storage, note, said))
            raise
        finally:
            self._noted.discard((storage.uid, note))
        # In the same room, so that there is no moment in which its bytes count nowhere.
        await self._kept.obtain(storage, image, str(reference), bench, field)
        return image

    async def _fetch(self, storage: Storage, reference: Reference, field: str, progress: _Progress) -> None:
        loop = asyncio.get_running_loop()
        found = await self._workshop.thread(_credentials, storage, reference)

        def told(step: Step) -> None:
            loop.call_soon_threadsafe(progress, step)

        pulling = storage.service.call_once(lambda client: client.pull(str(reference), found, told))
        await self._asked(pulling, reference, field)

    async def _asked(self, question: Awaitable[T], reference: Reference, field: str) -> T:
        try:
            return await question
        except MissingError as error:
            raise GoneError(str(error)) from error
        except ApiError as error:
            raise pull_error(str(error), str(reference), field) from error
        except UnreachableError as error:
            raise untold(str(reference), error, field) from error

    async def _claimed(
        self, storage: Storage, reference: Reference, before: list[Listed], fetched: int, started: float
    ) -> str:
        """Claims what has come, unless it was here before; its id."""

        def look(client: "Client") -> tuple[str, list[Listed]]:
            return client.inspect(str(reference)).id, client.images()

        image, after = await storage.service.call(look)
        had = {name for each in before if each.id == image for name in each.names}
        is_new = all(each.id != image for each in before)
        if is_new or await self._kept.is_claimed(storage, image):
            names = {name for each in after if each.id == image for name in each.names} - had
            seconds = time.monotonic() - started if is_new else 0.0
            await self._kept.claim(storage, image, names, fetched=fetched, seconds=seconds)
        return image

    async def _undo(self, storage: Storage, note: str, said: Mapping[str, Any]) -> None:
        """A pull has failed; at its very end it may have come through all the same."""
        try:
            async with asyncio.timeout(_SECONDS_TO_UNDO):
                await self._settle(storage, note, said)
        except (*FAILURES, TimeoutError) as error:
            _log.warning("what is left of a pull of %s is looked for later: %s", said["reference"], error)

    async def _settle(self, storage: Storage, note: str, said: Mapping[str, Any]) -> None:
        """Claims what a pull that nobody saw the end of has brought, and drops its note."""

        def look(client: "Client") -> tuple[str, tuple[str, ...]]:
            image = client.inspect(str(said["reference"])).id
            return image, next((each.names for each in client.images() if each.id == image), ())

        try:
            image, names = await storage.service.call(look)
            if image not in said["before"]:
                await self._kept.claim(storage, image, names, fetched=0, seconds=0)
        except MissingError:
            pass
        await self._workshop.thread(self._claims.drop, storage.uid, note)

    async def sweep(self) -> None:
        """Looks after the pulls that an earlier daemon did not end."""
        for uid, name, said in await self._workshop.thread(lambda: list(self._claims.all())):
            if not name.startswith(_NOTE) or (uid, name) in self._noted:
                continue
            try:
                storage = await self._storages.again(uid, said["environment"])
                await self._settle(storage, name, said)
            except FAILURES as error:
                _log.warning("a pull of %s is left alone: %s", said.get("reference"), error)


def _credentials(storage: Storage, reference: Reference) -> Credentials | None:
    with acting_as(storage.service.owner):
        return credentials(storage.service.environment, reference.name)
