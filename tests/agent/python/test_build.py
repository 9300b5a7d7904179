"""Overlays built by real uv over real interpreters."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from package_world import (
    Index,
    Kit,
    install,
    make_project,
    make_sdist,
    make_venv,
    make_wheel,
    pythons,
    read_text,
    run_python,
    run_script,
    sha256,
)

from ray_envd.agent.errors import BuildError, DownloadError
from ray_envd.agent.python.build import worker_facts
from ray_envd.agent.python.spec import parse_pip, parse_uv

WHERE = "import {0}; print({0}.__file__)"


async def test_ours_above_rays_below(kit: Kit) -> None:
    """The overlay holds the difference; Ray and what it needs are imported from its own environment."""
    built = await kit.build(kit.pip("top"))
    folders = sorted(path.name for path in built.site_packages.iterdir() if path.is_dir())
    assert folders == ["tiny", "tiny-1.0.dist-info", "top", "top-1.0.dist-info"]
    assert run_python(built.python, WHERE.format("top")).startswith(str(built.site_packages))
    base = (await kit.interpreter()).site_dirs[0]
    assert run_python(built.python, WHERE.format("ray")).startswith(base)
    assert run_python(built.python, WHERE.format("dep")).startswith(base)
    assert run_python(built.python, "import sys; print(sys.prefix)") == str(built.python.parent.parent)


async def test_another_version_shadows_the_interpreters(kit: Kit) -> None:
    """Both import and metadata show the overlay's version."""
    built = await kit.build(kit.pip("dep==2.0"))
    code = "import dep, importlib.metadata as m; print(dep.version, m.version('dep'), m.version('ray'))"
    assert run_python(built.python, code) == "2.0 2.0 2.60.0"


async def test_an_empty_set_is_just_the_overlay(kit: Kit) -> None:
    """Where everything is there already, nothing is installed and everything can be imported."""
    built = await kit.build(kit.uv("dep"))
    assert [path.name for path in built.site_packages.iterdir()] == ["~ray-envd-base.pth"]
    assert run_python(built.python, "import ray; print(ray.version)") == "2.60.0"


@pytest.mark.parametrize("version", pythons())
async def test_every_python_from_3_9_on_gets_an_overlay(kit: Kit, version: str) -> None:
    """Also on a bare interpreter, with its own site-packages below."""
    kit.python = pythons()[version]
    built = await kit.build(kit.pip("top"))
    code = "import top, dep, sys, ssl; print('%d.%d' % sys.version_info[:2])"
    assert run_python(built.python, code) == version
    below = (await kit.interpreter()).site_dirs
    listed = run_python(built.python, "import sys; print('\\n'.join(sys.path))").splitlines()
    assert [entry for entry in listed if entry in below] == list(below)


async def test_an_editable_install_stays_importable(kit: Kit, tmp_path: Path) -> None:
    """The .pth files of the interpreter's own site folder work from the overlay."""
    venv, project = tmp_path / "venv", make_project(tmp_path, "edit", "1.0")
    kit.python = make_venv(venv, kit.python)
    install(kit.python, "-e", project, cache=tmp_path / "cache")
    built = await kit.build(kit.pip("edit", "tiny"))
    assert run_python(built.python, WHERE.format("edit")) == str(project / "edit.py")


def importable_debian_packages(installed: Mapping[str, str]) -> list[str]:
    """Distributions of dist-packages that are a package of the same name."""
    folder = Path("/usr/lib/python3/dist-packages")
    return [
        name
        for name in sorted(installed)
        if any(folder.glob(f"{name}-*-info")) and any(folder.glob(f"{name}*/__init__.py"))
    ]


@pytest.mark.skipif(not Path("/usr/lib/python3/dist-packages").is_dir(), reason="no Debian Python here")
async def test_debians_packages_stay_importable(kit: Kit) -> None:
    """A distribution of dist-packages satisfies a requirement, and can be imported from the overlay."""
    kit.python = "/usr/bin/python3"
    interpreter = await kit.interpreter()
    debians = importable_debian_packages(interpreter.installed)
    assert debians
    built = await kit.build(kit.pip(debians[0], "tiny"))
    assert sorted(p.name for p in built.site_packages.glob("*.dist-info")) == ["tiny-2.0.dist-info"]
    found = run_python(built.python, f"import importlib.metadata as m; print(m.version('{debians[0]}'))")
    assert found == interpreter.installed[debians[0]]


async def test_scripts_run_the_environments_python(kit: Kit) -> None:
    """A console script starts the overlay's interpreter, not the one that uv resolved against."""
    built = await kit.build(kit.pip("tiny==1.0"))
    assert run_script(built.python.parent / "tiny-tool") == str(built.python)


async def test_a_script_of_a_long_path_runs(kit: Kit, tmp_path: Path) -> None:
    """A path that is too long for a first line of a script is run by way of sh."""
    kit.root = tmp_path / ("long-" * 30)
    kit.root.mkdir()
    for name in ("wheels", "uv-cache"):
        (kit.root / name).symlink_to(tmp_path / name)
    built = await kit.build(kit.pip("tiny==1.0"))
    assert run_script(built.python.parent / "tiny-tool") == str(built.python)


