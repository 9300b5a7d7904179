"""What an installer is: one module per field of a runtime env, all of this form."""

from typing import Any, Protocol

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution


class Installer(Protocol):
    """Prepares one field.

    Installers of one runtime env run at the same time. They know nothing of each other: what one leaves
    for another stands in ``bench.environment`` (only the working dir's path, and only for those whose
    :meth:`needs_working_dir` says so).
    """

    field: str

    def needs_working_dir(self, value: Any, /) -> bool:
        """Whether preparing this value must wait until the working dir is there.

        Raises:
            EnvError: the value is not valid.
        """

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """Does what the field asks for, or finds it done.

        Everything obtained through the bench stays held until the request is over. Cancelling the task
        ends every process that it started.

        Raises:
            EnvError: with ``field`` set.
        """
