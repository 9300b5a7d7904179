"""The registry of installers: which field is prepared by what.

The order is the order in which stock applies its plug-ins, and so decides who wins where two set the same.
"""

from ray_envd.agent.containers.images import Images
from ray_envd.agent.containers.platform import Platforms
from ray_envd.agent.containers.start import Starts
from ray_envd.agent.environments import Environments
from ray_envd.agent.installers.image import ImageInstaller
from ray_envd.agent.installers.packages import PackagesInstaller
from ray_envd.agent.installers.protocol import Installer
from ray_envd.agent.installers.py_executable import PyExecutableInstaller
from ray_envd.agent.installers.py_modules import PyModulesInstaller
from ray_envd.agent.installers.working_dir import WorkingDirInstaller
from ray_envd.agent.layers import Layers
from ray_envd.agent.packages import Packages
from ray_envd.agent.python.spec import parse_pip, parse_uv
from ray_envd.agent.unpacking import Unpacker


def registry(
    packages: Packages,
    unpacker: Unpacker,
    environments: Environments,
    layers: Layers,
    images: Images,
    platforms: Platforms,
    starts: Starts,
) -> dict[str, Installer]:
    """Every installer by its field."""
    installers: list[Installer] = [
        ImageInstaller(images, platforms, starts),
        WorkingDirInstaller(packages, unpacker),
        PackagesInstaller("uv", parse_uv, environments, layers),
        PackagesInstaller("pip", parse_pip, environments, layers),
        PyModulesInstaller(packages, unpacker, environments),
        PyExecutableInstaller(),
    ]
    return {installer.field: installer for installer in installers}
