"""Compiling an environment's modules."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest
from package_world import pythons, run_python

from ray_envd.agent.errors import ToolMissingError
from ray_envd.agent.python.bytecode import compile_modules
from ray_envd.cache.owner import Owner


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A package, a template that is no Python, and a module that must not run."""
    folder = tmp_path / "site-packages"
    (folder / "pkg/inner").mkdir(parents=True)
    (folder / "pkg/__init__.py").write_text("x = 1\n")
    (folder / "pkg/inner/deep.py").write_text("y = 2\n")
    (folder / "pkg/template.py").write_text("class {{ name }}:\n")
    (folder / "side_effect.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "runs.pth").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    return folder


def compiled(python: str, site: Path) -> None:
    """Compiles what is there."""
    asyncio.run(compile_modules(Path(python), site, Owner.current(), seconds=60))


def test_every_module_is_compiled_and_none_run(site: Path, tmp_path: Path) -> None:
    """Also deep inside; what is no Python stands in nobody's way, and no code of a package is run."""
    compiled(sys.executable, site)
    for module in ("pkg/__init__.py", "pkg/inner/deep.py", "side_effect.py"):
        assert Path(importlib.util.cache_from_source(str(site / module))).exists()
    assert not Path(importlib.util.cache_from_source(str(site / "pkg/template.py"))).exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("version", ["3.9", "3.11", "3.13"])
def test_a_worker_finds_nothing_to_write(site: Path, version: str) -> None:
    """Python of each version takes what its own kind has compiled, and adds nothing."""
    if version not in pythons():
        pytest.skip(f"no Python {version} here")
    python = pythons()[version]
    compiled(python, site)
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*.pyc")}
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import pkg.inner.deep; print(pkg.__cached__)"
    assert Path(run_python(python, code)) in before
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*.pyc")} == before


def test_tests_of_packages_are_left_out(tmp_path: Path) -> None:
    """Half of some packages is their tests; a folder of that name above the environment means nothing."""
    site = tmp_path / "tests/site-packages"
    (site / "pkg/tests").mkdir(parents=True)
    (site / "pkg/mod.py").write_text("x = 1\n")
    (site / "pkg/tests/test_mod.py").write_text("x = 1\n")
    compiled(sys.executable, site)
    assert [path.name.partition(".")[0] for path in site.rglob("*.pyc")] == ["mod"]


async def test_running_out_of_time_is_no_failure(site: Path) -> None:
    """What is not compiled in time stays as it is."""
    await compile_modules(Path(sys.executable), site, Owner.current(), seconds=0)


async def test_an_interpreter_that_is_gone(site: Path, tmp_path: Path) -> None:
    """That is told: such an environment is of no use to anybody."""
    with pytest.raises(ToolMissingError):
        await compile_modules(tmp_path / "bin/python", site, Owner.current(), seconds=60)
