"""Probing interpreters, on whatever real ones this machine has."""

from pathlib import Path

import pytest
from package_world import (
    Kit,
    clean_environment,
    install,
    make_project,
    make_venv,
    make_wheel,
    pythons,
    run_python,
)

from ray_envd.agent.errors import ToolMissingError
from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.cache.owner import Owner


@pytest.mark.parametrize("version", pythons())
async def test_every_python_from_3_9_on_is_probed(version: str, tmp_path: Path) -> None:
    """The probe runs under it and says what it is."""
    python = pythons()[version]
    found = await Interpreters().probe(python, owner=Owner.current(), environment=clean_environment(tmp_path))
    assert found.version.startswith(f"{version}.")
    assert found.purelib == f"lib/python{version}/site-packages"
    assert found.markers["python_version"] == version
    assert run_python(found.base_executable, "print(1)") == "1"


async def test_ray_and_what_it_needs_are_seen_in_a_virtual_environment(kit: Kit) -> None:
    """The fake Ray's version, path and dependencies come from the environment's own site folder."""
    found = await kit.interpreter()
    assert found.is_venv
    assert found.installed == {"ray": "2.60.0", "dep": "1.0"}
    assert found.ray_version == "2.60.0"
    assert found.ray_path == f"{found.site_dirs[0]}/ray"
    assert [d.requires for d in found.distributions if d.name == "ray"] == [("dep>=1",)]


async def test_an_installation_into_rays_python_is_noticed(kit: Kit, tmp_path: Path) -> None:
    """The same object is returned while nothing changes, another one with another digest after."""
    venv = tmp_path / "venv"
    make_venv(venv, kit.python)
    kit.python = str(venv / "bin/python")
    before = await kit.interpreter()
    assert await kit.interpreter() is before
    install(venv, kit.wheels / "tiny-1.0-py3-none-any.whl", cache=tmp_path / "cache")
    after = await kit.interpreter()
    assert after.installed == {"tiny": "1.0"}
    assert after.digest != before.digest


async def test_a_new_user_site_is_noticed(kit: Kit, tmp_path: Path) -> None:
    """Also a folder that did not exist when the interpreter was probed, and it comes before the system's."""
    kit.python = next(iter(pythons().values()))
    before = await kit.interpreter()
    user = Path(
        run_python(kit.python, "import site; print(site.getusersitepackages())", HOME=str(tmp_path / "home"))
    )
    assert str(user) not in before.site_dirs
    (user / "mine-3.0.dist-info").mkdir(parents=True)
    (user / "mine-3.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: Mine\nVersion: 3.0\n")
    after = await kit.interpreter()
    assert after.installed["mine"] == "3.0"
    assert after.site_dirs[0] == str(user)


async def test_pythonpath_counts_as_installed(kit: Kit, tmp_path: Path) -> None:
    """What PYTHONPATH shows to the interpreter is there, and hides what lies behind it."""
    folder = tmp_path / "extra"
    (folder / "dep-9.0.dist-info").mkdir(parents=True)
    (folder / "dep-9.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: dep\nVersion: 9.0\n")
    kit.environment["PYTHONPATH"] = str(folder)
    found = await kit.interpreter()
    assert found.installed["dep"] == "9.0"
    assert str(folder) not in found.site_dirs


async def test_an_editable_ray_is_seen(kit: Kit, tmp_path: Path) -> None:
    """A distribution whose code lies in a source tree has its version and its path there."""
    venv = tmp_path / "venv"
    make_venv(venv, kit.python)
    project = make_project(tmp_path, "ray", "2.60.0")
    (project / "ray.py").unlink()
    (project / "ray").mkdir()
    (project / "ray/__init__.py").write_text("")
    (project / "ray.py").write_text("")  # the backend reads it
    install(venv, "-e", project, cache=tmp_path / "cache")
    (project / "ray.py").unlink()
    kit.python = str(venv / "bin/python")
    found = await kit.interpreter()
    assert found.ray_version == "2.60.0"
    assert found.ray_path == str(project / "ray")


async def test_a_ray_without_a_distribution_is_seen(kit: Kit, tmp_path: Path) -> None:
    """Ray run from a source tree on PYTHONPATH counts as installed in the version of its own file."""
    (tmp_path / "src/ray").mkdir(parents=True)
    (tmp_path / "src/ray/__init__.py").write_text("")
    (tmp_path / "src/ray/_version.py").write_text('version = "3.0.0.dev0"\n')
    venv = tmp_path / "venv"
    make_venv(venv, kit.python)
    kit.python, kit.environment["PYTHONPATH"] = str(venv / "bin/python"), str(tmp_path / "src")
    found = await kit.interpreter()
    assert found.installed == {"ray": "3.0.0.dev0"}


@pytest.mark.skipif(not Path("/usr/lib/python3/dist-packages").is_dir(), reason="no Debian Python here")
async def test_debians_packages_are_seen(kit: Kit) -> None:
    """Debian's dist-packages are site folders, and an .egg-info there is a distribution."""
    kit.python = "/usr/bin/python3"
    found = await kit.interpreter()
    assert "/usr/lib/python3/dist-packages" in found.site_dirs
    assert found.distributions


async def test_what_is_no_python_is_a_missing_tool(kit: Kit) -> None:
    """A path that does not exist and a program that is no Python are told apart from a broken env."""
    for path in ("/nonexistent/python", "/bin/true"):
        kit.python = path
        with pytest.raises(ToolMissingError) as caught:
            await kit.interpreter()
        assert path in caught.value.cause


def test_wheel_helper_is_installable(tmp_path: Path) -> None:
    """The wheels of these tests are wheels."""
    venv = tmp_path / "venv"
    make_venv(venv, next(iter(pythons().values())))
    install(venv, make_wheel(tmp_path, "tiny", "1.0"), cache=tmp_path / "cache")
    assert run_python(venv / "bin/python", "import tiny; print(tiny.version)") == "1.0"
