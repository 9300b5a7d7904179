"""Looking at environments that workers have left: did they write into what others will be given?"""

import asyncio
import logging
import time
from pathlib import Path

from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import EnvError
from ray_envd.agent.integrity.damage import Damage
from ray_envd.agent.integrity.steps import Steps
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import StoreError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.references import References
from ray_envd.cache.removal import remove_strays
from ray_envd.cache.store import Entry

_log = logging.getLogger(__name__)
_CALM = 2.0  # seconds to let a burst of releases pass
_ROUND = 30.0  # seconds between two looks at the same environment
#: What workers run in, and so may write into; the guard sees all that may happen to the others.
_KINDS = frozenset({"python"})


class Patrol:
    """Compares environments with their manifests once nobody refers to them. ``poke`` on the event loop."""

    def __init__(self, workshop: Workshop, references: References, damage: Damage, steps: Steps) -> None:
        self._workshop, self._references = workshop, references
        self._damage, self._steps = damage, steps
        self._poked = asyncio.Event()
        self._poked.set()
        #: When each was looked at (monotonic), and how often it had been used by then.
        self._seen = {_name(each): (-_ROUND, each.uses) for each in self._environments()}
        #: Their sessions may end while no daemon is there.
        self._in_use = {each.key for each in self._environments() if references.is_referenced(each.key)}

    def poke(self) -> None:
        """Something was released."""
        self._poked.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self._poked.wait()
            await asyncio.sleep(_CALM)
            self._poked.clear()
            try:
                await self._round()
            except Exception:  # noqa: BLE001 - logged; the daemon must not end over its housekeeping
                _log.exception("environments cannot be looked at")

    async def _round(self) -> None:
        now, is_waiting = time.monotonic(), False
        for entry in await self._workshop.thread(self._left):
            if now < self._last(entry)[0] + _ROUND:
                is_waiting = True
            elif not await self._steps.run(self._look(entry)):
                self._poked.set()
        if is_waiting:
            asyncio.get_running_loop().call_later(_ROUND, self._poked.set)

    def _environments(self) -> list[Entry]:
        return [each for each in self._workshop.store.entries() if each.key.kind in _KINDS]

    def _last(self, entry: Entry) -> tuple[float, int]:
        return self._seen.get(_name(entry), (-_ROUND, 0))

    def _left(self) -> list[Entry]:
        """Sealed environments that were used since they were looked at last, and are not any more."""
        found = self._environments()
        for gone in self._seen.keys() - {_name(each) for each in found}:
            del self._seen[gone]
        return [
            each
            for each in found
            if each.facts.sealed
            and not each.damaged
            and (each.uses != self._last(each)[1] or each.key in self._in_use)
            and not self._references.is_referenced(each.key)
        ]

    async def _look(self, entry: Entry) -> None:
        store = self._workshop.store
        held = store.keep(entry.key)
        if held is None:
            return
        try:
            found = await self._damage.compare(held, digests=False)
            if found is not None and found.differences:
                await self._damage.condemn(held, found.differences)
            elif found is not None and found.strays:
                owner = await self._workshop.thread(store.layout.owner, held.key.owner)
                await to_the_end(self._workshop.thread(_remove, held.path, found.strays, owner))
        except (EnvError, StoreError, OSError) as error:
            _log.warning("%s cannot be looked at: %s", held.id, error)
        finally:
            store.unhold(held.key, held.generation)
        self._seen[_name(held)] = time.monotonic(), held.uses
        self._in_use.discard(held.key)


def _name(entry: Entry) -> tuple[ObjectKey, int]:
    return entry.key, entry.generation


def _remove(root: Path, strays: tuple[str, ...], owner: Owner) -> None:
    with acting_as(owner):
        remove_strays(root, strays)
