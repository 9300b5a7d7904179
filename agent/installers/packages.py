"""``pip`` and ``uv``: packages over the interpreter that runs Ray."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Command, Contribution
from ray_envd.agent.environments import Environments
from ray_envd.agent.foresight import Foresight
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
        foresight: Foresight,
    ) -> None:
        self.field = field
        self._parse, self._environments, self._layers = parse, environments, layers
        self._foresight = foresight

    def needs_working_dir(self, value: Any) -> bool:
        """Whether a requirements file of the working dir is named."""
        return needs_working_dir(self._parse(value))

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The worker runs in the session's layer, as if activated (stock sources ``bin/activate``)."""
        spec = self._parse(value)
        environment = await self._environments.obtain(spec, bench)
        layer, facts = await self._layers.over(environment, bench, self.field)
        if not (environment.interpreter.image or needs_working_dir(spec)):
            self._foresight.used(bench.session, spec, partial(self._lay_out, spec))
        return Contribution(
            path=facts.path,
            variables=facts.variables,
            command=Command((facts.py_executable,)),
            objects=(environment.entry.key,),
            trees=(str(layer),),
            built=environment.is_new,
        )

    async def _lay_out(self, spec: PackagesSpec, bench: Bench) -> None:
        """The layer of another session, if the environment is there."""
        environment = await self._environments.at_hand(spec, bench)
        if environment is not None:
            await self._layers.over(environment, bench, self.field)
