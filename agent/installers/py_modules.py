"""``py_modules``: packages that workers can import, from folders, archives and wheels."""

import asyncio
from pathlib import Path
from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.environments import Environments
from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.fetch import local_directory
from ray_envd.agent.files import require_directory
from ray_envd.agent.packages import Packages, archive_path
from ray_envd.agent.python.spec import PackagesSpec
from ray_envd.agent.unpacking import Unpacker


class PyModulesInstaller:
    """Each entry is prepared by itself, all at once; PYTHONPATH keeps their order.

    An archive is unpacked per session, as the working dir is. A wheel is installed into an environment of the
    store, with what it needs and the interpreter lacks, and its site-packages join PYTHONPATH.
    """

    field = "py_modules"

    def __init__(self, packages: Packages, unpacker: Unpacker, environments: Environments) -> None:
        self._packages, self._unpacker, self._environments = packages, unpacker, environments

    def needs_working_dir(self, _value: Any) -> bool:
        """Never: entries are URIs."""
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The folders of all entries, in their order."""
        if not isinstance(value, list) or not all(isinstance(uri, str) for uri in value):
            raise InvalidSpecError(
                "it must be a list of URIs",
                field=self.field,
                remedy="give folders or wheels to ray.init, which uploads them, or URIs",
            )
        # A group, not gather(): when one fails the others must have ended before the bench is closed.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._entry(uri, bench)) for uri in value]
        parts = [task.result() for task in tasks]
        return Contribution(
            python_path=tuple(path for part in parts for path in part.python_path),
            objects=tuple(key for part in parts for key in part.objects),
            trees=tuple(tree for part in parts for tree in part.trees),
            built=any(part.built for part in parts),
        )

    async def _entry(self, uri: str, bench: Bench) -> Contribution:
        local = local_directory(uri, self.field)
        if local is not None:
            await bench.thread(require_directory, local, uri, self.field, bench.session.owner)
            return Contribution(python_path=(str(local),))
        async with self._unpacker.coming(uri, bench, self.field) as coming:
            entry, fetched = await self._packages.archive(uri, bench, self.field, coming.heard)
            if archive_path(entry).suffix == ".whl":
                return await self._wheel(archive_path(entry), bench, fetched=fetched)
            path = await self._unpacker.tree(uri, entry, coming, bench, self.field)
        return Contribution(python_path=(str(path),), objects=(entry.key,), trees=(str(path),), built=fetched)

    async def _wheel(self, wheel: Path, bench: Bench, *, fetched: bool) -> Contribution:
        """Stock runs ``pip install WHEEL --target``; this is the same without what is already there."""
        spec = PackagesSpec("pip", (str(wheel),))
        environment = await self._environments.obtain(spec, bench, field=self.field)
        return Contribution(
            python_path=(str(environment.entry.details["site_packages"]),),
            objects=(environment.entry.key,),
            built=fetched or environment.is_new,
        )
