"""URIs of packages: which are valid, what Ray calls their folders, what is shown of them."""

from pathlib import Path

import pytest

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.fetch import local_directory, package_name, parse_uri

#: What `ray._private.runtime_env.packaging.get_local_dir_from_uri` of Ray 2.60.0 answers.
STOCK_NAMES = [
    ("gcs://_ray_pkg_0a1b.zip", "_ray_pkg_0a1b"),
    ("gcs://_ray_pkg_0a1b.tar.gz", "_ray_pkg_0a1b"),
    ("gcs://tool-1.0-py3-none-any.whl", "tool-1.0-py3-none-any"),
    ("https://example.com/a/b.zip", "https_1ff0f9705c74ffbf0cc16491d4e1fad4c8f221bd"),
    ("https://example.com/a/b.tar.gz?x=1", "https_3e0be75c9d5a9b6fdaa3c27d2759b301f01b0f1e"),
    ("https://example.com/v1.2.tgz", "https_4ea8d42ae17c1f8ac7dd39b1161c880492472fe6"),
    ("https://u:p@example.com/a/tool-1.0-py3-none-any.whl", "tool-1.0-py3-none-any"),
    ("s3://bucket/a/b.zip", "s3_f91d3cfafb567ced693841f66965532640a42756"),
    ("gs://bucket/b.tar.xz", "gs_8e2a8a70bdbace3643c9a1899d7a1aff07de50ec"),
    ("azure://c/b.zip", "azure_2b873f8c03b12e772ed98af5e0979ebfb8b4eec4"),
    ("abfss://c@acc.dfs.core.windows.net/b.zip", "abfss_ee58a414dff483212dc32b15c80aee9b3e59a6a7"),
    ("file:///a/my code.zip", "file_e13a8c658dfad55aede0839156c5624c9adc2af6"),
    (f"https://example.com/b.zip#sha256={'a' * 64}", "https_4c5d45fb15828fe288dddf6b7ac489a47a1244fe"),
]


@pytest.mark.parametrize(("uri", "name"), STOCK_NAMES)
def test_the_folder_has_the_name_that_ray_gives_it(uri: str, name: str) -> None:
    """Workers, containers and other tools look there."""
    assert package_name(uri, "py_modules") == name


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("code.zip", "is a path"),
        ("/tmp/code.zip", "is a path"),
        ("", "is a path"),
        ("ftp://host/code.zip", "unknown protocol 'ftp'"),
        ("pip://code.zip", "unknown protocol"),
        ("https:///code.zip", "no host"),
        ("https://host:port/code.zip", "malformed"),
        ("https://[::1/code.zip", "malformed"),
        ("https://host/code", "no supported extension"),
        ("https://host/code.rar", "no supported extension"),
        ("https://host/code.tar.bz2", "no supported extension"),
        ("https://host/code.whl", "no supported extension"),
        ("https://host/get?file=code.zip", "no supported extension"),
        ("https://host/a\nb.zip", "control character"),
        ("https://host/a\0.zip", "control character"),
        ("file://code.zip", "absolute path"),
        ("file://host/code.zip", "absolute path"),
        ("s3://code.zip", "no bucket or no object"),
        ("s3:///code.zip", "no bucket or no object"),
        ("s3://key:secret@bucket/code.zip", "holds credentials"),
        ("gcs://a/b.zip", "no supported extension"),
        ("gcs://a.zip/b", "no name of a package"),
        ("gcs://.zip", "no supported extension|no usable name"),
        ("gcs://...zip", "no usable name"),
        ("gcs://" + "a" * 300 + ".zip", "no usable name"),
        ("abfss://container/code.zip", "malformed"),
        ("abfss://c@example.com/code.zip", "malformed"),
        ("abfss://@acc.dfs.core.windows.net/code.zip", "malformed"),
        ("abfss://c@.dfs.core.windows.net/code.zip", "malformed"),
        ("https://host/code.zip#sha256=abc", "malformed #sha256="),
        ("local:///code", "used in place"),
    ],
)
def test_a_wrong_uri_is_refused_with_its_reason(uri: str, reason: str) -> None:
    """As an invalid spec of the field, whose message says what is wrong."""
    with pytest.raises(InvalidSpecError, match=reason) as caught:
        parse_uri(uri, "working_dir")
    assert caught.value.field == "working_dir"


def test_a_wheel_is_a_module_but_no_working_dir() -> None:
    """Extensions depend on the field, as in stock."""
    uri = "https://host/tool-1.0-py3-none-any.whl"
    assert package_name(uri, "py_modules") == "tool-1.0-py3-none-any"
    with pytest.raises(InvalidSpecError, match="extension"):
        package_name(uri, "working_dir")


@pytest.mark.parametrize("name", ["..", ".", "", ".hidden", "a%2f..%2fb"])
def test_no_wheel_names_a_folder_elsewhere(name: str) -> None:
    """The name is one component of a path, and not that of another folder."""
    try:
        found = package_name(f"https://host/x/{name}.whl", "py_modules")
    except InvalidSpecError:
        return
    assert "/" not in found
    assert found not in {"", ".", ".."}
    assert not found.startswith(".")


def test_the_digest_is_taken_off_and_other_fragments_stay() -> None:
    """``#`` may be part of an object's key, so only our own fragment is cut off."""
    digest = "AB" * 32
    parsed = parse_uri(f"https://host/code.zip#sha256={digest}", "working_dir")
    assert (parsed.text, parsed.sha256) == ("https://host/code.zip", digest.lower())
    other = parse_uri("https://host/code.zip#part", "working_dir")
    assert (other.text, other.sha256) == ("https://host/code.zip#part", None)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:CANARY@host/a.zip?sig=CANARY&x=CANARY#CANARY", "https://host/a.zip"),
        ("https://CANARY@host:1/a.zip", "https://host:1/a.zip"),
        ("abfss://c@acc.dfs.core.windows.net/a.zip?CANARY", "abfss://c@acc.dfs.core.windows.net/a.zip"),
        ("s3://bucket/a.zip", "s3://bucket/a.zip"),
    ],
)
def test_what_is_shown_holds_no_secret(uri: str, shown: str) -> None:
    """No user, password, query or fragment."""
    assert parse_uri(uri, "working_dir").shown == shown


def test_an_invalid_uri_does_not_show_its_secrets_either() -> None:
    """The refusal quotes the URI, without what it holds of credentials."""
    with pytest.raises(InvalidSpecError) as caught:
        parse_uri("https://user:CANARY@host/a.exe?token=CANARY", "working_dir")
    assert "CANARY" not in str(caught.value)
    assert "https://host/a.exe" in str(caught.value)


def test_secrets_are_known_quoted_and_plain() -> None:
    """A server may echo either form."""
    secrets = parse_uri("https://us%40er:pa%2Fss@host/a.zip?code=se%26cret", "working_dir").secrets
    assert {"pa%2Fss", "pa/ss", "us@er", "se&cret"} <= secrets


def test_local_uris_name_a_folder_in_place() -> None:
    """Absolute and no archive; every other URI is none of its business."""
    assert local_directory("local:///opt/code", "working_dir") == Path("/opt/code")
    assert local_directory("https://host/a.zip", "working_dir") is None
    for wrong in ("local://opt/code", "local://", "local:///opt/code.zip"):
        with pytest.raises(InvalidSpecError):
            local_directory(wrong, "working_dir")
