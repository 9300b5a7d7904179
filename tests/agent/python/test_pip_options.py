"""Which of pip's options go where, for every option that a table names."""

from pathlib import Path

import pytest
from package_world import Kit

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python import pip_options
from ray_envd.agent.python.spec import parse_pip


async def engine(kit: Kit, *options: str) -> str:
    """Who would do the work."""
    return (await kit.request(kit.pip("tiny", pip_install_options=list(options)))).engine


@pytest.mark.parametrize(("name", "takes_value"), pip_options.NO_OPS.items())
async def test_what_concerns_only_pip_itself_changes_nothing(
    kit: Kit, name: str, *, takes_value: bool
) -> None:
    """A no-op leaves engine and key as they are."""
    words = [name, "on"] if takes_value else [name]
    with_it = await kit.request(kit.pip("tiny", pip_install_options=words))
    without = await kit.request(kit.pip("tiny"))
    assert with_it.engine == "uv"
    interpreter = await kit.interpreter()
    assert with_it.digest(interpreter, {}) == without.digest(interpreter, {})


@pytest.mark.parametrize(("name", "takes_value"), pip_options.REFUSED.items())
async def test_what_installs_elsewhere_is_refused(kit: Kit, name: str, *, takes_value: bool) -> None:
    """Whatever would not put packages into the worker's environment is an invalid spec that names it."""
    with pytest.raises(InvalidSpecError, match=name):
        await engine(kit, *([name, "/tmp/x"] if takes_value else [name]))


@pytest.mark.parametrize("name", ["--targ=/x", "--roo", "--pref"])
async def test_an_abbreviation_of_it_is_refused_too(kit: Kit, name: str) -> None:
    """Pip takes unambiguous beginnings of options, so they are refused as well."""
    with pytest.raises(InvalidSpecError):
        await engine(kit, name, "/x")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pre"], ["--prerelease", "allow"]),
        (["--no-deps"], ["--no-deps"]),
        (["--require-hashes"], ["--require-hashes"]),
        (["-U"], ["--upgrade-package", "tiny"]),
        (["--upgrade", "--upgrade-strategy=eager"], ["--upgrade"]),
    ],
)
async def test_choices_of_versions_are_told_as_uvs(kit: Kit, words: list[str], expected: list[str]) -> None:
    """Options that decide which packages are taken become the same for uv's resolution."""
    request = await kit.request(kit.pip("tiny", pip_install_options=words))
    assert request.engine == "uv"
    assert list(request.options.resolve) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--no-binary", "a,b"], ["--no-binary", "a", "--no-binary", "b"]),
        (["--only-binary=:all:"], ["--only-binary", ":all:"]),
        (["--config-settings=a=b"], ["--config-setting", "a=b"]),
        (["-C", "a=b"], ["--config-setting", "a=b"]),
        (["--compile"], ["--compile-bytecode"]),
    ],
)
async def test_how_wheels_are_made_is_told_as_uvs(kit: Kit, words: list[str], expected: list[str]) -> None:
    """Options that decide what a wheel holds become the same for both runs of uv."""
    request = await kit.request(kit.pip("tiny", pip_install_options=words))
    assert list(request.options.both) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--prefer-binary"],
        ["--force-reinstall"],
        ["--ignore-installed"],
        ["--no-build-isolation"],
        ["--use-feature=fast-deps"],
        ["--unheard-of", "value"],
        ["--global-option=x"],
    ],
)
async def test_what_uv_does_not_know_is_left_to_pip(kit: Kit, words: list[str]) -> None:
    """An option without an exact equivalent makes the real pip do the work."""
    assert await engine(kit, *words) == "pip"


async def test_pip_version_is_left_to_pip(kit: Kit) -> None:
    """Whoever asks for a version of pip gets pip."""
    assert (await kit.request(kit.pip("tiny", pip_version="==24.0"))).engine == "pip"
    assert (await kit.request(parse_pip(["a --global-option=x"]))).engine == "pip"


async def test_the_index_options_of_all_three_levels(kit: Kit, tmp_path: Path) -> None:
    """All levels add up, and the index of a requirements file replaces what was before it."""
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://g/s\nextra-index-url = https://e1/s\n  https://e2/s\n"
        "[install]\nfind_links = /usr\n[freeze]\ntimeout = 3\n"
    )
    kit.environment |= {"PIP_CONFIG_FILE": str(configuration), "PIP_INDEX_URL": "https://env/s"}
    spec = {"packages": ["a"], "pip_install_options": ["--extra-index-url", "https://e3/s"]}
    sources = (await kit.request(parse_pip(spec))).options.sources
    assert sources.indexes == ("https://env/s", "https://e1/s", "https://e2/s", "https://e3/s")
    assert sources.find_links == ("/usr",)
    sources = (
        await kit.request(parse_pip(["-i https://own/s", "--extra-index-url https://e4/s"]))
    ).options.sources
    assert sources.indexes == ("https://own/s", "https://e4/s")


async def test_several_indexes_are_equals_for_pip(kit: Kit) -> None:
    """Pip takes the best of all indexes; with one there is nothing to say."""
    several = await kit.request(parse_pip(["a", "--extra-index-url https://e/s"]))
    assert several.options.transport == ("--index-strategy", "unsafe-best-match")
    assert (await kit.request(parse_pip(["a"]))).options.transport == ()


async def test_missing_find_links_are_noted_and_left_out(kit: Kit, tmp_path: Path) -> None:
    """A folder that is not there is a warning to pip, and must not break uv."""
    kit.environment |= {"PIP_FIND_LINKS": f"{tmp_path}/none file://{tmp_path}/none2 {tmp_path}"}
    options = (await kit.request(parse_pip(["a"]))).options
    assert options.sources.find_links == (str(tmp_path),)
    assert len(options.notes) == 2


async def test_certificates_and_proxies_go_by_the_environment(kit: Kit) -> None:
    """What pip's configuration says of TLS, proxies and patience holds for uv."""
    kit.environment.pop("SSL_CERT_FILE", None)
    kit.environment |= {"PIP_CERT": "/c.pem", "PIP_PROXY": "http://p:1", "PIP_DEFAULT_TIMEOUT": "180"}
    variables = (await kit.request(parse_pip(["a"]))).options.variables
    assert variables["SSL_CERT_FILE"] == "/c.pem"
    assert variables["ALL_PROXY"] == variables["HTTPS_PROXY"] == "http://p:1"
    assert variables["UV_HTTP_TIMEOUT"] == "180"


async def test_a_refused_option_in_the_configuration_is_refused(kit: Kit) -> None:
    """PIP_TARGET would send packages elsewhere; PIP_USER=no would not."""
    kit.environment |= {"PIP_USER": "no"}
    assert (await kit.request(parse_pip(["a"]))).engine == "uv"
    kit.environment |= {"PIP_TARGET": "/x"}
    with pytest.raises(InvalidSpecError, match="configuration"):
        await kit.request(parse_pip(["a"]))


async def test_uvs_own_variables_do_not_reach_the_pip_field(kit: Kit) -> None:
    """A node's UV_* settings are for the uv field."""
    kit.environment |= {"UV_INDEX_URL": "https://other/simple"}
    request = await kit.request(parse_pip(["a"]))
    assert request.options.sources.indexes == ("",)
