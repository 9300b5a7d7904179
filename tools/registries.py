"""A real registry (Debian's docker-registry) as a process on loopback, for tests and benchmarks."""

import base64
import contextlib
import http.client
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from oci import OciImage, push
from processes import NodeError, free_ports, wait_until

#: The one user of registries with a password.
USER, PASSWORD = "somebody", "open sesame"
#: The password by bcrypt, the only form that the registry takes, at the least cost.
_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"
_CONFIG = """\
version: 0.1
log: {{level: info, formatter: json}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http:
  addr: {address}
{more}
"""
_AUTH = "auth:\n  htpasswd: {{realm: tests, path: {folder}/htpasswd}}"
_TLS = "  tls: {{certificate: {0}, key: {1}}}"


@dataclass
class Registry:
    """A registry that keeps everything in a folder, on one port for all of its starts.

    Attributes:
        folder: its own.
        password: whether it wants ``USER`` and ``PASSWORD``.
        certificate: PEM files of a certificate and its key; None: plain HTTP.
    """

    folder: Path
    password: bool = False
    certificate: tuple[Path, Path] | None = None
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None
    _homes: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What stands before the first slash of its images' names."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """One JSON object a line, requests among them."""
        return self.folder / "registry.log"

    def start(self, deadline: float = 20.0) -> "Registry":
        """Starts it, again with all that it had, and returns when it answers.

        Raises:
            NodeError: it is not installed, or did not come up.
        """
        program = shutil.which("docker-registry")
        if program is None:
            raise NodeError("docker-registry is not installed; `make debian` does it")
        config = self._configure()
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                [program, "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(lambda: process.poll() is not None or self._answers(), deadline, "a registry")
        if process.poll() is not None:
            raise NodeError(f"the registry ended\n{self.log.read_text()[-2000:]}")
        return self

    def _configure(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        more = [_TLS.format(*self.certificate)] if self.certificate else []
        more += [_AUTH.format(folder=self.folder)] if self.password else []
        (self.folder / "htpasswd").write_text(_HTPASSWD)
        config = self.folder / "config.yml"
        config.write_text(_CONFIG.format(folder=self.folder, address=self.address, more="\n".join(more)))
        return config

    def _answers(self) -> bool:
        connect = http.client.HTTPSConnection if self.certificate else http.client.HTTPConnection
        connection = connect(self.address, timeout=2)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/v2/")
                return connection.getresponse().status in {200, 401}
            except OSError as error:
                # The certificate need not be one that this process trusts: it was presented.
                return "CERTIFICATE_VERIFY_FAILED" in str(error)

    def stop(self) -> None:
        """Ends it; what it has stays."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait()

    def push(self, image: OciImage, repository: str, tag: str = "latest") -> str:
        """Puts an image there (plain HTTP only), each layer once; returns its name."""
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        mount = self._homes.setdefault(image.layers[0].digest, repository)
        return push(
            image,
            self.address,
            repository,
            tag,
            authorization=f"Basic {token}" if self.password else "",
            mount="" if mount == repository else mount,
        )
