"""Installers are made when they are needed, once."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Mapping

from ray_envd.agent.installers import Installers
from ray_envd.agent.installers.protocol import Installer


async def test_made_once_however_many_ask() -> None:
    """Requests that come while the installers are made get the same ones as all later requests."""
    made: list[Mapping[str, Installer]] = []
    all_asked = threading.Event()

    def make() -> Mapping[str, Installer]:
        assert all_asked.wait(10)  # nobody is given anything before all have asked
        made.append({})
        return made[-1]

    installers = Installers(make)
    asking = [asyncio.create_task(installers.all()) for _ in range(5)]
    await asyncio.sleep(0)  # each begins
    all_asked.set()
    found = await asyncio.gather(*asking)
    later = await installers.all()
    assert len(made) == 1
    assert all(each is made[0] for each in (*found, later))


async def test_what_cannot_be_made_is_tried_again() -> None:
    """A failure to load them fails the request that needed them, not those after it."""
    attempts = iter([MemoryError(), None])

    def make() -> Mapping[str, Installer]:
        failure = next(attempts)
        if failure is not None:
            raise failure
        return {}

    installers = Installers(make)
    found = await asyncio.gather(installers.all(), return_exceptions=True)
    assert isinstance(found[0], MemoryError)
    assert await installers.all() == {}


def test_a_daemon_starts_without_them() -> None:
    """Nothing that a daemon loads before it is ready loads what only some runtime envs need."""
    rare = ("agent.environments", "agent.installers.registry", "agent.python.build", "cache.archive")
    others = ("difflib", "grpc_reflection.v1alpha.reflection", "importlib.metadata", "rich")
    names = [*(f"ray_envd.{name}" for name in rare), *others]
    program = f"import sys, ray_envd.agent.server; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
