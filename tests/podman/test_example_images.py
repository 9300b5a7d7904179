"""The images of ``examples/serve-multi-app``, built as its README says."""

import os
import subprocess

from podman_world import PodmanWorld
from registries import Registry
from small_image import ROOT

SCRIPT = ROOT / "examples" / "serve-multi-app" / "build_images.sh"
# Steps of a build run without an OCI runtime, which a machine may not let podman have by default.
OPTIONS = "--isolation=chroot --network=host --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"


def test_two_versions_of_a_package_in_two_images(podman_world: PodmanWorld, registry: Registry) -> None:
    """They are in the registry afterwards, and each tells its own version and name."""
    environment = {
        **os.environ,
        **podman_world.variables,
        "BASE": "localhost/small",
        "BUILD_OPTIONS": OPTIONS,
    }
    target = f"{registry.address}/example"
    done = subprocess.run([SCRIPT, target], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images = [f"{target}/old:1", f"{target}/new:1"]
    assert done.stdout.split() == images
    for image, version in zip(images, ("3.14.0", "4.9.0"), strict=True):
        podman_world.podman("rmi", image)
        podman_world.podman("pull", image)
        listed = podman_world.podman("image", "inspect", "--format", "{{.Config.Env}}", image)
        assert f"APP_IMAGE={image.split('/')[-1].split(':')[0]}" in listed
        options = (
            "--cgroup-manager=cgroupfs",
            "--runtime=runc",
            "run",
            "--rm",
            "--network=host",
            "--pid=host",
        )
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
        code = "import humanize; print(humanize.__version__)"
        assert podman_world.podman(*options, *limits, image, "python", "-c", code).strip() == version
        podman_world.podman("rmi", image)
