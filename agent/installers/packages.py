"""``pip`` and ``uv``: packages over the interpreter that runs Ray."""

from collections.abc import Callable
from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Command, Contribution
from ray_envd.agent.environments import Environments
from ray_envd.agent.layers import Layers
from ray_envd.agent.python.spec import PackagesSpec, needs_working_dir


class PackagesInstaller:
    """One of the two fields; they differ in how they are parsed, and share what they lead to."""

    def __init__(
        self,
        field: str,
        parse: Callable[[Any], PackagesSpec],
        environments: Environments,
        layers: Layers,
    ) -> None:
        self.field = field
        self._parse, self._environments, self._layers = parse, environments, layers

    def needs_working_dir(self, value: Any) -> bool:
        """Whether a requirements file of the working dir is named."""
        return needs_working_dir(self._parse(value))

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The worker runs in the session's layer, as if activated (stock sources ``bin/activate``)."""
        environment = await self._environments.obtain(self._parse(value), bench)
        layer, facts = await self._layers.over(environment, bench, self.field)
        return Contribution(
            path=facts.path,
            variables=facts.variables,
            command=Command((facts.py_executable,)),
            objects=(environment.entry.key,),
            trees=(str(layer),),
            built=environment.is_new,
        )
