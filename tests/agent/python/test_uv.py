"""What uv is run with."""

from package_world import Kit

from ray_envd.agent.python import uv

CERTIFICATES = {"SSL_CERT_FILE": "/a.pem", "SSL_CERT_DIR": "/certs"}


async def test_certificates_are_not_read_where_the_net_is_not_used(kit: Kit) -> None:
    """A run that stays offline is given none, from wherever they come; one that goes online has them all."""
    kit.environment |= CERTIFICATES
    work = await kit.work(kit.pip("tiny"))
    online = uv.environment(work, {"UV_SYSTEM_CERTS": "true"})
    offline = uv.environment(work, {"UV_SYSTEM_CERTS": "true"}, offline=True)
    assert {name: online[name] for name in CERTIFICATES} == CERTIFICATES
    assert online["UV_SYSTEM_CERTS"] == "true"
    assert not {"UV_SYSTEM_CERTS", *CERTIFICATES} & set(offline)
    assert {name: online[name] for name in offline} == offline
