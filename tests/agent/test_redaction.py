"""Masking of secrets in text."""

import pytest

from ray_envd.agent.redaction import Redactor, redact_urls, secrets_in_urls, secrets_of_environment


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://u:p@host/x", "https://***@host/x"),
        ("git+https://token@host/r.git", "git+https://***@host/r.git"),
        ("s3://b/k?X-Amz-Signature=abc&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
        ("http://h/?access_token=t0k", "http://h/?access_token=***"),
        ("no url, a@b.c, x=1", "no url, a@b.c, x=1"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, masked: str) -> None:
    """User parts and secret-looking query values go, the rest stays readable."""
    assert redact_urls(text) == masked


def test_a_secret_within_a_secret_is_masked_whole() -> None:
    """The longer secret is replaced first, so that no rest of it stays."""
    assert Redactor(["abcd", "abcd-efgh"])("x abcd-efgh y abcd") == "x *** y ***"


def test_short_values_stay() -> None:
    """Masking '1' everywhere would garble every message."""
    assert Redactor(["1", "yes"])("attempt 1: yes") == "attempt 1: yes"


def test_each_line_of_a_secret_of_several_lines_is_masked() -> None:
    """Tools print keys line by line."""
    assert Redactor(["BEGIN KEY\nsecretsecret"])("got secretsecret") == "got ***"


def test_secrets_of_urls_are_found() -> None:
    """They are masked also where they stand alone."""
    assert secrets_in_urls("https://joe:pa55word@h/?sig=s1gn") == {"joe", "pa55word", "s1gn"}


def test_secrets_of_an_environment() -> None:
    """Variables that are secret by name, and credentials in addresses; not paths, switches and numbers."""
    environment = {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "RAY_AUTH_TOKEN": "cluster",
        "RAY_AUTH_TOKEN_PATH": "/home/me/token",
        "DATABASE": "db://me:hidden@host/x",
        "USE_TOKEN": "true",
        "KEY_TIMEOUT": "5000",
        "HOME": "/home/me",
    }
    assert secrets_of_environment(environment) == {"s3cr3t", "cluster", "me", "hidden"}
