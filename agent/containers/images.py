"""Images: from the reference in a runtime env to one that is on this node and stays while it is used."""

import asyncio
import logging
import math
import time
from dataclasses import dataclass

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.kept import GoneError, Kept
from ray_envd.agent.containers.pulls import Pulls
from ray_envd.agent.containers.storage import Storage, Storages
from ray_envd.agent.containers.surroundings import Surroundings
from ray_envd.agent.errors import NetworkError
from ray_envd.agent.image_reference import Reference
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.podman.pull_errors import NoImageError, untold
from ray_envd.agent.podman.records import ApiError, MissingError, UnreachableError
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.keys import digest_of
from ray_envd.cache.store import Entry

_log = logging.getLogger(__name__)
#: The registry of images that were built on this machine: they are nowhere else.
_LOCAL = "localhost"
_MOST_ATTEMPTS = 5  # at images that somebody removes while they are asked for
_MOST_SEEN = 10_000


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node.

    Attributes:
        entry: its object, held.
        id: podman's id (sha256 of its configuration): what containers are made of. It does not move
            as tags do.
        digest: ``sha256:…`` of its manifest, or the id where it was never in a registry.
        variables: the environment that the image sets.
        is_new: whether it was pulled for this request.
    """

    entry: Entry
    id: str
    digest: str
    variables: dict[str, str]
    is_new: bool


class Images:
    """Obtains images. One per daemon."""

    def __init__(
        self, workshop: Workshop, hosts: Hosts, loop: asyncio.AbstractEventLoop, *, max_age: float
    ) -> None:
        """All images.

        Args:
            workshop: where their objects are made.
            hosts: podman of each user.
            loop: the daemon's.
            max_age: the default of :attr:`ImageSpec.max_age`.
        """
        self._workshop, self._max_age = workshop, max_age
        self._storages = Storages(workshop.store.layout, hosts)
        self._surroundings = Surroundings(workshop, self._storages)
        self._kept = Kept(workshop, self._storages, self._surroundings, loop)
        self._pulls = Pulls(workshop, self._storages, self._kept)
        #: By storage and reference: the storage's stamp, and the image's id.
        self._seen: dict[tuple[int, str, str], tuple[list[int], str]] = {}
        workshop.store.remove_outside = self._kept.leave

    async def run(self) -> None:
        """Clears up after earlier daemons, then looks after the images until cancelled."""
        try:
            await self.sweep()
        except Exception:  # noqa: BLE001 - logged; the next start tries again
            _log.exception("images that nobody refers to are left alone")
        await self._surroundings.run()

    async def sweep(self) -> None:
        """Removes what earlier daemons pulled and nothing refers to."""
        await self._pulls.sweep()
        await self._kept.sweep()

    async def look(self) -> None:
        """Finds out at once what others have done to podman's images; else it is noticed within a minute."""
        await self._surroundings.look()

    async def close(self) -> None:
        """Ends podman's services that are ours."""
        await self._storages.close()

    async def obtain(self, spec: ImageSpec, bench: Bench) -> Image:
        """The image, held until the bench closes.

        A tag means the image that it names now: whoever asks later may get another one, while workers of this
        runtime env keep theirs.

        Raises:
            EnvError: it cannot be had.
        """
        storage = await self._storages.of(bench.session.owner, bench.session.environment)
        pulled = False
        for _ in range(_MOST_ATTEMPTS):
            image = await self._present(storage, spec)
            try:
                if image is None or not (pulled or self._is_fresh(storage, spec, bench)):
                    image = await self._pull(storage, spec, image, bench)
                    pulled = True
                entry, _ = await self._kept.obtain(storage, image, str(spec.reference), bench, spec.field)
            except GoneError:
                continue  # somebody removed it between two of these steps
            if pulled:
                # With the time of the look at the registry: how long that counts is each request's matter.
                await bench.link(_asked(storage, spec.reference), entry.key, 0)
            return _image(entry, is_new=pulled)
        raise NetworkError(f"{spec.reference} is removed again and again", field=spec.field)

    async def _present(self, storage: Storage, spec: ImageSpec) -> str | None:
        """The id of the image that podman has under this name; None if it has none."""
        name = (storage.uid, str(storage.root), str(spec.reference))
        stamp = await self._workshop.thread(storage.stamp)
        known = self._seen.get(name)
        if known is not None and known[0] == stamp != []:
            return known[1]
        try:
            found = await storage.service.call(lambda client: client.inspect(str(spec.reference)))
        except MissingError:
            self._seen.pop(name, None)
            return None
        except (ApiError, UnreachableError) as error:
            raise untold(str(spec.reference), error, spec.field) from error
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[name] = stamp, found.id
        return found.id

    def _is_fresh(self, storage: Storage, spec: ImageSpec, bench: Bench) -> bool:
        """Whether what is here may be taken for what the registry has."""
        max_age = self._max_age if spec.max_age is None else spec.max_age
        if max_age == math.inf or spec.reference.digest or spec.reference.registry == _LOCAL:
            return True
        link = bench.store.linked(_asked(storage, spec.reference), storage.uid)
        return link is not None and link.expires is not None and time.time() - link.expires < max_age

    async def _pull(self, storage: Storage, spec: ImageSpec, present: str | None, bench: Bench) -> str:
        if spec.reference.registry == _LOCAL:
            raise NoImageError(
                f"{spec.reference} is not on this node, and images of {_LOCAL} are nowhere else",
                field=spec.field,
                remedy="build it on each node as the raylet's user, or push it to a registry",
            )
        max_age = self._max_age if spec.max_age is None else spec.max_age
        try:
            return await self._pulls.pull(storage, spec.reference, bench, spec.field)
        except NetworkError as error:
            if present is None or max_age == 0:
                raise
            bench.reporter(spec.field)("registry not reachable, the image that is here is used", error.cause)
            return present


def _asked(storage: Storage, reference: Reference) -> str:
    return digest_of("image", storage.uid, str(storage.root), str(reference))


def _image(entry: Entry, *, is_new: bool) -> Image:
    details = entry.details
    return Image(
        entry=entry,
        id=str(details["image"]),
        digest=str(details["digest"]),
        variables=dict(details["variables"]),
        is_new=is_new,
    )
