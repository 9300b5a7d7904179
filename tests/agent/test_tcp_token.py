"""The token's file; that callers on TCP are asked for the token is in daemon/test_grpc_faces.py."""

from pathlib import Path

import pytest

from ray_envd.agent.config import ConfigError
from ray_envd.agent.tcp_token import read_token


def test_a_token_is_what_a_private_file_holds(tmp_path: Path) -> None:
    """Without the end of its line."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    assert read_token(token) == "secret"


def test_a_token_file_must_be_private_and_hold_something(tmp_path: Path) -> None:
    """Missing, readable by others, empty, or not set: each is named."""
    token = tmp_path / "token"

    def error() -> str:
        with pytest.raises(ConfigError) as caught:
            read_token(token)
        return str(caught.value)

    assert "cannot be read" in error()
    token.write_text("")
    token.chmod(0o644)
    assert "read by others" in error()
    token.chmod(0o600)
    assert "empty" in error()
    with pytest.raises(ConfigError, match="without tcp_token_file"):
        read_token(None)
