"""Holding an env for a command that takes this process's place.

``ray-envd run`` *becomes* the command: same process id, so signals, exit code, terminal and job control
are the command's own and nothing has to be passed through. Somebody else must keep the stream to the
daemon open meanwhile: a process that is forked before (and away: it is nobody's child and in no terminal),
prepares the env, tells its steps over a pipe, and ends when the command has ended.
"""

import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from ray_envd.agent.cli import failures
from ray_envd.agent.cli.common import CliError, Exit
from ray_envd.agent.cli.events import event_dict
from ray_envd.agent.client import Client, Context, Created
from ray_envd.agent.client import Event as ClientEvent
from ray_envd.agent.progress import Event

#: Makes the events; called in the holder, where the connection is to live.
Source = Callable[[Client], Iterator[ClientEvent]]


def start_holder(socket: str, source: Source) -> int:
    """Forks the holder, which holds until this process ends; returns the end of a pipe with its words.

    Call it while this process has one thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    self_fd = os.pidfd_open(os.getpid())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _fork_away(self_fd, writer, socket, source)
    os.close(writer)
    os.close(self_fd)
    os.waitpid(child, 0)
    return reader


def received(pipe: int) -> Iterator[Event | Context]:
    """The steps that the holder tells, then the context.

    Raises:
        CliError: the env could not be prepared.
    """
    with open(pipe) as lines:
        for line in lines:
            message = json.loads(line)
            yield _received(message)
            if message["event"] == "context":
                return
    raise CliError("the process that holds the env ended early", code="internal")


def _received(message: Mapping[str, Any]) -> Event | Context:
    if message["event"] == "error":
        raise CliError(
            message["message"], message["remedy"], code=message["code"], exit_code=Exit(message["exit"])
        )
    if message["event"] == "context":
        return Context.parse(message["context"])
    return Event(message["field"], message["phase"], message["detail"], message["done"], message["total"])


# in the holder


def _fork_away(command: int, writer: int, socket: str, source: Source) -> NoReturn:
    """Leaves the command's session, and its children: a shell must not find one that it did not start."""
    try:
        os.setsid()
        if os.fork() == 0:
            # Nobody who reads the command's output to its end may have to wait for us.
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            os.chdir("/")
            _hold(command, writer, socket, source)
    finally:
        os._exit(0)


def _hold(command: int, writer: int, socket: str, source: Source) -> None:
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()
    pipe = os.fdopen(writer, "w")

    def send(message: Mapping[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    try:
        with Client(socket) as client:
            for event in source(client):
                if isinstance(event, Created):
                    send({"event": "context", "context": event.context.serialized})
                else:
                    send(event_dict(event))
    except Exception as error:  # noqa: BLE001 - the other process turns it into an exit code
        failure = failures.of(error)
        send({"event": "error", "exit": int(failure.exit), **failure.as_dict()})


def _end_with(command: int) -> None:
    """Ends this process, and with it the stream, once the command has ended."""
    select.select([command], [], [])
    os._exit(0)
