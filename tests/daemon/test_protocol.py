"""The raylet's port: who may call it, and what it says to those who call it wrong."""

import http.client
import json
import socket
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import wait_until
from raylet import CREATE, DELETE, INFO, Env, HttpError, MakeRaylet, Raylet
from sources import descriptors, left_over

from ray_envd.agent.pb import runtime_env_pb2 as pb

ENV = {"env_vars": {"A": "1"}}


@pytest.fixture
def guarded(make_raylet: MakeRaylet) -> Raylet:
    """A raylet of a cluster with a token."""
    return make_raylet(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=" s3same\n", token="s3same")


def status_of(raylet: Raylet, path: str = CREATE, body: bytes = b"", **options: str) -> int:
    """The status of an answer."""
    try:
        raylet.post(path, body, **options)
    except HttpError as error:
        return error.status
    return 200


@pytest.mark.parametrize("path", [CREATE, DELETE, INFO, "/nowhere"])
def test_without_the_token_nothing_is_said(guarded: Raylet, path: str) -> None:
    """401 without a token, 403 with a wrong one, on every path."""
    guarded.token = None
    assert status_of(guarded, path) == 401
    assert status_of(guarded, path, Authorization="Bearer wrong") == 403
    assert status_of(guarded, path, Authorization="Bearer s3sam") == 403
    assert status_of(guarded, path, Authorization="Bearer s3same2") == 403
    assert status_of(guarded, path, Authorization="Bearer") in {401, 403}


def test_the_token_in_each_of_its_places(guarded: Raylet) -> None:
    """Authorization, the header of Ray's own proxies, and the dashboard's cookie."""
    assert guarded.create(ENV).ok
    guarded.token = None
    for words in (
        {"Authorization": "bearer s3same"},
        {"X_Ray_Authorization": "Bearer s3same"},
        {"Cookie": "ray-authentication-token=s3same"},
    ):
        assert status_of(guarded, INFO, **words) == 200, words
    assert status_of(guarded, INFO, Cookie="ray-authentication-token=other") == 403


def test_a_cluster_without_a_token(make_raylet: MakeRaylet) -> None:
    """Where authentication is off nobody needs one, and one that is sent does no harm."""
    raylet = make_raylet(RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="unused")
    assert raylet.create(ENV).ok
    raylet.token = "whatever"
    assert raylet.create(ENV).ok


def test_a_token_is_each_clusters_own(guarded: Raylet, make_raylet: MakeRaylet) -> None:
    """The token of one cluster opens nothing of another on the same daemon."""
    other = make_raylet(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="another", token="another")
    assert other.create(ENV).ok
    other.token = "s3same"
    assert status_of(other, INFO) == 403


def test_a_token_from_a_file(make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """RAY_AUTH_TOKEN_PATH names it; spaces around it do not count."""
    file = tmp_path / "token"
    file.write_text("from a file\n")
    raylet = make_raylet(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(file), token="from a file")
    assert raylet.create(ENV).ok
    raylet.token = "from another"
    assert status_of(raylet, INFO) == 403


@pytest.mark.parametrize("path", [CREATE, DELETE, INFO])
def test_what_is_no_message(raylet: Raylet, path: str) -> None:
    """400: the raylet's bug, not the user's; and the next call is answered."""
    assert status_of(raylet, path, b"\xff\xff\xff\xff") == 400
    assert raylet.create(ENV).ok


def test_wrong_method_and_path(raylet: Raylet) -> None:
    """405 and 404."""
    assert status_of(raylet, CREATE, method="GET") == 405
    assert status_of(raylet, CREATE, method="PUT") == 405
    assert status_of(raylet, "/") == 404


def test_a_body_that_is_too_long(raylet: Raylet) -> None:
    """413, before it is sent if its length is announced; chunked, as soon as the limit is passed."""
    announced = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n"
    chunked = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    for head, body in ((announced, b""), (chunked, chunk * 70)):
        with socket.create_connection(("127.0.0.1", raylet.port), timeout=20) as connection:
            connection.sendall(head.encode())
            try:
                connection.sendall(body)
                answer = connection.recv(200)
            except ConnectionError:
                continue  # it hung up over what we still sent
            assert answer.startswith(b"HTTP/1.1 413 ")
    assert raylet.create(ENV).ok


@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "half a line", "version", "length", "headers"],
)
def test_what_is_no_http(raylet: Raylet, words: bytes) -> None:
    """A 4xx and the end of the connection; the daemon goes on."""
    with socket.create_connection(("127.0.0.1", raylet.port), timeout=10) as connection:
        connection.sendall(words)
        answer = connection.recv(200)
    assert answer.startswith(b"HTTP/1.1 4")
    assert raylet.create(ENV).ok


