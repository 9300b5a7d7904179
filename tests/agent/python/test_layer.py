"""Layers over real environments of real interpreters."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from package_world import Kit, make_wheel, pythons, run_python

from ray_envd.agent.python.layer import make_layer

SHOWN = "import sys; print('\\n'.join(sys.path))"


async def layer_of(kit: Kit, *packages: str, folder: str = "layer") -> tuple[Path, Path]:
    """An environment, and a layer over it."""
    built = await kit.build(kit.pip(*packages))
    below = built.python.parent.parent
    target = kit.root / folder
    await asyncio.to_thread(make_layer, await kit.interpreter(), below, target)
    return below, target


@pytest.mark.parametrize("version", pythons())
async def test_layer_environment_interpreter(kit: Kit, version: str) -> None:
    """Every Python looks into them in this order, and knows the layer as its own prefix."""
    kit.python = pythons()[version]
    below, layer = await layer_of(kit, "top", "dep==1.0")
    interpreter = await kit.interpreter()
    found = run_python(layer / "bin/python", SHOWN).splitlines()
    places = [str(layer / interpreter.purelib), str(below / interpreter.purelib), *interpreter.site_dirs]
    assert [place for place in found if place in places] == places
    code = "import top, dep, sys; print(top.version, dep.version, sys.prefix, '%d.%d' % sys.version_info[:2])"
    assert run_python(layer / "bin/python", code) == f"1.0 1.0 {layer} {version}"


async def test_what_is_installed_into_it_comes_first(kit: Kit) -> None:
    """Modules, and folders that a .pth file names, as an editable install does."""
    _, layer = await layer_of(kit, "tiny==1.0")
    (site,) = await asyncio.to_thread(lambda: list(layer.glob("lib/*/site-packages")))
    project = kit.root / "project"
    await asyncio.to_thread(lambda: (make(project / "tiny.py"), (site / "zz.pth").write_text(f"{project}\n")))
    assert run_python(layer / "bin/python", "import tiny; print(tiny.version)") == "of a project"


def make(path: Path) -> None:
    """A module of a project."""
    path.parent.mkdir()
    path.write_text("version = 'of a project'\n")


@pytest.mark.parametrize("folder", ["layer", "deep/" + "long-name-" * 14, "with spaces/and 'quotes'"])
async def test_scripts_run_in_it(kit: Kit, folder: str) -> None:
    """Whatever the path, and though the kernel reads but the first bytes of it."""
    _, layer = await layer_of(kit, "tiny==1.0", folder=folder)
    done = await asyncio.to_thread(
        subprocess.run, [layer / "bin/tiny-tool"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(layer / "bin/python")


async def test_files_of_packages_are_not_copied(kit: Kit) -> None:
    """Only scripts are; a layer over a large environment is as small as over a small one."""
    for number in range(20):
        make_wheel(kit.wheels, f"part{number}", "1.0")
    _, layer = await layer_of(kit, *(f"part{number}" for number in range(20)))
    files = await asyncio.to_thread(lambda: [each for each in layer.rglob("*") if each.is_file()])
    assert {each.name for each in files if not each.is_symlink()} == {
        "pyvenv.cfg",
        "~ray-envd-environment.pth",
    }


async def test_the_interpreters_pip_works_on_the_layer(kit: Kit) -> None:
    """Its command is another here: its own would install into the interpreter."""
    with_pip = [python for python in pythons().values() if has_pip(python)]
    if not with_pip:
        pytest.skip("no interpreter of this machine has pip")
    kit.python = with_pip[0]
    _, layer = await layer_of(kit, "tiny==1.0")
    done = await asyncio.to_thread(
        subprocess.run, [layer / "bin/pip", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pip ")
    shebang = await asyncio.to_thread((layer / "bin/pip").read_text)
    assert str(layer / "bin/python") in shebang.splitlines()[0]


def has_pip(python: str) -> bool:
    """Whether an interpreter can import pip."""
    return subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0
