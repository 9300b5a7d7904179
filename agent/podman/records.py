"""What podman tells of images, and how it says no. Without podman-py, which takes long to import."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ApiError(Exception):
    """Podman has answered with a failure; its words."""


class MissingError(ApiError):
    """There is no such image."""


class ConflictError(ApiError):
    """It is in use."""


class UnreachableError(Exception):
    """Nobody answers at the socket, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one registry; never to be logged."""

    username: str
    password: str

    @property
    def header(self) -> str:
        """For ``X-Registry-Auth``."""
        said = json.dumps({"username": self.username, "password": self.password})
        return base64.urlsafe_b64encode(said.encode()).decode()

    def __repr__(self) -> str:
        return "Credentials(***)"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image in podman's storage.

    Attributes:
        chain: names the layer with all below it, as the OCI image specification defines ChainID: the storage
            has one folder for each, and only what is equal down to the ground is shared.
        bytes: unpacked.
    """

    chain: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """One image.

    Attributes:
        id: sha256 of its configuration, in hex.
        digest: ``sha256:…`` of its manifest; empty where it has none.
        names: references with tags.
        variables: the environment that it sets.
        size: bytes of all layers, unpacked.
        layers: the lowest first; one for all of them where podman does not tell the size of each.
    """

    id: str
    digest: str
    names: tuple[str, ...]
    variables: Mapping[str, str]
    size: int
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], sizes: Sequence[int]) -> "Inspected":
        """Reads what ``inspect`` says, and the sizes of ``history``, the newest step first."""
        digests = (attributes.get("RootFS") or {}).get("Layers") or ()
        told = [size for size in reversed(sizes) if size > 0]  # steps that change no file have none
        chains = chain_ids(digests)
        pairs = [str(text).partition("=") for text in (attributes.get("Config") or {}).get("Env") or ()]
        name, size = str(attributes["Id"]).removeprefix("sha256:"), int(attributes.get("Size") or 0)
        whole = (Layer(f"image:{name}", size),)
        return cls(
            id=name,
            digest=str(attributes.get("Digest") or ""),
            names=tuple(attributes.get("RepoTags") or ()),
            variables={name: value for name, _, value in pairs},
            size=size,
            layers=tuple(map(Layer, chains, told)) if len(told) == len(chains) else whole,
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the list of images.

    Attributes:
        id: as of :class:`Inspected`.
        names: every reference that it has, digests too.
    """

    id: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Listed":
        """Reads an element of the list."""
        names = attributes.get("Names") or attributes.get("RepoTags") or ()
        return cls(str(attributes["Id"]).removeprefix("sha256:"), tuple(map(str, names)))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pull.

    Attributes:
        layer: twelve digits of its digest; empty where the step is of the whole.
        status: podman's word for it.
        done: bytes of the layer that are here.
        total: its bytes; 0 where they are not known.
    """

    layer: str
    status: str
    done: int = 0
    total: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Step":
        """Reads a line of the stream."""
        detail = said.get("progressDetail") or {}
        return cls(
            str(said.get("id") or ""),
            str(said.get("status") or ""),
            int(detail.get("current") or 0),
            int(detail.get("total") or 0),
        )


def chain_ids(digests: Sequence[str]) -> list[str]:
    """The ChainID of each layer, by the digests of the unpacked layers, the lowest first."""
    chains: list[str] = []
    for digest in digests:
        if not chains:
            chains.append(digest)
        else:
            joined = hashlib.sha256(f"{chains[-1]} {digest}".encode()).hexdigest()
            chains.append(f"sha256:{joined}")
    return chains
