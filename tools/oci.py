"""Container images without a container tool: written as OCI layouts, derived, and pushed to a registry.

What tests need of images is small (a layer more, another version of a package, a variable), and a build with
podman costs seconds and a working OCI runtime. Formats: https://github.com/opencontainers/image-spec (layout,
manifest, config) and https://github.com/opencontainers/distribution-spec (push). What is made from the same
files has the same digest, whenever and wherever.
"""

import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_NAME = "org.opencontainers.image.ref.name"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CREATED = "2026-01-01T00:00:00Z"  # podman 4.3 falls over a history without times
_EPOCH = 1_767_225_600  # the time of every file: digests must not know when something was made
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A compressed layer: ``diff_id`` is the digest of the tar, ``digest`` that of the file at ``path``."""

    path: Path
    digest: str
    diff_id: str
    size: int


@dataclass(frozen=True)
class OciImage:
    """An image whose layers are files of this machine.

    Attributes:
        layers: the lowest first.
        variables: its environment.
        command: what runs if nothing else is said.
    """

    layers: tuple[Layer, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("/bin/bash",)

    @property
    def config(self) -> bytes:
        """Its configuration; podman's id is the sha256 of it."""
        return _json(
            {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": {
                    "Env": [f"{name}={value}" for name, value in self.variables.items()],
                    "Cmd": self.command,
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in self.layers]},
                "history": [{"created": _CREATED, "created_by": "tools/oci.py"} for _ in self.layers],
            }
        )

    @property
    def id(self) -> str:
        """What podman calls it: hexadecimal, without ``sha256:``."""
        return hashlib.sha256(self.config).hexdigest()

    @property
    def manifest(self) -> bytes:
        """What a registry knows it by."""
        layers = [{"mediaType": _LAYER, "digest": each.digest, "size": each.size} for each in self.layers]
        config = {"mediaType": _CONFIG, "digest": _digest(self.config), "size": len(self.config)}
        return _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})

    @property
    def digest(self) -> str:
        """``sha256:…`` of the manifest."""
        return _digest(self.manifest)

    def derive(
        self, folder: Path, files: Mapping[str, bytes], variables: Mapping[str, str] | None = None
    ) -> "OciImage":
        """This image with one more layer of files (absolute paths), which is written into the folder."""
        layer = write_layer(folder, lambda tar: _add_files(tar, files))
        return replace(self, layers=(*self.layers, layer), variables={**self.variables, **(variables or {})})


def write_layer(folder: Path, fill: Callable[[tarfile.TarFile], None], level: int = 1) -> Layer:
    """Writes a layer's blob into a folder; its name is its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / f"layer-{os.getpid()}"
    with unnamed.open("wb") as file:
        outer = _Hashing(file)
        with gzip.GzipFile("", "wb", level, outer, mtime=0) as packed:  # type: ignore[arg-type]  # it only writes
            inner = _Hashing(packed)
            with tarfile.open(mode="w|", fileobj=inner, format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:
                fill(tar)
    path = folder / outer.digest.removeprefix("sha256:")
    unnamed.rename(path)
    return Layer(path, outer.digest, inner.digest, outer.size)


def add_path(tar: tarfile.TarFile, source: Path, name: str) -> None:
    """Adds one file, folder or link, as root's and of no time."""
    about = tar.gettarinfo(source, name)
    if about.islnk():  # the stage's files are linked with those that they come from
        about.type, about.linkname, about.size = tarfile.REGTYPE, "", source.lstat().st_size
    about.uid = about.gid = 0
    about.uname = about.gname = ""
    about.mtime = _EPOCH
    if about.isreg():
        with source.open("rb") as content:
            tar.addfile(about, content)
    else:
        tar.addfile(about)


def add_tree(tar: tarfile.TarFile, top: Path, prefixes: Iterable[str]) -> None:
    """Adds what stands below ``top`` under these relative paths, in an order that does not change."""
    for prefix in sorted(prefixes):
        add_path(tar, top / prefix, prefix)
        if (top / prefix).is_symlink():
            continue
        for path in sorted((top / prefix).rglob("*")):
            add_path(tar, path, str(path.relative_to(top)))


