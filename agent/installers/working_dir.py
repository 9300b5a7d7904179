"""``working_dir``: the folder in which a worker starts."""

from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.fetch import local_directory
from ray_envd.agent.files import require_directory
from ray_envd.agent.packages import Packages
from ray_envd.agent.unpacking import Unpacker


class WorkingDirInstaller:
    """Unpacks the package once per session; ``local://`` folders are used in place."""

    field = "working_dir"

    def __init__(self, packages: Packages, unpacker: Unpacker) -> None:
        self._packages, self._unpacker = packages, unpacker

    def needs_working_dir(self, _value: Any) -> bool:
        """It is the one the others wait for."""
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The worker starts in the folder and imports from it."""
        if not isinstance(value, str):
            raise InvalidSpecError(
                f"it must be a URI, not {type(value).__name__}",
                field=self.field,
                remedy="give a folder to ray.init, which uploads it, or a URI such as s3://bucket/code.zip",
            )
        local = local_directory(value, self.field)
        if local is not None:
            await bench.thread(require_directory, local, value, self.field, bench.session.owner)
            return Contribution(python_path=(str(local),), working_dir=str(local))
        async with self._unpacker.coming(value, bench, self.field) as coming:
            entry, fetched = await self._packages.archive(value, bench, self.field, coming.heard)
            path = await self._unpacker.tree(value, entry, coming, bench, self.field)
        return Contribution(
            python_path=(str(path),),
            working_dir=str(path),
            objects=(entry.key,),
            trees=(str(path),),
            built=fetched,
        )
