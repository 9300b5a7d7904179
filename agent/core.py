"""What prepares environments, wired once: everything of the daemon that is below its faces."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from functools import partial

from ray_envd.agent.collector import Collector
from ray_envd.agent.config import Settings
from ray_envd.agent.containers.images import Images
from ray_envd.agent.containers.platform import Platforms
from ray_envd.agent.containers.watch import Watch
from ray_envd.agent.foresight import Foresight
from ray_envd.agent.installers import Installers
from ray_envd.agent.installers.protocol import Installer
from ray_envd.agent.integrity.service import Integrity
from ray_envd.agent.machine import long_builds
from ray_envd.agent.manager import Manager
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.sessions import Session
from ray_envd.agent.setup_log import SetupLogWriter
from ray_envd.agent.slots import Slots
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.gc import Limits
from ray_envd.cache.references import References
from ray_envd.cache.store import Store


class Core:
    """The parts. Make it inside the event loop that will run them.

    Attributes:
        budget: bytes of the store.
        workshop: where objects are made.
        references: who uses them.
        manager: what the faces ask.
        collector: what removes objects.
        integrity: what looks after their content.
        images: what looks after podman's.
        watch: what ends containers that nobody waits for.
        logs: the jobs' set-up logs.
        installers: what prepares the fields.
        foresight: what a new session will ask for.
    """

    def __init__(
        self, settings: Settings, store: Store, sessions: Callable[[], Mapping[str, Session]]
    ) -> None:
        """Nothing runs yet.

        Args:
            settings: the daemon's.
            store: open and recovered.
            sessions: those that are attached, by id; asked from when the parts run.
        """
        self.store = store
        self.metrics = Metrics()
        self.logs = SetupLogWriter()
        self.budget = _budget(settings)
        self.workshop = Workshop(store, self.budget, self.metrics, self._slots(settings))
        self.references = References.open(store.layout.sessions)
        self.watch = Watch(sessions)
        self._interpreters = Interpreters(lambda owner: store.user_dir(owner).interpreters)
        self._hosts = Hosts(str(settings.store))
        self._platforms = Platforms(self._hosts, self._interpreters)
        loop = asyncio.get_running_loop()
        self.images = Images(self.workshop, self._hosts, loop, max_age=settings.image_pull_policy)
        trees = Trees()
        self.foresight = Foresight(self.workshop)
        self.installers = Installers(partial(self._make_installers, settings, trees))
        preparation = Preparation(self.workshop, self.installers)
        self.manager = Manager(self.workshop, self.references, preparation, trees, self.logs, self.metrics)
        self.collector = Collector(self.workshop, self.references, _limits(settings))
        runs = self.manager.attempts.runs
        self.integrity = Integrity(self.workshop, self.references, lambda: len(runs) > 0)
        self._tell_each_other()

    def _slots(self, settings: Settings) -> Slots:
        slots = Slots(settings.build_parallelism, long_builds(settings.build_parallelism))
        self.metrics.waits.watch_slots(slots)
        return slots

    def _make_installers(self, settings: Settings, trees: Trees) -> Mapping[str, Installer]:
        from ray_envd.agent.installers.registry import registry  # noqa: PLC0415 - see Installers

        return registry(
            settings,
            self.store,
            trees,
            self._interpreters,
            self.images,
            self._platforms,
            self._hosts,
            self.watch.attend,
            self.foresight,
        )

    def _tell_each_other(self) -> None:
        """What a part cannot know of when it is made."""
        self.workshop.space.rooms = self.collector
        self.workshop.after_build = self._after_build
        self.manager.uses.on_release = self._on_release
        sealer = self.integrity.sealer
        sealer.after_seal = self.collector.poke
        sealer.images = self._platforms
        self._platforms.on_used = sealer.poke

    def _after_build(self) -> None:
        self.collector.poke()
        self.integrity.built()

    def _on_release(self) -> None:
        self.collector.poke()
        self.integrity.released()

    def close(self) -> None:
        """Closes what is on disk, when nothing runs any more; blocking."""
        self.logs.close()
        self.workshop.close()
        self.references.close()
        self.store.close()


def _budget(settings: Settings) -> Budget:
    return Budget(
        min(settings.budget_bytes, settings.disk_bytes - settings.min_free_bytes),
        lambda: shutil.disk_usage(settings.store).free,
        settings.min_free_bytes,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        high_bytes=settings.high_bytes,
        low_bytes=settings.low_bytes,
        kind_bytes=settings.kind_bytes,
        min_unused_seconds=settings.min_unused_age,
    )