async def test_the_cache_is_linked_and_not_written_to(kit: Kit) -> None:
    """Two environments with one package share its files, and turning scripts round changes no shared file."""
    one, other = await kit.build(kit.pip("tiny==1.0")), await kit.build(kit.uv("tiny==1.0"))
    files = [built.site_packages / "tiny/__init__.py" for built in (one, other)]
    assert files[0].stat().st_nlink > 1
    assert files[0].stat().st_ino == files[1].stat().st_ino
    assert str(other.python).encode() in (other.python.parent / "tiny-tool").read_bytes()
    assert str(one.python).encode() in (one.python.parent / "tiny-tool").read_bytes()


async def test_a_wrong_hash_is_not_installed(kit: Kit) -> None:
    """The error says so, and it lasts."""
    with pytest.raises(DownloadError, match=r"(?i)hash"):
        await kit.build(kit.pip(f"tiny==1.0 --hash=sha256:{'0' * 64}"))


async def test_the_right_hash_is(kit: Kit) -> None:
    """With both of pip's ways to give it."""
    tiny = kit.wheels / "tiny-1.0-py3-none-any.whl"
    built = await kit.build(kit.pip(f"tiny==1.0 --hash={sha256(tiny)}"))
    assert (built.site_packages / "tiny").is_dir()


async def test_a_package_that_does_not_build_says_why(kit: Kit) -> None:
    """Its own last words are in the message, and all of them in the log."""
    make_sdist(kit.wheels, "broken", "1.0", prologue="raise RuntimeError('the compiler is on fire')")
    with pytest.raises(BuildError) as caught:
        await kit.build(kit.pip("broken"))
    assert "the compiler is on fire" in "\n".join(caught.value.output)
    assert "the compiler is on fire" in read_text(caught.value.log)
    assert "broken" in str(caught.value)


async def test_local_sources_are_built_and_editables_linked(kit: Kit, tmp_path: Path) -> None:
    """A folder is installed as a package; with -e it is used in place."""
    project = make_project(tmp_path, "mine", "1.0")
    (tmp_path / "r.txt").write_text("./mine\n")
    built = await kit.build(kit.pip(f"-r {tmp_path}/r.txt"))
    assert run_python(built.python, WHERE.format("mine")).startswith(str(built.site_packages))
    for spec in (kit.pip(f"-e {project}"), kit.uv("-e ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/mine")):
        kit.environment["RAY_RUNTIME_ENV_CREATE_WORKING_DIR"] = str(tmp_path)
        built = await kit.build(spec)
        assert run_python(built.python, WHERE.format("mine")) == str(project / "mine.py")


async def test_an_editable_shadows_the_interpreters_version(kit: Kit, tmp_path: Path) -> None:
    """What a package's .pth file adds stands before the raylet's packages."""
    project = make_project(tmp_path, "dep", "9.0")
    built = await kit.build(kit.pip(f"-e {project}"))
    assert run_python(built.python, "import dep; print(dep.version)") == "9.0"


async def test_a_changed_source_is_built_anew(kit: Kit, tmp_path: Path) -> None:
    """What uv has cached of a folder does not hide what was changed in it."""
    project = make_project(tmp_path, "mine", "1.0")
    await kit.build(kit.pip(str(project)))
    (project / "mine.py").write_text("version = 'changed'\n")
    built = await kit.build(kit.pip(str(project)))
    assert run_python(built.python, "import mine; print(mine.version)") == "changed"


async def test_downloads_are_told(kit: Kit, index: Index) -> None:
    """Whoever waits reads what is resolved and installed."""
    index.add(make_wheel(kit.root / "more", "far", "1.0", body="#" * 3_000_000))
    built = await kit.build(parse_uv(["far", f"--index-url {index.url()}"]))
    assert run_python(built.python, "import far; print(far.version)") == "1.0"
    phases = [phase for phase, *_ in kit.events]
    assert [p for p in phases if p in {"resolving", "installing", "installed"}] == [
        "resolving",
        "installing",
        "installed",
    ]


@pytest.mark.parametrize("field", ["pip", "uv"])
async def test_a_conflict_is_an_error_where_a_check_is_asked_for(kit: Kit, field: str) -> None:
    """The check sees the overlay over the interpreter: Ray below needs dep>=1, ours is older."""
    make_wheel(kit.wheels, "dep", "0.5")
    spec, check = (kit.pip, "pip_check") if field == "pip" else (kit.uv, "uv_check")
    await kit.build(spec("dep==0.5"))
    with pytest.raises(BuildError, match=f"{field}_check") as caught:
        await kit.build(spec("dep==0.5", **{check: True}))
    assert "dep" in "\n".join(caught.value.output)
    await kit.build(spec("dep==2.0", **{check: True}))


async def test_what_a_worker_needs(kit: Kit) -> None:
    """The overlay's scripts come first, Ray's own behind them."""
    built = await kit.build(kit.pip("tiny"))
    target = built.python.parent.parent
    facts = worker_facts(target, await kit.interpreter())
    assert facts.py_executable == str(built.python)
    assert facts.path == (str(target / "bin"), str(Path(kit.python).parent))
    assert facts.variables == {"VIRTUAL_ENV": str(target)}


async def test_this_machines_own_configuration_breaks_nothing(kit: Kit) -> None:
    """With whatever pip is configured to here, a package of a local folder can be had."""
    kit.environment = {**os.environ, "HOME": kit.environment["HOME"]}
    built = await kit.build(parse_pip(["tiny==1.0", f"--find-links {kit.wheels}", "--no-index"]))
    assert (built.site_packages / "tiny").is_dir()
