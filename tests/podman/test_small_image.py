"""The ground of other tests: the small image, images derived from it, the registry, a world of podman."""

import json
from pathlib import Path

import pytest
import small_image as small_images
from oci import OciImage, PushError, push
from podman_fixtures import MakeImage
from podman_world import PodmanWorld
from processes import NodeError
from registries import Registry

# What works on any machine; what ray-envd itself takes is found out by it.
HOST = (
    *("--network=host", "--pid=host", "--ipc=host", "--rm"),
    *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
)


def run(world: PodmanWorld, *arguments: str) -> str:
    return world.podman("--cgroup-manager=cgroupfs", "--runtime=runc", "run", *HOST, *arguments).strip()


def test_the_small_image_has_what_workers_need(podman_world: PodmanWorld) -> None:
    """Ray with Serve comes from bytecode, uv's binary runs; a world has the image from the beginning."""
    code = (
        "import json, sys, fastapi, ray, ray.serve;"
        "print(json.dumps([ray.__version__, sys.executable, ray.__cached__[-4:]]))"
    )
    answer = json.loads(run(podman_world, "localhost/small", "python", "-c", code))
    assert answer == [small_images.RAY_VERSION, small_images.PYTHON, ".pyc"]
    uv = Path(small_images.ROOT, ".venv/bin/uv").resolve()
    assert run(podman_world, f"--volume={uv}:{uv}:ro", "localhost/small", str(uv), "--version")[:3] == "uv "
    assert podman_world.containers() == []


def test_an_ordinary_user_has_the_small_image_too(rootless_world: PodmanWorld) -> None:
    """In a world of his own, he runs it as himself."""
    assert rootless_world.user is not None
    options = ("--userns=keep-id", "--volume=/dev/shm:/dev/shm")
    host = [each for each in HOST if "ipc" not in each]
    answer = rootless_world.podman(
        *("--cgroup-manager=cgroupfs", "--runtime=runc", "run", *host, *options),
        *("localhost/small", "python", "-c", "import os; print(os.getuid())"),
    )
    assert int(answer) == rootless_world.user.uid


def test_derived_images_are_pulled_by_their_own_layer(
    podman_world: PodmanWorld, registry: Registry, make_image: MakeImage
) -> None:
    """Two versions of a package in two images, with a wheel's metadata, and a variable."""
    code = (
        "import os, importlib.metadata as m, envd_ground as g;"
        "print(g.__version__, m.version('envd-ground'), os.environ.get('A'))"
    )
    before = len(podman_world.images())
    for version in ("1.0", "2.0"):
        image = make_image(
            "ground/app", {"envd-ground": version}, tag=version, variables={"A": f"a {version}"}
        )
        assert image == f"{registry.address}/ground/app:{version}"
        assert (
            run(podman_world, "--pull=always", image, "python", "-c", code)
            == f"{version} {version} a {version}"
        )
    assert len(podman_world.images()) == before + 2
    for version in ("1.0", "2.0"):
        podman_world.podman("rmi", f"{registry.address}/ground/app:{version}")


def test_a_registry_with_a_password(
    podman_world: PodmanWorld, small_image: OciImage, podman_folder: Path
) -> None:
    """Nobody pushes or pulls without it."""
    guarded = Registry(podman_folder / "guarded", password=True).start()
    tiny = OciImage((small_image.derive(podman_folder / "layers", {"/file": b"x"}).layers[-1],))
    try:
        with pytest.raises(PushError, match="401"):
            push(tiny, guarded.address, "tiny", "latest")
        image = guarded.push(tiny, "tiny")
        with pytest.raises(NodeError, match=r"unauthorized|authentication required"):
            podman_world.podman("pull", "--tls-verify=false", image)
    finally:
        guarded.stop()


def test_a_registry_goes_and_comes_back(
    podman_world: PodmanWorld, registry: Registry, make_image: MakeImage
) -> None:
    """It has the same address and the same images afterwards."""
    image = make_image("ground/back", files={"/back": b"1"})
    registry.stop()
    try:
        with pytest.raises(NodeError, match="refused"):
            podman_world.podman("pull", image)
    finally:
        registry.start()
    podman_world.podman("pull", image)
    podman_world.podman("rmi", image)
