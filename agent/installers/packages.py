"""``pip`` and ``uv``: packages over the interpreter that runs Ray."""

import shlex
from collections.abc import Callable
from typing import Any

from ray_envd.agent.context import Contribution
from ray_envd.agent.environments import Environments
from ray_envd.agent.python.spec import PackagesSpec, needs_working_dir
from ray_envd.agent.workshop import Bench


class PackagesInstaller:
    """One of the two fields; they differ in how they are parsed, and share what they lead to."""

    def __init__(self, field: str, parse: Callable[[Any], PackagesSpec], environments: Environments) -> None:
        self.field = field
        self._parse, self._environments = parse, environments

    def needs_working_dir(self, value: Any) -> bool:
        """Whether a requirements file of the working dir is named."""
        return needs_working_dir(self._parse(value))

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The worker runs in the environment, as if it were activated (stock sources ``bin/activate``)."""
        entry, built = await self._environments.obtain(self._parse(value), bench)
        facts = entry.details
        return Contribution(
            path=tuple(map(str, facts["path"])),
            variables={name: str(value) for name, value in facts["variables"].items()},
            py_executable=shlex.quote(str(facts["python"])),
            objects=(entry.key,),
            built=built,
        )
