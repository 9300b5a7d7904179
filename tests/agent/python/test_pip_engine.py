"""The real pip, where uv cannot do it. These tests fetch two versions of pip from the registry."""

import os
import subprocess
from pathlib import Path

import pytest
from package_world import UV, Kit, make_wheel, run_python

from ray_envd.agent.errors import EnvError, InvalidSpecError, ResolutionError
from ray_envd.agent.python.spec import PackagesSpec
from ray_envd.agent.redaction import Redactor


@pytest.fixture(scope="session")
def pip_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of two versions of pip, from the registry."""
    folder = tmp_path_factory.mktemp("pips")
    for version in ("24.0", "25.0"):
        subprocess.run(
            [UV, "tool", "run", "-q", "pip", "download", "-q", "--no-deps", "-d", folder, f"pip=={version}"],
            env={**os.environ, "UV_CACHE_DIR": str(folder / "cache")},
            check=True,
        )
    return folder


def spec(kit: Kit, pips: Path, *packages: str, **options: object) -> PackagesSpec:
    """A pip field that knows the local packages and both pips."""
    return kit.pip(f"--find-links {pips}", *packages, **options)


def top_level(site_packages: Path) -> set[str]:
    """The packages that lie in an overlay."""
    return {path.name for path in site_packages.iterdir() if path.is_dir() and "-" not in path.name} - {"pip"}


@pytest.mark.parametrize("version", ["24.0", "25.0"])
async def test_pip_of_the_wanted_version_does_it(kit: Kit, pip_wheels: Path, version: str) -> None:
    """Pip is of that version, sees what the interpreter has, and installs the difference only."""
    built = await kit.build(spec(kit, pip_wheels, "top", "dep", pip_version=f"=={version}"))
    assert run_python(built.python, "import pip; print(pip.__version__)") == version
    assert top_level(built.site_packages) == {"top", "tiny"}
    assert run_python(built.python, "import top, ray; print(ray.version)") == "2.60.0"


async def test_an_option_that_only_pip_has(kit: Kit, pip_wheels: Path) -> None:
    """It reaches pip, which is fetched as the interpreter has none; other options go along."""
    options = ["--prefer-binary", "--no-deps", "--find-links", str(kit.wheels)]
    built = await kit.build(spec(kit, pip_wheels, "top", pip_install_options=options))
    assert top_level(built.site_packages) == {"top"}


async def test_the_key_is_that_of_the_request(kit: Kit, pip_wheels: Path) -> None:
    """Pip resolves while it installs, so nothing is known of the set before."""
    one = await kit.lock(spec(kit, pip_wheels, "top", pip_version="==24.0"))
    assert one.pins == ()
    assert (await kit.lock(spec(kit, pip_wheels, "top", pip_version="==25.0"))).digest != one.digest
    assert (await kit.lock(spec(kit, pip_wheels, "TOP", pip_version="==24.0"))).digest == one.digest


async def test_changing_rays_version_is_stocks_error(kit: Kit, pip_wheels: Path) -> None:
    """With pip it shows after the installation; the environment is refused all the same."""
    make_wheel(kit.wheels, "ray", "2.40.0")
    with pytest.raises(ResolutionError, match="Changing the ray version is not allowed"):
        await kit.build(spec(kit, pip_wheels, "ray==2.40.0", pip_version="==24.0"))


@pytest.mark.parametrize(
    ("packages", "options", "error"),
    [
        (["tiny==99"], [], ResolutionError),
        (["tiny"], ["--nonsense"], InvalidSpecError),
        (["top", "tiny==2.0"], [], ResolutionError),
    ],
)
async def test_pips_words_reach_the_user(
    kit: Kit, pip_wheels: Path, packages: list[str], options: list[str], error: type[EnvError]
) -> None:
    """A failure of pip is told apart like one of uv, with its output."""
    with pytest.raises(error) as caught:
        await kit.build(
            spec(
                kit,
                pip_wheels,
                *packages,
                pip_version="==24.0",
                pip_install_options=["--prefer-binary", *options],
            )
        )
    assert type(caught.value) is error
    assert caught.value.output
    assert caught.value.log


async def test_addresses_with_credentials_do_not_reach_pips_arguments(kit: Kit, pip_wheels: Path) -> None:
    """The log of a failed run shows the command; the index stands in the environment."""
    options = ["--prefer-binary", "--extra-index-url", "https://user:canary77@127.0.0.1:1/simple"]
    kit.redactor = Redactor()
    with pytest.raises(EnvError) as caught:
        await kit.build(spec(kit, pip_wheels, "absent", pip_install_options=options))
    log = (kit.root / "logs").iterdir()
    assert "canary77" not in str(caught.value)
    assert all("canary77" not in path.read_text() for path in log)
