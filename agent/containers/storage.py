"""Where one user's images lie: podman's storage, and how it is reached."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.podman.records import Layer
from ray_envd.agent.podman.service import Service, Services
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.layout import Layout
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.sizes import Unit
from ray_envd.cache.stamps import stamp

#: Of podman's variables those that say where its storage is. Proxies may hold passwords and are not kept.
_KEPT = ("CONTAINERS_", "STORAGE_", "XDG_")
_KEPT_NAMES = frozenset({"HOME", "PATH", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS"})
_ROOT_DIGITS = 8
#: Of objects.
KIND = "image"


@dataclass(frozen=True, slots=True)
class Storage:
    """One storage of podman's, as one user has it.

    Attributes:
        service: by which podman is asked.
        root: podman calls it the graph root.
        driver: of the storage, which is in the names of its folders.
    """

    service: Service
    root: Path
    driver: str

    @property
    def uid(self) -> int:
        """Of the user."""
        return self.service.owner.uid

    @property
    def environment(self) -> dict[str, str]:
        """What leads to it, without secrets: to be kept with what stands in it."""
        return storage_environment(self.service.environment)

    def key(self, image: str) -> ObjectKey:
        """The key of an image's object: by its id, and the storage, since a user may have several."""
        return ObjectKey(self.uid, KIND, image + digest_of("storage", str(self.root))[:_ROOT_DIGITS])

    def unit(self, layer: Layer) -> Unit:
        """A layer, as what several objects may have."""
        return Unit(self.unit_id(layer.chain), layer.bytes, "")

    def unit_id(self, chain: str) -> str:
        """The id of a layer in this storage."""
        return hashlib.blake2b(f"{self.root}\0{chain}".encode(), digest_size=12).hexdigest()

    def sign_of(self, image: str) -> str:
        """A path that is there as long as the image is (containers/storage, images.go)."""
        return str(self.root / f"{self.driver}-images" / image / "manifest")

    def stamp(self) -> list[int]:
        """Changes with every image or name that comes or goes; empty if it cannot be told. Blocking."""
        try:
            with acting_as(self.service.owner):
                return stamp(self.root / f"{self.driver}-images" / "images.json")
        except OSError:
            return []


def storage_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of podman's variables those that lead to a storage."""
    return {
        name: value for name, value in environment.items() if name.startswith(_KEPT) or name in _KEPT_NAMES
    }


class Storages:
    """Everybody's. Use from one event loop."""

    def __init__(self, layout: Layout, hosts: Hosts) -> None:
        self._layout, self._services = layout, Services(layout, hosts)
        #: By what leads to it: a session's has its proxies and may have a service already.
        self._known: dict[tuple[int, frozenset[tuple[str, str]]], Storage] = {}

    async def of(self, owner: Owner, environment: Mapping[str, str]) -> Storage:
        """A user's storage, by his raylet's environment.

        Raises:
            EnvError: podman cannot be used.
        """
        chosen = await asyncio.to_thread(podman_environment, owner, environment)
        service = self._services.of(owner, chosen)
        info = await service.info()
        storage = Storage(service, info.graph_root, info.driver)
        self._known[owner.uid, frozenset(storage.environment.items())] = storage
        return storage

    async def again(self, uid: int, environment: Mapping[str, str]) -> Storage:
        """The same by what was kept of it."""
        known = self._known.get((uid, frozenset(storage_environment(environment).items())))
        if known is not None:
            return known
        owner = await asyncio.to_thread(self._layout.owner, uid)
        return await self.of(Owner.of(owner.uid, owner.gid), environment)

    async def close(self) -> None:
        """Ends podman's services that are ours."""
        await self._services.close()
