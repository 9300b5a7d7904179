"""Real servers on loopback for the tests of downloads, and a few words about files."""

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from ray_envd.agent.fetch import FetchContext
from ray_envd.agent.pb.gcs_kv_pb2 import GcsStatus, InternalKVGetReply, InternalKVGetRequest

#: The field that the tests fetch for.
FIELD = "working_dir"


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def remove(path: Path) -> None:
    path.unlink()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    """What is in a folder: what a failed download has left behind."""
    return sorted(path.name for path in folder.iterdir())


@dataclass
class Seen:
    """One request that a server had."""

    method: str
    path: str
    headers: Message


class Request(BaseHTTPRequestHandler):
    """One request; a test's handler answers it."""

    protocol_version = "HTTP/1.1"
    server: "WebServer"

    def answer(self, body: bytes = b"", status: int = 200, length: int | None = None, **headers: str) -> None:
        """Answers; ``length`` lies about the body's. Underscores in header names are dashes."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.seen.append(Seen(self.command, self.path, self.headers))
        self.close_connection = True
        self.server.handler(self)

    do_HEAD = do_PUT = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """The tests look at ``seen``."""


class WebServer(ThreadingHTTPServer):
    """Answers every request by one handler."""

    daemon_threads = True

    def __init__(self, handler: Callable[[Request], None], certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.handler = handler
        self.seen: list[Seen] = []
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"{'https' if certificate else 'http'}://{self.host}"
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


#: Starts a server with a handler and, for TLS, a certificate.
Serve = Callable[..., WebServer]
#: Makes a context; keyword arguments in capitals are its environment.
MakeContext = Callable[..., FetchContext]


@dataclass
class Authority:
    """A private authority, and a certificate of it for 127.0.0.1 (key and chain in one file)."""

    ca: Path
    certificate: Path

    @classmethod
    def at(cls, folder: Path) -> "Authority":
        """A new one."""
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        is_authority = x509.BasicConstraints(ca=True, path_length=None)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        ca = _certificate("tests", ca_key, ca_key, is_authority)
        leaf = _certificate("127.0.0.1", key, ca_key, address)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return cls(
            write(folder / "ca.pem", ca.public_bytes(pem)),
            write(folder / "server.pem", private + leaf.public_bytes(pem)),
        )


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")]),
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - dt.timedelta(days=1),
        not_valid_after=now + dt.timedelta(days=1),
    )
    return builder.add_extension(extension, critical=subject == "tests").sign(signer, hashes.SHA256())


@dataclass
class S3:
    """A running S3 with the bucket ``bucket``: its address, and how tests fill it."""

    url: str
    put: Callable[[str, bytes], None]


def serve_s3() -> Iterator[S3]:
    """A server of moto's, for as long as it is iterated over."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket="bucket")

    def put(key: str, body: bytes) -> None:
        client.put_object(Bucket="bucket", Key=key, Body=body)

    yield S3(url, put)
    server.stop()


@dataclass
class KeyValueStore:
    """A running key-value store that answers as the GCS of Ray 2.60 does."""

    authority: Authority | None = None
    values: dict[bytes, bytes] = field(default_factory=dict)
    token: str | None = None
    failure: grpc.StatusCode | None = None

    def __post_init__(self) -> None:
        """Starts it; with an authority by TLS that asks for a client's certificate."""
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
        method = grpc.unary_unary_rpc_method_handler(
            self._get,
            request_deserializer=InternalKVGetRequest.FromString,
            response_serializer=InternalKVGetReply.SerializeToString,
        )
        name = "ray.rpc.InternalKVGcsService"
        service = grpc.method_handlers_generic_handler(name, {"InternalKVGet": method})
        self._server.add_generic_rpc_handlers((service,))
        if self.authority is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pem = content(self.authority.certificate)
            credentials = grpc.ssl_server_credentials(
                [(pem, pem)], content(self.authority.ca), require_client_auth=True
            )
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        self.address = f"127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _get(self, request: InternalKVGetRequest, call: grpc.ServicerContext) -> InternalKVGetReply:
        if self.failure is not None:
            call.abort(self.failure, "details with an address")
        given = dict(call.invocation_metadata()).get("authorization")
        if self.token is not None and given != f"Bearer {self.token}":
            call.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        value = self.values.get(request.key)
        if value is None:
            return InternalKVGetReply(status=GcsStatus(code=17, message="Failed to find the key"))
        return InternalKVGetReply(status=GcsStatus(), value=value)


#: Starts a key-value store, by TLS if given an authority.
ServeGcs = Callable[..., KeyValueStore]
