"""Podman's API, as far as we need it: one connection's worth, blocking, by podman-py.

The API is that of ``podman system service``: https://docs.podman.io/en/latest/_static/api.html. podman-py is
imported with this module, which takes a good part of a second: import it in a thread and where it is needed.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
from podman.api.client import APIClient, APIResponse
from podman.api.uds import UDSConnection, UDSConnectionPool
from podman.domain.containers_manager import ContainersManager
from podman.domain.images_manager import ImagesManager
from podman.domain.system import SystemManager
from podman.errors import APIError

from ray_envd.agent.podman.records import (
    ApiError,
    ConflictError,
    Credentials,
    Inspected,
    Listed,
    MissingError,
    Step,
    UnreachableError,
)

#: Seconds for an answer that podman has in its own storage. A lock there may be held by a pull for a while.
_ANSWER = 60.0


_KINDS: dict[int, type[ApiError]] = {HTTPStatus.NOT_FOUND: MissingError, HTTPStatus.CONFLICT: ConflictError}


class Client:
    """One user of the API. Use from one thread; :meth:`abort` from any."""

    def __init__(self, path: Path) -> None:
        """``path`` is the service's socket."""
        self._api = APIClient(base_url=f"unix://{path}")
        self._images = ImagesManager(client=self._api)
        self._lock = threading.Lock()  # guards the two that follow
        self._sockets: list[socket.socket] = []
        self._aborted = False
        self._watch_sockets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()

    def _watch_sockets(self) -> None:
        """Keeps hold of each socket: requests says nothing of one on whose answer it waits."""
        client = self

        class Connection(UDSConnection):
            def connect(self) -> None:
                super().connect()
                if self.sock is not None:
                    client._opened(self.sock)

        class Pool(UDSConnectionPool):
            ConnectionCls = Connection

        adapter: Any = self._api.get_adapter("http://")
        manager = adapter.poolmanager
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "http": Pool}

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.append(opened)
            if self._aborted:
                _shut(opened)

    def abort(self) -> None:
        """Ends the call that is under way, and with it what podman does for it."""
        with self._lock:
            self._aborted = True
            for each in self._sockets:
                _shut(each)

    # looking

    def info(self) -> dict[str, Any]:
        """What podman says of itself."""
        told: dict[str, Any] = _answered(SystemManager(self._api).info)
        return told

    def inspect(self, name: str) -> Inspected:
        """An image by id or reference.

        Raises:
            MissingError: it is not here.
        """
        image = _answered(lambda: self._images.get(name))
        try:
            history = _answered(image.history)
        except ApiError:
            history = []  # podman falls over steps without a time
        return Inspected.of(image.attrs, [int(step.get("Size") or 0) for step in history])

    def images(self) -> list[Listed]:
        """Every image, those without a name as well."""
        return [Listed.of(image.attrs) for image in _answered(self._images.list)]

    def layers(self, name: str) -> tuple[str, ...]:
        """The digests of an image's layers, the lowest first."""
        attributes = _answered(lambda: self._images.get(name)).attrs
        return tuple((attributes.get("RootFS") or {}).get("Layers") or ())

    def containers_of(self, image: str) -> list[str]:
        """The ids of containers that are made of an image, running or not."""
        manager = ContainersManager(client=self._api)
        found = _answered(
            lambda: manager.list(all=True, sparse=True, ignore_removed=True, filters={"ancestor": image})
        )
        return [str(each.id) for each in found]

    # changing

    def remove(self, name: str) -> None:
        """Removes an image, or one of its names if it has others; never one that is in use.

        Raises:
            MissingError: it is not here.
            ConflictError: a container uses it, or it has other names.
        """
        _answered(lambda: self._images.remove(name, force=False))

    def pull(self, reference: str, credentials: Credentials | None, on_step: Callable[[Step], None]) -> None:
        """Pulls an image, whatever is here already; layers that are here are not fetched again.

        By the endpoint that is compatible with Docker's: it is the one that tells bytes, and that heeds what
        registries.conf says of a registry's TLS.

        Args:
            reference: with registry, and tag or digest.
            credentials: None: podman finds them itself.
            on_step: hears each step, in this thread.

        Raises:
            ApiError: podman's words.
            UnreachableError: the service has gone, or :meth:`abort` was called.
        """
        headers = {} if credentials is None else {"X-Registry-Auth": credentials.header}

        def ask() -> APIResponse:
            return self._api.post(
                "/images/create",
                params={"fromImage": reference},
                headers=headers,
                stream=True,
                compatible=True,
                timeout=(_ANSWER, None),
            )

        response = _answered(ask)
        try:
            _answered(lambda: _follow(response, on_step))
        except MissingError as error:  # in the registry: to callers it means podman's own storage
            raise ApiError(str(error)) from error


def _follow(response: APIResponse, on_step: Callable[[Step], None]) -> None:
    response.raise_for_status()
    finished = False
    for line in response.iter_lines():
        said = json.loads(line) if line else {}
        if error := said.get("error"):
            raise ApiError(str(error))
        if said:
            finished = True
            on_step(Step.of(said))
    if not finished:
        raise UnreachableError("the connection ended before podman said anything")


def _answered(call: Callable[[], Any]) -> Any:
    """Calls podman-py, whose errors become ours."""
    try:
        return call()
    except APIError as error:
        if error.response is None:
            raise UnreachableError(str(error)) from error
        kind = _KINDS.get(error.response.status_code, ApiError)
        raise kind(str(error.explanation or error)) from error
    except (requests.RequestException, OSError, AttributeError) as error:
        # AttributeError: urllib3 reads from a connection that abort() has shut.
        raise UnreachableError(str(error)) from error


def _shut(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        opened.shutdown(socket.SHUT_RDWR)
