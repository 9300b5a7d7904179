"""``py_executable``: the command that runs the worker instead of Ray's interpreter."""

from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Command, Contribution
from ray_envd.agent.errors import InvalidSpecError


class PyExecutableInstaller:
    """Takes a command with arguments, as stock does, and keeps it one command."""

    field = "py_executable"

    def needs_working_dir(self, _value: Any) -> bool:
        """Never: a relative command is looked up when the worker starts, in its working dir."""
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The command, word by word."""
        if not isinstance(value, str) or not value.strip():
            raise InvalidSpecError(
                f"it must be a command, not {type(value).__name__}",
                field=self.field,
                remedy='write a string such as "/opt/python/bin/python -X dev"',
            )
        try:
            command = Command.of(value)
        except ValueError as error:
            raise InvalidSpecError(
                f"its quotes do not balance ({error})", field=self.field, remedy="quote it as for a shell"
            ) from error
        bench.reporter(self.field)("runs the worker with", value)
        return Contribution(command=command)
