"""Environments over an image: built inside of it, kept in the store, whole on the host."""

import asyncio
import os
import platform
import sys
import tarfile
from pathlib import Path

import pytest
import small_image as small_images
from helpers import make_wheel
from overlay_world import OverlayWorld, image_id
from package_world import Index, make_project
from podman_fixtures import MakeImage
from podman_world import PodmanWorld

from ray_envd.agent.environments import Environment
from ray_envd.agent.errors import InvalidSpecError, ToolMissingError
from ray_envd.agent.integrity.service import Integrity
from ray_envd.agent.layers import Layers
from ray_envd.agent.trees import Trees
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry

_LOADED = (
    "import envdb, envda, ray, sys; print(sys.prefix, envda.__version__, ray.__version__, "
    "envda.__file__, __import__('os').path.exists(envda.__cached__))"
)


async def test_packages_over_an_image(
    overlay: OverlayWorld, podman_world: PodmanWorld, small_id: str, make_image: MakeImage
) -> None:
    """Only what the image lacks is installed, from uv's cache by links, compiled, once for each image.

    The index wants a password, which the user's netrc on the host has.
    """
    index = Index()
    index.credentials = "somebody:open-sesame"
    netrc = Path(overlay.environment["HOME"], ".netrc")
    await asyncio.to_thread(netrc.write_text, "machine 127.0.0.1 login somebody password open-sesame\n")
    try:
        for wheel in (
            make_wheel(overlay.root / "w", "envda", "1.0"),
            make_wheel(overlay.root / "w", "envdb", "2.0", requires=("envda", "click")),
        ):
            index.add(wheel)
        options = [f"--index-url={index.url()}"]
        wanted = {"packages": ["envdb"], "pip_check": True, "pip_install_options": options}
        environment = await overlay.obtain(small_id, pip=wanted)
        entry = environment.entry
        assert [tuple(pin) for pin in entry.details["pins"]] == [("envda", "1.0"), ("envdb", "2.0")]
        site = Path(entry.details["site_packages"])
        assert os.stat(site / "envda.py").st_nlink > 1  # noqa: PTH116 - one call
        assert not (await overlay.obtain(small_id, pip=wanted)).is_new
        other = await asyncio.to_thread(_other_image, podman_world, make_image)
        second = await overlay.obtain(other, pip=wanted)
        assert second.is_new
        assert second.entry.key != entry.key
        checked = {"uv_check": True, "uv_pip_install_options": options}
        third = await overlay.obtain(small_id, uv={"packages": ["envdb", "envda==1.0"], **checked})
        assert third.entry.key == entry.key
    finally:
        index.close()
    await _is_sealed_and_whole(overlay, entry)
    trees = Trees()
    async with overlay.bench(small_id) as bench:
        layer, facts = await Layers(trees).over(environment, bench, "pip")
        platform = await overlay.platform(small_id, bench)
        async with platform.tools(overlay.owner, read=[layer], write=[]) as run:
            done = await run([facts.py_executable, "-c", _LOADED], env={}, cwd="/", owner=overlay.owner)
    assert done.lines == (f"{layer} 1.0 {small_images.RAY_VERSION} {site}/envda.py True",)
    assert facts.path == (f"{layer}/bin", str(Path(small_images.PYTHON).parent))


async def _is_sealed_and_whole(overlay: OverlayWorld, entry: Entry) -> None:
    """Though its interpreter leads nowhere on the host."""
    references = await asyncio.to_thread(References.open, overlay.store.layout.sessions)
    integrity = Integrity(overlay.workshop, references, lambda: False)
    integrity.sealer.images = overlay.platforms
    for sealed in (True, True):  # the first seals it, the second reads every file again
        now = next(each for each in overlay.store.entries() if each.key == entry.key)
        verdicts = [each async for each in integrity.verification.run([now], repair=False)]
        assert [(each.reason, each.error, each.entry.facts.sealed) for each in verdicts] == [("", "", sealed)]
    await asyncio.to_thread(references.close)


def _other_image(world: PodmanWorld, make_image: MakeImage) -> str:
    """Another image with the same Python at the same path."""
    name = make_image("overlay/other", files={"/etc/other": b"1"})
    world.podman("pull", "-q", name)
    return image_id(world, name)


async def test_an_index_of_the_host_that_keeps_its_files_apart(overlay: OverlayWorld, small_id: str) -> None:
    """What its pages lead to is there in the image too, also for what a package needs in turn."""
    mirror = overlay.root / "mirror"
    await asyncio.to_thread(_mirror, mirror)
    index = (mirror / "simple").as_uri()
    options = [f"--index-url={index}"]
    made = await overlay.obtain(small_id, pip={"packages": ["envdb"], "pip_install_options": options})
    assert [tuple(pin) for pin in made.entry.details["pins"]] == [("envda", "1.0"), ("envdb", "2.0")]
    assert _holds(made, "envda.py", "envdb.py")


