"""Which field is prepared by what, and what the installers are made of."""

from collections.abc import Awaitable, Callable

from ray_envd.agent.config import Settings
from ray_envd.agent.containers.images import Images
from ray_envd.agent.containers.platform import Platforms
from ray_envd.agent.containers.policy import Policy
from ray_envd.agent.containers.start import Starts
from ray_envd.agent.environments import Environments
from ray_envd.agent.foresight import Foresight
from ray_envd.agent.installers.image import ImageInstaller
from ray_envd.agent.installers.packages import PackagesInstaller
from ray_envd.agent.installers.protocol import Installer
from ray_envd.agent.installers.py_executable import PyExecutableInstaller
from ray_envd.agent.installers.py_modules import PyModulesInstaller
from ray_envd.agent.installers.working_dir import WorkingDirInstaller
from ray_envd.agent.layers import Layers
from ray_envd.agent.packages import Packages
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.python.spec import parse_pip, parse_uv
from ray_envd.agent.sessions import Session
from ray_envd.agent.trees import Trees
from ray_envd.agent.unpacking import Unpacker
from ray_envd.cache.archive import ArchiveLimits
from ray_envd.cache.store import Store


def registry(
    settings: Settings,
    store: Store,
    trees: Trees,
    interpreters: Interpreters,
    images: Images,
    platforms: Platforms,
    hosts: Hosts,
    attend: Callable[[Session], Awaitable[None]],
    foresight: Foresight,
) -> dict[str, Installer]:
    """Every installer by its field, in the order in which stock applies its plug-ins.

    The order decides who wins where two set the same. ``attend`` is awaited with each session that will have
    containers.
    """
    ttl = settings.resolution_ttl
    limits = ArchiveLimits(total_bytes=settings.archive_max_bytes, ratio=int(settings.archive_max_ratio))
    packages = Packages(resolution_ttl=ttl, max_bytes=settings.archive_max_bytes)
    unpacker = Unpacker(trees, limits)
    environments = Environments(store, interpreters, resolution_ttl=ttl)
    layers = Layers(trees)
    installers: list[Installer] = [
        ImageInstaller(images, platforms, Starts(hosts, _policy(settings), attend)),
        WorkingDirInstaller(packages, unpacker),
        PackagesInstaller("uv", parse_uv, environments, layers, foresight),
        PackagesInstaller("pip", parse_pip, environments, layers, foresight),
        PyModulesInstaller(packages, unpacker, environments),
        PyExecutableInstaller(),
    ]
    return {installer.field: installer for installer in installers}


def _policy(settings: Settings) -> Policy:
    return Policy(
        options=settings.container_options,
        mounts=settings.container_mounts,
        memory=settings.container_memory,
        cpus=settings.container_cpus,
    )
