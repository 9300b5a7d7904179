"""One preparation: the installers of a runtime env side by side, and what they add made into a context."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.plan import remove_plan, write_plan
from ray_envd.agent.context import Contribution, WorkerContext, environment_script, merge, split_names
from ray_envd.agent.errors import EnvError, Retry
from ray_envd.agent.files import remove_private, write_private
from ray_envd.agent.installers import Installers
from ray_envd.agent.installers.protocol import Installer
from ray_envd.agent.progress import Progress
from ray_envd.agent.sessions import Session
from ray_envd.agent.spec import RuntimeEnvSpec
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.keys import ObjectKey

#: Set for installers, as in stock, so that a requirements file of the working dir can be named.
WORKING_DIR_VARIABLE = "RAY_RUNTIME_ENV_CREATE_WORKING_DIR"


@dataclass(frozen=True)
class Prepared:
    """A finished preparation; what it obtained stays held until :meth:`close`."""

    context: str
    objects: tuple[ObjectKey, ...]
    fields: tuple[str, ...]
    trees: tuple[str, ...]
    built: bool
    bench: Bench

    def close(self) -> None:
        """Gives the holds back: references protect the objects from here on."""
        self.bench.close()


class Preparation:
    """Runs the installers of a runtime env's fields."""

    def __init__(self, workshop: Workshop, installers: Installers) -> None:
        self._workshop, self._installers = workshop, installers

    async def run(self, session: Session, spec: RuntimeEnvSpec, progress: Progress) -> Prepared:
        """Prepares every field.

        Raises:
            EnvError: the first field's failure, a lasting one before one that may pass.
        """
        bench = Bench(self._workshop, session, spec, progress)
        try:
            installers = await self._installers.all() if spec.fields else {}
            names = [name for name in installers if name in spec.fields]
            parts = await self._all_fields(names, installers, spec, bench)
            context = merge(
                parts,
                python=session.python,
                env_vars=spec.env_vars,
                raylet_environment=session.environment,
            )
            text = await self._serialize(context, session, spec, bench)
        except BaseException:
            bench.close()
            raise
        return Prepared(
            context=text,
            objects=tuple(key for part in parts for key in part.objects),
            fields=tuple(name for name, part in zip(names, parts, strict=True) for _ in part.objects),
            trees=tuple(tree for part in parts for tree in part.trees),
            built=any(part.built for part in parts),
            bench=bench,
        )

    async def forget(self, session: Session, env_digest: str) -> None:
        """Removes what a preparation left for its workers alone."""
        await self._workshop.thread(remove_private, _script(session, env_digest), session.owner)
        await self._workshop.thread(remove_plan, session, env_digest)

    async def _all_fields(
        self, fields: list[str], installers: Mapping[str, Installer], spec: RuntimeEnvSpec, bench: Bench
    ) -> list[Contribution]:
        """Independent fields in parallel; a field that names the working dir waits for it."""
        tasks: dict[str, asyncio.Task[Contribution]] = {}

        async def prepare(name: str) -> Contribution:
            installer, value = installers[name], spec.fields[name]
            needs_working_dir = installer.needs_working_dir(value)
            working_dir = tasks.get("working_dir")
            if needs_working_dir and working_dir is not None and name != "working_dir":
                found = await asyncio.shield(working_dir)
                if found.working_dir is not None:
                    bench.environment[WORKING_DIR_VARIABLE] = found.working_dir
            return await installer.prepare(value, bench)

        try:
            async with asyncio.TaskGroup() as group:
                for name in fields:
                    tasks[name] = group.create_task(prepare(name), name=f"prepare {name}")
        except BaseExceptionGroup as failures:
            raise _worst(failures) from None
        return [tasks[name].result() for name in fields]

    async def _serialize(
        self, context: WorkerContext, session: Session, spec: RuntimeEnvSpec, bench: Bench
    ) -> str:
        if context.container is not None:
            return await bench.thread(write_plan, context, session, spec.digest)
        shell, inline = split_names(context.variables)
        if not shell:
            return context.serialize(None, inline)
        path = _script(session, spec.digest)
        await bench.thread(write_private, path, environment_script(shell), session.owner)
        return context.serialize(str(path), inline)


def _script(session: Session, env_digest: str) -> Path:
    return session.runtime_env_dir / "ray-envd" / f"{env_digest}.sh"


def _worst(failures: BaseExceptionGroup[Any]) -> BaseException:
    """The one to tell: a lasting failure first; anything unexpected before all."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [failures]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    unexpected = [e for e in flat if not isinstance(e, EnvError)]
    lasting = [e for e in flat if isinstance(e, EnvError) and e.retry is Retry.PERMANENT]
    return (unexpected or lasting or flat)[0]
