"""doctor on the daemon, its sockets, port and warm file: each fault is made, and found with its remedy."""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fake_daemon import FakeDaemon
from findings import is_bad

from ray_envd.agent.doctor import Level
from ray_envd.agent.doctor import daemon as daemon_checks
from ray_envd.agent.doctor.warm import warm_file

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_the_sockets_folder(tmp_path: Path) -> None:
    """Who can write there can replace the socket; a sticky folder like /tmp is fine."""
    path = tmp_path / "run" / "d.sock"
    assert "makes the folder" in daemon_checks.socket_folder(path).found
    path.parent.mkdir(mode=0o755)
    assert f"{len(str(path))} of 92 bytes" in daemon_checks.socket_folder(path).found
    path.parent.chmod(0o777)
    is_bad(daemon_checks.socket_folder(path), Level.FAIL, "replace the socket")
    path.parent.chmod(0o1777)
    assert daemon_checks.socket_folder(path).level is Level.OK
    file = tmp_path / "file"
    file.touch()
    is_bad(daemon_checks.socket_folder(file / "d.sock"), Level.FAIL, "not a folder")


@as_root
def test_roots_sockets_folder_lets_users_pass(tmp_path: Path) -> None:
    """Raylets of users reach the links' socket; a folder of another user is not trusted."""
    path = tmp_path / "run" / "d.sock"
    path.parent.mkdir(mode=0o700)
    finding = daemon_checks.socket_folder(path)
    is_bad(finding, Level.WARN, "only root")
    assert "chmod a+x" in finding.remedy
    path.parent.chmod(0o755)
    os.chown(path.parent, 65534, 65534)
    is_bad(daemon_checks.socket_folder(path), Level.FAIL, "uid 65534")


def test_the_daemon_is_asked_for_its_version(fake: FakeDaemon, daemon_socket: Path, short_tmp: Path) -> None:
    """The same, another, or none at all; and one that found damage says so."""
    finding, stats = daemon_checks.daemon(daemon_socket)
    assert (finding.level, stats is not None) == (Level.OK, True)
    fake.damaged = 3
    finding, stats = daemon_checks.daemon(daemon_socket)
    is_bad(finding, Level.WARN, "3 stored objects are damaged")
    fake.version = "9.9.9"
    finding, stats = daemon_checks.daemon(daemon_socket)
    is_bad(finding, Level.WARN, "version 9.9.9")
    finding, stats = daemon_checks.daemon(short_tmp / "none.sock")
    is_bad(finding, Level.WARN, "no daemon listens")
    assert stats is None


def serve_text(text: bytes) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_the_port_for_metrics() -> None:
    """Free, ours, or somebody else's; off is fine."""
    assert daemon_checks.http_port(None).level is Level.OK
    assert daemon_checks.http_port(("127.0.0.1", 0)).level is Level.OK
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    assert daemon_checks.http_port(address).found.endswith("is free")
    for text, level in ((b"ray_envd_objects 1.0\n", Level.OK), (b"apache", Level.WARN)):
        server = serve_text(text)
        finding = daemon_checks.http_port(("127.0.0.1", server.server_port))
        server.shutdown()
        server.server_close()
        assert finding.level is level
    is_bad(finding, Level.WARN, "Address already in use")


def test_the_warm_file(tmp_path: Path) -> None:
    """None is fine; a wrong one keeps the daemon from starting; an interpreter that is not there is told."""
    path = tmp_path / "warm.toml"
    assert warm_file(None).level is Level.OK
    is_bad(warm_file(path), Level.FAIL, "cannot be read")
    path.write_text("[[envs]]\nruntime_env = 3\n")
    is_bad(warm_file(path), Level.FAIL, "envs[0]")
    envs = f"[[envs]]\nname = 'a'\npython = '{sys.executable}'\nruntime_env = {{}}\n"
    path.write_text(envs)
    assert warm_file(path).level is Level.OK
    path.write_text(f"{envs}[[envs]]\nname = 'b'\npython = '/no/python'\nruntime_env = {{}}\n")
    is_bad(warm_file(path), Level.WARN, "b: /no/python is no program")
    path.write_text(f"user = 'no-such-user'\n{envs}")
    is_bad(warm_file(path), Level.WARN, "a: there is no user 'no-such-user'")
