"""uv's caches of all users: part of the budget, measured after builds, pruned when room is needed.

uv takes a shared lock on its cache for every run, and ``uv cache clean`` and ``prune`` an exclusive one.
They are given a second to get it: where something is being installed they go without success, and are tried
again at the next look. While they have it builds wait, so packages go a few at a time, which takes
milliseconds each.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ray_envd.agent import process
from ray_envd.agent.errors import EnvError
from ray_envd.agent.python.tools import Toolbox
from ray_envd.agent.python.uv_cache import Meter, Package, note_used, packages
from ray_envd.cache.growth import Growth
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.sizes import weigh
from ray_envd.cache.store import Store

_log = logging.getLogger(__name__)
_LOCK_SECONDS = 1
_BATCH = 32  # packages that go in one run of uv


class UvCaches:
    """Every user's uv cache."""

    def __init__(self, store: Store, thread: Callable[..., Awaitable[Any]]) -> None:
        """``thread`` runs blocking work."""
        self._store, self._thread = store, thread
        self._meters: dict[int, Meter] = {}
        self._measuring = asyncio.Lock()
        #: Who else has the objects' files is not known at the start, nor after a prune.
        self._links_changed = True
        self.growth = Growth()
        self.measured = -math.inf  # monotonic seconds

    @property
    def bytes(self) -> int:
        """What they held when they were measured last."""
        return self.growth.last

    async def measure(self) -> int:
        """Their bytes now."""
        async with self._measuring:
            mark = self.growth.mark()
            if self._links_changed:
                self._links_changed = False
                await self._thread(self._store.refresh_units)
            total = 0
            for owner in await self._owners():
                folder = self._store.layout.user(owner.uid).uv_cache
                meter = self._meters.setdefault(owner.uid, Meter(folder))
                total += await self._thread(_as_owner, owner, meter.measure)
            if total < self.growth.last:
                # They gave something up, perhaps to a hand that nobody knows of.
                await self._thread(self._store.refresh_units)
            self.growth.measured(total, mark)
            self.measured = time.monotonic()
            return total

    async def spare(self) -> int:
        """The bytes of packages that no environment uses; walks all of them."""
        return sum(each.bytes for _, found in await self._found() for each in found if _is_spare(each))

    async def shrink(self, missing: int) -> int:
        """Frees so many bytes if it can: what uv calls dangling, then packages that no environment uses.

        Those that were not used for longest go first. Returns how many bytes were freed.
        """
        before = await self._with_objects()
        for owner in await self._owners():
            if not await self._run(owner, ["cache", "prune"]):
                continue
            freed = before - await self._with_objects()
            if freed < missing:
                await self._drop(owner, missing - freed)
                freed = before - await self._with_objects()
            if freed >= missing:
                break
        return max(0, before - await self._with_objects())

    async def _with_objects(self) -> int:
        """Their bytes now and those of all objects: what environments keep of them is not freed."""
        return await self.measure() + self._store.stored_bytes()

    async def _drop(self, owner: Owner, missing: int) -> None:
        chosen: list[str] = []
        for package in filter(_is_spare, await self._packages(owner)):
            if missing <= 0:
                break
            chosen.append(package.name)
            missing -= package.bytes
        for start in range(0, len(chosen), _BATCH):
            await self._run(owner, ["cache", "clean", *chosen[start : start + _BATCH]])

    async def empty(self, missing: int) -> int:
        """Empties them, if that frees so many bytes; what environments link to stays theirs.

        Returns how many bytes were freed.
        """
        own = 0
        for owner in await self._owners():
            cache = self._store.layout.user(owner.uid).uv_cache
            own += (await self._thread(_as_owner, owner, partial(weigh, cache))).own
        if own < missing:
            return 0
        for owner in await self._owners():
            await self._run(owner, ["cache", "clean"])
        await self.measure()
        return own

    async def note_used(self, used: Iterable[tuple[int, Mapping[str, Any], float]]) -> None:
        """Environments have gone: uid, details and the time of their last use, for the order of packages."""
        owners = {owner.uid: owner for owner in await self._owners()}
        for uid, details, when in used:
            names = [str(pin[0]) for pin in details.get("pins", ())]
            if names and uid in owners:
                folder = self._store.layout.user(uid).uv_cache
                await self._thread(_as_owner, owners[uid], partial(note_used, folder, names, when))

    async def _owners(self) -> list[Owner]:
        return [Owner.of(uid, gid) for uid, gid in await self._thread(self._store.owners)]

    async def _found(self) -> list[tuple[Owner, list[Package]]]:
        return [(owner, await self._packages(owner)) for owner in await self._owners()]

    async def _packages(self, owner: Owner) -> list[Package]:
        cache = self._store.layout.user(owner.uid).uv_cache
        return list(await self._thread(_as_owner, owner, partial(packages, cache)))

    async def _run(self, owner: Owner, words: Sequence[str]) -> bool:
        folder = self._store.layout.user(owner.uid)
        environment = {
            "UV_CACHE_DIR": str(folder.uv_cache),
            "UV_LOCK_TIMEOUT": str(_LOCK_SECONDS),
            "PATH": os.environ.get("PATH", ""),
            "HOME": owner.home,
        }
        tools = Toolbox.bundled(folder.uv_cache)
        try:
            done = await process.run(
                [tools.uv, *words, "--no-config"], env=environment, cwd=folder.staging, owner=owner
            )
        except EnvError as error:
            _log.warning("uv's cache could not be pruned: %s", error)
            return False
        self._links_changed = True
        if done.returncode:
            _log.info("uv's cache of uid %d was not pruned: %s", owner.uid, " ".join(done.tail(2)))
        return done.returncode == 0


def _is_spare(package: Package) -> bool:
    """Whether removing it frees more than it takes from environments to be (another version is in use)."""
    return package.bytes > package.linked


def _as_owner(owner: Owner, work: Callable[[], Any]) -> Any:
    with acting_as(owner):
        return work()