def _mirror(top: Path) -> None:
    for name, version, requires in (("envda", "1.0", ()), ("envdb", "2.0", ("envda",))):
        wheel = make_wheel(top / "files" / name, name, version, requires=requires)
        page = top / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../files/{name}/{wheel.name}">{wheel.name}</a>')


async def test_the_other_ways_to_install(overlay: OverlayWorld, small_id: str) -> None:
    """Sources are built inside of the image; so runs the real pip, and a uv of another version."""
    inside = f"import os; assert os.path.exists({small_images.PYTHON!r})"
    project = await asyncio.to_thread(make_project, overlay.root / "src", "envdc", "3.0", prologue=inside)
    one = await overlay.obtain(small_id, pip={"packages": ["--no-index", str(project)]})
    assert [pin[0] for pin in one.entry.details["pins"]] == ["envdc"]
    wheels = overlay.root / "w"
    await asyncio.to_thread(make_wheel, wheels, "envda", "1.0")
    local = [f"--find-links {wheels}", "envda"]
    two = await overlay.obtain(small_id, pip={"packages": local, "pip_version": "==25.0"})
    assert two.entry.summary == "made by pip"
    assert _holds(two, "envda.py", "pip")
    options = {"uv_version": "==0.9.5", "uv_pip_install_options": [f"--find-links={wheels}"]}
    three = await overlay.obtain(small_id, uv={"packages": ["envda"], **options})
    assert _holds(three, "envda.py")
    assert any(event.detail == "uv==0.9.5" for event in overlay.events)


async def test_what_one_libc_built_is_not_given_to_another(overlay: OverlayWorld, small_id: str) -> None:
    """Native code is built anew inside of an image, and the host goes on with what it built itself."""
    await asyncio.to_thread(_native_sdist, overlay.root)
    await asyncio.to_thread(make_wheel, overlay.root / "w", "envda", "1.0")
    local = ["--no-index", f"--find-links {overlay.root}/w", "envdn"]
    for image, packages, inside in (
        ("", local, False),
        (small_id, local, True),
        (small_id, [*local, "envda"], True),
        ("", [*local, "envda"], False),
    ):
        environment = await overlay.obtain(image, pip={"packages": packages})
        module = Path(environment.entry.details["site_packages"], "envdn.py")
        assert await asyncio.to_thread(module.read_text) == f"built_inside = {inside}"


def _native_sdist(root: Path) -> None:
    """A package of a wheel that is for this machine only, and says where it was built."""
    says = f"'built_inside = ' + str(os.path.exists({small_images.PYTHON!r}))"
    project = make_project(root / "native", "envdn", "1.0", prologue=f'open("envdn.py", "w").write({says})')
    backend = project / "backend.py"
    tag = f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-linux_{platform.machine()}"
    backend.write_text(backend.read_text().replace("py3-none-any", tag))
    (project / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: envdn\nVersion: 1.0\n")
    (root / "w").mkdir()
    with tarfile.open(root / "w" / "envdn-1.0.tar.gz", "w:gz") as archive:
        archive.add(project, "envdn-1.0")


async def test_uv_needs_libgcc_in_the_image(
    overlay: OverlayWorld, podman_world: PodmanWorld, make_image: MakeImage
) -> None:
    """Of an image in which uv cannot run, an error says what it lacks and which images have it."""
    missing = {
        f"/usr/lib/{each}/.wh.libgcc_s.so.1": b"" for each in ("x86_64-linux-gnu", "aarch64-linux-gnu")
    }
    name = make_image("overlay/bare", files=missing)
    await asyncio.to_thread(podman_world.podman, "pull", "-q", name)
    bare = await asyncio.to_thread(image_id, podman_world, name)
    with pytest.raises(
        ToolMissingError, match=r"libgcc_s(.|\n)*remedy: use an image with glibc and libgcc_s"
    ):
        await overlay.obtain(bare, pip={"packages": ["envda"]})


async def test_an_editable_must_be_where_the_worker_is(overlay: OverlayWorld, small_id: str) -> None:
    """Of a folder that the container has not, an error says so before anything is built."""
    project = await asyncio.to_thread(make_project, overlay.root / "src", "envde", "1.0")
    with pytest.raises(InvalidSpecError, match="not in the image"):
        await overlay.obtain(small_id, pip={"packages": ["--no-index", f"-e {project}"]})
    inside = await asyncio.to_thread(make_project, overlay.root / "session" / "wd", "envde", "1.0")
    assert (await overlay.obtain(small_id, pip={"packages": ["--no-index", f"-e {inside}"]})).is_new


def _holds(environment: Environment, *names: str) -> bool:
    site = Path(environment.entry.details["site_packages"])
    return all((site / name).exists() for name in names)
