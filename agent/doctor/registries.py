"""A registry as podman would meet it: whether it answers, how, and whether podman may speak with it so."""

import asyncio
import contextlib
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path

from ray_envd.agent import process
from ray_envd.agent.doctor.finding import Finding, fail, ok, warn
from ray_envd.agent.podman.info import PodmanInfo
from ray_envd.cache.owner import Owner

_SECONDS = 5
_HERE = {http.client.OK, http.client.UNAUTHORIZED}
#: Where containers-certs.d(5) has a registry's own authorities.
_CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


async def look(address: str, info: PodmanInfo, environment: Mapping[str, str], owner: Owner) -> Finding:
    """One registry, ``host[:port]``."""
    check = f"registry {address}"
    known = info.registries.get(address) or {}
    if known.get("Blocked"):
        return fail(check, "registries.conf blocks it", "remove `blocked = true` from its entry there")
    insecure = bool(known.get("Insecure"))
    finding, status = await asyncio.to_thread(_reach, check, address, environment, insecure=insecure)
    if status != http.client.UNAUTHORIZED:
        return finding
    words = [info.program, "login", "--get-login", address]
    login = await process.run(words, env=environment, cwd="/", owner=owner)
    if login.returncode:
        return warn(
            check,
            f"{finding.found}; it wants a password, and there is none for it",
            f"as the raylet's user: podman login {address} (REGISTRY_AUTH_FILE names the file that keeps it)",
        )
    return ok(check, f"{finding.found}; {login.lines[-1]} is logged in")


def _reach(
    check: str, address: str, environment: Mapping[str, str], *, insecure: bool
) -> tuple[Finding, int]:
    """What is there, and the status of its answer (0: none)."""
    try:
        return ok(check, "it answers by HTTPS"), _status(address, _trusting(address, environment))
    except ssl.SSLCertVerificationError as error:
        if insecure:
            return ok(check, "it answers by HTTPS, its certificate is not checked"), http.client.OK
        host = f"{_CERTIFICATES[0]}/{address}"
        remedy = f"put its authority's certificate into {host}/ca.crt, for every user of the node"
        return fail(check, f"its certificate is not trusted: {error.verify_message}", remedy), 0
    except (OSError, http.client.HTTPException) as error:
        secure = error
    try:
        status = _status(address, None)
    except (OSError, http.client.HTTPException):
        remedy = "see whether it runs, and whether a proxy or a firewall is between"
        return fail(check, f"it does not answer: {secure}", remedy), 0
    if insecure:
        return ok(check, "it answers by plain HTTP, which registries.conf allows"), status
    return fail(check, "it speaks plain HTTP, which podman refuses", _remedy(address)), 0


def _remedy(address: str) -> str:
    return (
        f"allow it: [[registry]] location = {address!r} insecure = true in /etc/containers/registries.conf.d/"
        "NAME.conf (three lines), or give it a certificate"
    )


def _status(address: str, context: ssl.SSLContext | None) -> int:
    """The status of the answer to the API's version check; raises if nothing like a registry answers."""
    if context is None:
        connection = http.client.HTTPConnection(address, timeout=_SECONDS)
    else:
        connection = http.client.HTTPSConnection(address, timeout=_SECONDS, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/")
        status = connection.getresponse().status
    if status not in _HERE:
        raise http.client.HTTPException(f"GET /v2/ is answered with {status}")
    return status


def _trusting(address: str, environment: Mapping[str, str]) -> ssl.SSLContext:
    """The authorities that podman believes for this registry."""
    file, folder = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    context = ssl.create_default_context(cafile=file, capath=folder)
    for place in _CERTIFICATES:
        for path in Path(place, address).glob("*.crt"):
            context.load_verify_locations(path)
    return context
