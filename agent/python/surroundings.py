"""What of the host a tool reads beside the interpreter and the store, to do elsewhere what it does here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python import local_index, pip_config, uv_options
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.requirements import local_path

#: Where distributions keep the certificates that everybody trusts, and uv and OpenSSL look for them.
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
#: Variables that name a file or folder which a tool reads.
_NAMING = (
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NETRC",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SSL_CLIENT_CERT",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Paths on the host; whether they are there is not said.

    Attributes:
        read: what tools look into.
        write: folders that are installed: builds write beside their sources, as they do anywhere.
    """

    read: tuple[Path, ...]
    write: tuple[Path, ...]


def surroundings(request: Request, interpreter: Interpreter, environment: Mapping[str, str]) -> Surroundings:
    """What the tools of a request look at. Blocking; call as the owner.

    Args:
        request: what is asked for.
        interpreter: on which it is put.
        environment: complete, for the tools.
    """
    local = request.local_files
    read = [*_files(request, interpreter, environment), *(path for path in local if not path.is_dir())]
    return Surroundings(
        tuple(dict.fromkeys(path for path in read if path.is_absolute())),
        tuple(path for path in local if path.is_dir()),
    )


def require_seen(request: Request, folders: Sequence[Path], field: str) -> None:
    """Editables are imported from where they are, so a worker in a container must have these folders too.

    Raises:
        InvalidSpecError: one is outside of what the container has of the host.
    """
    for each in request.requirements:
        if each.editable and each.local and not any(each.local.is_relative_to(path) for path in folders):
            raise InvalidSpecError(
                f"the editable {each.local} is not in the image",
                field=field,
                remedy="install it without --editable, put it into the working_dir, or mount it at the same "
                "path by the image's 'mounts'",
            )


def _files(request: Request, interpreter: Interpreter, environment: Mapping[str, str]) -> Iterator[Path]:
    yield from map(Path, _CERTIFICATES)
    yield from (Path(environment[name]) for name in _NAMING if environment.get(name))
    home = Path(environment.get("HOME", "/"))
    yield from (home / ".netrc", home / ".gitconfig")
    yield from uv_options.configuration_files(environment)
    yield from pip_config.files(interpreter, environment)
    sources = request.options.sources
    names = [requirement.name for requirement in request.requirements if requirement.name]
    for place in (*sources.indexes, *sources.find_links):
        path = local_path(place) if "://" in place else Path(place)
        if path is not None and path.is_absolute():  # not the default index, which has no name here
            yield path
            yield from local_index.beside(path, names)