def _add_files(tar: tarfile.TarFile, files: Mapping[str, bytes]) -> None:
    for path, content in sorted(files.items()):
        about = tarfile.TarInfo(path.lstrip("/"))
        about.mode, about.mtime, about.size = (
            0o755 if content.startswith(b"#!") else 0o644,
            _EPOCH,
            len(content),
        )
        tar.addfile(about, io.BytesIO(content))


def write_layout(image: OciImage, folder: Path, name: str) -> None:
    """Completes a folder whose ``blobs/sha256`` holds the layers to a layout of this one image.

    ``podman pull oci:FOLDER`` reads it.
    """
    blobs = folder / "blobs" / "sha256"
    for blob in (image.config, image.manifest):
        (blobs / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
    entry = {
        "mediaType": MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {_NAME: name},
    }
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))


def read_layout(folder: Path) -> OciImage:
    """The image of a layout that ``write_layout`` wrote."""
    blobs = folder / "blobs" / "sha256"

    def blob(of: Mapping[str, Any]) -> Path:
        return blobs / str(of["digest"]).removeprefix("sha256:")

    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry).read_bytes())
    config = json.loads(blob(manifest["config"]).read_bytes())
    layers = tuple(
        Layer(blob(each), each["digest"], diff_id, each["size"])
        for each, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
    )
    variables = dict(each.split("=", 1) for each in config["config"]["Env"])
    return OciImage(layers, variables, tuple(config["config"]["Cmd"]))


class PushError(Exception):
    """A registry did not take an image."""


def push(
    image: OciImage, address: str, repository: str, tag: str, authorization: str = "", mount: str = ""
) -> str:
    """Pushes to a registry that speaks plain HTTP; returns ``address/repository:tag``.

    Args:
        image: what is pushed; blobs that the repository has already are not sent.
        address: ``host:port``.
        repository: its path there.
        tag: the name that the image gets, and loses wherever it stood before.
        authorization: the header's value, such as ``Basic …``.
        mount: a repository of the same registry that has some of the layers.

    Raises:
        PushError: the registry refused, with its words.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    remote = _Remote(
        connection, f"/v2/{repository}", {"Authorization": authorization} if authorization else {}
    )
    try:
        for layer in image.layers:
            if not remote.has(layer.digest, mount):
                with layer.path.open("rb") as content:
                    remote.upload(layer.digest, content, layer.size)
        remote.upload(_digest(image.config), io.BytesIO(image.config), len(image.config))
        remote.ask(
            "PUT", f"{remote.base}/manifests/{tag}", (201,), image.manifest, {"Content-Type": MANIFEST}
        )
    finally:
        connection.close()
    return f"{address}/{repository}:{tag}"


@dataclass(frozen=True)
class _Remote:
    """One repository, over one connection."""

    connection: http.client.HTTPConnection
    base: str
    headers: Mapping[str, str]

    def ask(
        self,
        method: str,
        path: str,
        right: tuple[int, ...],
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """One request, its answer read to the end."""
        self.connection.request(method, path, body, {**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status not in right:
            raise PushError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return answer

    def has(self, digest: str, mount: str) -> bool:
        """Whether the repository has a blob, or now has it from another one."""
        if self.ask("HEAD", f"{self.base}/blobs/{digest}", (200, 404)).status == http.client.OK:
            return True
        if not mount:
            return False
        path = f"{self.base}/blobs/uploads/?mount={digest}&from={mount}"
        return self.ask("POST", path, (201, 202)).status == http.client.CREATED

    def upload(self, digest: str, content: IO[bytes], size: int) -> None:
        """Sends one blob."""
        begun = self.ask("POST", f"{self.base}/blobs/uploads/", (202,))
        location = str(begun.getheader("Location"))
        path = location[location.index("/v2/") :]
        path += f"{'&' if '?' in path else '?'}digest={digest}"
        self.ask("PUT", path, (201,), content, {"Content-Length": str(size)})


class _Hashing:
    """Passes on what is written and knows its digest and size."""

    def __init__(self, under: IO[bytes]) -> None:
        self._under, self._hash, self.size = under, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._under.write(data)

    def flush(self) -> None:
        self._under.flush()

    @property
    def digest(self) -> str:
        """``sha256:…`` of all so far."""
        return f"sha256:{self._hash.hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