BAD: dict[str, tuple[Env, str]] = {
    "no JSON": ("{nonsense", "JSON"),
    "a list": ("[1]", "list"),
    "a number": ("5", "int"),
    "deep": ("[" * 100_000, "JSON"),
    "deeper": ('{"x": ' * 1500 + "1" + "}" * 1500, "JSON"),
    "env_vars of a list": ({"env_vars": ["A=1"]}, "env_vars"),
    "env_vars of numbers": ({"env_vars": {"A": 1}}, "env_vars"),
    "env_vars with =": ({"env_vars": {"A=B": "1"}}, "env_vars"),
    "env_vars with NUL": ({"env_vars": {"A": "a\0b"}}, "env_vars"),
    "working_dir of a number": ({"working_dir": 5}, "working_dir"),
    "working_dir of a scheme": ({"working_dir": "ftp://host/x.zip"}, "working_dir"),
    "working_dir of no package": ({"working_dir": "file:///etc/passwd"}, "working_dir"),
    "working_dir of nothing": ({"working_dir": "file:///nowhere/x.zip"}, "/nowhere/x.zip"),
    "py_modules of a text": ({"py_modules": "file:///x.zip"}, "py_modules"),
    "py_executable of a list": ({"py_executable": ["python"]}, "py_executable"),
    "unbalanced py_executable": ({"py_executable": "python '"}, "py_executable"),
    "conda": ({"conda": {"dependencies": []}}, "conda"),
    "image_uri": ({"image_uri": "x/y:z"}, "image_uri"),
    "container": ({"container": {"image": "x"}}, "container"),
    "java_jars": ({"java_jars": ["file:///x.jar"]}, "java_jars"),
    "nsight": ({"_nsight": "default"}, "nsight"),
    "rocprof": ({"_rocprof_sys": "default"}, "rocprof-sys"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_runtime_env(node: Daemon, raylet: Raylet, case: str) -> None:
    """Status 200, FAILED, a sentence that names the field; nothing is held or left afterwards."""
    env, words = BAD[case]
    message = raylet.refused(env)
    assert words in message
    assert "Traceback" not in message
    assert "nexpected" not in message
    assert len(message) < 2000
    assert raylet.references() == 0
    assert not raylet.delete(env)
    assert left_over(node.store) == []
    assert raylet.create(ENV).ok


def test_fields_that_say_nothing(raylet: Raylet) -> None:
    """Unknown fields, those of other parts of Ray, and empty ones are no reason to fail."""
    env = {"no_such": 1, "excludes": ["x"], "conda": None, "pip": [], "config": {"eager_install": False}}
    created = raylet.prepared(env)
    assert raylet.run(created, "print('runs')") == "runs"


def test_an_empty_env(raylet: Raylet) -> None:
    """Both ways in which Ray writes it give the raylet's own Python."""
    for text in ("{}", ""):
        created = raylet.prepared(text)
        assert raylet.run(created, "import sys; print(sys.executable)") == raylet.python


def test_an_old_raylets_words(raylet: Raylet) -> None:
    """Ray up to 2.6 has the source in another field; there client_server is not counted either."""
    request = pb.GetOrCreateRuntimeEnvRequest(
        serialized_runtime_env=json.dumps(ENV), legacy_source_process="client_server"
    )
    pb.GetOrCreateRuntimeEnvReply.FromString(raylet.post(CREATE, request.SerializeToString()))
    assert raylet.references() == 0


def test_a_connection_is_kept_where_the_caller_wants_it(raylet: Raylet) -> None:
    """The dashboard keeps its connection; several calls on one are answered in order."""
    body = pb.GetRuntimeEnvsInfoRequest().SerializeToString()
    connection = http.client.HTTPConnection("127.0.0.1", raylet.port, timeout=10)
    for count in range(3):
        raylet.prepared({"env_vars": {"N": str(count)}})
        connection.request("POST", INFO, body)
        reply = pb.GetRuntimeEnvsInfoReply.FromString(connection.getresponse().read())
        assert reply.total == count + 1
    connection.close()


def test_hundreds_of_calls_leave_no_descriptor(node: Daemon, raylet: Raylet) -> None:
    """Answered, dropped and half-sent requests: the daemon has as many descriptors as before."""
    raylet.prepared(ENV)
    before = descriptors(node)
    for _ in range(100):
        raylet.prepared(ENV)
        raylet.create("{nonsense")
        with socket.create_connection(("127.0.0.1", raylet.port)) as connection:
            connection.sendall(b"POST /get_or_create_runtime_env HTTP/1.1\r\nContent-Length: 50\r\n\r\nhalf")
    wait_until(lambda: descriptors(node) <= before, 10, "closed descriptors")
