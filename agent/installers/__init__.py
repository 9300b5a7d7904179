"""What prepares the fields of a runtime env, there once it is needed.

The modules of all installers and of what they stand on are a third of ray-envd's own. A daemon loads them
with the first runtime env that has a field for them; one whose store holds objects, before it is ready.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping

from ray_envd.agent.installers.protocol import Installer


class Installers:
    """Every installer by its field, made once. Their order is that in which contexts are merged."""

    def __init__(self, make: Callable[[], Mapping[str, Installer]]) -> None:
        """Nothing is made yet.

        Args:
            make: makes them all; called in a thread, since it loads modules.
        """
        self._make = make
        self._making = threading.Lock()
        self._made: Mapping[str, Installer] | None = None

    async def all(self) -> Mapping[str, Installer]:
        """The installers; the first call takes tens of milliseconds, which hold up nobody else."""
        return self._made if self._made is not None else await asyncio.to_thread(self._once)

    def _once(self) -> Mapping[str, Installer]:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made
