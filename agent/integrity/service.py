"""All that keeps objects whole, wired once."""

import asyncio
from collections.abc import Callable

from ray_envd.agent.integrity.damage import Damage
from ray_envd.agent.integrity.patrol import Patrol
from ray_envd.agent.integrity.sealing import Sealer
from ray_envd.agent.integrity.steps import Steps
from ray_envd.agent.integrity.verification import Verification
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry


class Integrity:
    """One per daemon.

    Attributes:
        verification: for those who ask.
        sealer: seals what is built.
        steps: to be paused by those who want objects gone.
    """

    def __init__(self, workshop: Workshop, references: References, is_building: Callable[[], bool]) -> None:
        """``is_building`` says whether work that somebody waits for is under way."""
        self._damage = Damage(workshop)
        self._workshop = workshop
        self.steps = Steps()
        self.sealer = Sealer(workshop, self._damage, self.steps, is_building)
        self._patrol = Patrol(workshop, references, self._damage, self.steps)
        self.verification = Verification(workshop, references, self._damage, self.sealer, self.steps)
        workshop.guard.on_damage = self._found_wanting

    async def run(self) -> None:
        """Seals and looks after objects until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.sealer.run(), name="sealer")
            group.create_task(self._patrol.run(), name="patrol")

    def built(self) -> None:
        """Something was built."""
        self.sealer.poke()

    def released(self) -> None:
        """Somebody has left."""
        self._patrol.poke()

    async def _found_wanting(self, entry: Entry, reason: str) -> None:
        store = self._workshop.store
        # Those who asked may have left meanwhile, and so may the object.
        held = store.keep(entry.key)
        if held is None:
            return
        try:
            if (held.generation, held.created) == (entry.generation, entry.created):
                await self._damage.suspect(held, reason)
        finally:
            store.unhold(held.key, held.generation)
