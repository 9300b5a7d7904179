"""A small image with Python and Ray, for tests and benchmarks: ``small_image.py`` makes .work/small-image.

Its Python is the one that the tests' own Ray runs on, with the libraries that ``ldd`` names and a few
programs of the machine; Ray and its dependencies are the files of .work/ray-2.60.0 (from the hashed lock),
without what no worker needs. So it is made in seconds, without a container tool, and fits the tests'
clusters by construction. Kept until something that it is made of changes.

.work/small-image/oci is an OCI layout. Where root runs this and podman is there, .work/small-image/store is
an image store with it too, which other stores name as additional (containers-storage.conf(5)): they have
the image at once, for nothing.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from oci import OciImage, add_tree, read_layout, write_layer, write_layout
from processes import NodeError

ROOT = Path(__file__).resolve().parent.parent
RAY_VERSION = "2.60.0"
FOLDER = ROOT / ".work" / "small-image"
#: The name in the additional store, and the repository in registries.
NAME = "small"
#: Ray's Python in the image: a virtual environment, as it is in many.
PYTHON = "/opt/ray/bin/python"
_LOCK = ROOT / "tests" / "ray" / "locks" / f"ray-{RAY_VERSION}.lock"
_UV = ROOT / ".venv" / "bin" / "uv"
_PROGRAMS = ("bash", "cat", "env", "id", "ls", "mkdir", "rm", "sleep")
_NOT_OF_PYTHON = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"}
_NOT_OF_RAY = {
    "cpp",
    "dashboard/client",
    "jars",
    "rllib",
    "tests",
    "core/src/ray/gcs",
    "core/src/ray/raylet",
}
#: Of Ray's optional dependencies, what is large and no worker's.
_NOT_NEEDED = {"py_spy", "virtualenv", "distlib", "cryptography"}
_ASK = """
import json, os, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "program": os.path.realpath(sys.executable), "version": sys.version_info[:3], "site": paths["purelib"],
    "stdlib": sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}),
}))
"""


def make() -> OciImage:
    """The image, made anew if what it is made of has changed."""
    FOLDER.parent.mkdir(exist_ok=True)
    with (FOLDER.parent / "small-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = _ask_python()
        recipe = _recipe(python)
        mark = FOLDER / "recipe"
        if not mark.exists() or mark.read_text() != recipe:
            remove()
            _build(python)
            mark.write_text(recipe)
    return read_layout(FOLDER / "oci")


def remove() -> None:
    """Removes it; the store of root may hold what is mounted no more, but nothing else."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def additional_store() -> Path | None:
    """The image store with this image that other stores of root may name; None if there is none."""
    store = FOLDER / "store"
    return store if os.geteuid() == 0 and store.is_dir() else None


def site_packages() -> str:
    """The folder in the image that holds Ray."""
    return str(_inside(Path(_ask_python()["stdlib"]).name))


def _inside(library: str) -> Path:
    return Path(PYTHON).parent.parent / "lib" / library / "site-packages"


def _ask_python() -> dict[str, Any]:
    python = ROOT / ".work" / f"ray-{RAY_VERSION}" / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"{python} does not run; `make rays` installs it\n{done.stderr}")
    return dict(json.loads(done.stdout))


def _recipe(python: dict[str, Any]) -> str:
    """What changes when the image would."""
    parts = [_LOCK.read_bytes(), json.dumps([python["version"], python["program"]]).encode()]
    parts += [path.read_bytes() for path in (Path(__file__), Path(__file__).with_name("oci.py"))]
    about = Path(python["program"]).stat()
    parts.append(f"{about.st_size} {about.st_mtime_ns} {shutil.which('podman')}".encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _build(python: dict[str, Any]) -> None:
    stage = FOLDER / "stage"
    _stage(stage, python)
    blobs = FOLDER / "oci" / "blobs" / "sha256"
    rest = [each.name for each in stage.iterdir() if each.name != "opt"]
    layers = tuple(
        write_layer(blobs, lambda tar, names=names: add_tree(tar, stage, names)) for names in (rest, ["opt"])
    )
    variables = {"PATH": f"{Path(PYTHON).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    write_layout(OciImage(layers, variables), FOLDER / "oci", NAME)
    shutil.rmtree(stage)
    if os.geteuid() == 0 and shutil.which("podman"):
        _fill_store()


def _stage(stage: Path, python: dict[str, Any]) -> None:
    """Puts together all files of the image, compiled."""
    program, library, site = (Path(python[name]) for name in ("program", "stdlib", "site"))
    # A merged /usr, wherever the machine has one.
    for name in ("bin", "sbin", "lib", "lib64"):
        if (link := Path("/", name)).is_symlink():
            _target(stage, link).symlink_to(link.readlink())
            (stage / link.readlink()).mkdir(parents=True, exist_ok=True)
    copies = [*_tree(library, _NOT_OF_PYTHON), (program, program)]
    copies += [(Path(found), Path("/usr/bin", name)) for name in _PROGRAMS if (found := shutil.which(name))]
    home = Path(PYTHON).parent.parent
    inside = _inside(library.name)
    unwanted = {*(f"ray/{each}" for each in _NOT_OF_RAY), *_NOT_NEEDED}
    copies += [(source, inside / source.relative_to(site)) for source, _ in _tree(site, unwanted)]
    copies += [(each, each) for each in _libraries([_UV, *(source for source, _ in copies)])]
    for source, target in copies:
        _link(source, _target(stage, target))
    _venv(_target(stage, home), program, python["version"])
    _system_files(stage)
    _compile(program, stage, [library, home / "lib"])


def _tree(top: Path, unwanted: set[str]) -> Iterator[tuple[Path, Path]]:
    """The files below a folder, links followed, and where they go: to the same path."""
    for folder, names, files in os.walk(top, followlinks=True):
        here = Path(folder)
        names[:] = [
            each
            for each in names
            if each not in {"__pycache__", "dist-packages"} and not each.startswith("config-")
            if str((here / each).relative_to(top)) not in unwanted
        ]
        yield from ((here / each, here / each) for each in files if (here / each).is_file())


def _libraries(files: Iterable[Path]) -> list[Path]:
    """What the dynamic loader needs for programs and extension modules, by ldd(1)."""
    binaries = [str(each) for each in files if _is_elf(each)]
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    found = (word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/"))
    # Each file is named with a colon first; those in site-packages come along with their packages.
    wanted = {word for word in found if not word.endswith(":") and "/site-packages/" not in word}
    return [Path(each) for each in sorted(wanted)]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _target(stage: Path, path: Path) -> Path:
    """Where a path of the image is in the stage, through the links of a merged /usr."""
    parent = path.parent
    top = Path("/", parent.parts[1]) if len(parent.parts) > 1 else None
    if top is not None and (stage / top.name).is_symlink():
        parent = Path("/") / (stage / top.name).readlink() / parent.relative_to(top)
    place = stage / parent.relative_to("/")
    place.mkdir(parents=True, exist_ok=True)
    return place / path.name


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or a kernel that lets nobody link what is not his
        shutil.copy2(source, target)


def _venv(home: Path, program: Path, version: list[int]) -> None:
    """The frame of a virtual environment; its packages are there already."""
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(program)
    for name in ("python3", f"python{version[0]}.{version[1]}"):
        (home / "bin" / name).symlink_to("python")
    lines = (
        f"home = {program.parent}",
        "include-system-site-packages = false",
        f"version = {'.'.join(map(str, version))}",
    )
    (home / "pyvenv.cfg").write_text("\n".join(lines))


def _system_files(stage: Path) -> None:
    (stage / "usr/bin/sh").symlink_to("bash")
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    for name, text in {
        "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "group": "root:x:0:\nnogroup:x:65534:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "os-release": 'ID=small\nPRETTY_NAME="The small image of ray-envd\'s tests"\n',
        "ssl/certs/ca-certificates.crt": certificates.read_text() if certificates.exists() else "",
    }.items():
        _target(stage, Path("/etc", name)).write_text(text)
    for name, mode in {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o755, "run": 0o755, "home": 0o755}.items():
        (stage / name).mkdir(parents=True, exist_ok=True)
        (stage / name).chmod(mode)


def _compile(program: Path, stage: Path, folders: list[Path]) -> None:
    """Else each worker would compile anew what it imports. Unchecked: files of an image do not change."""
    command = [program, "-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    where = [stage / each.relative_to("/") for each in folders]
    # Some packages have files of other Pythons' syntax; what does not compile now does not on import.
    subprocess.run([*command, "-s", stage, "-p", "/", *where], stdout=subprocess.DEVNULL, check=False)


def _fill_store() -> None:
    store, run = FOLDER / "store", FOLDER / "run"
    command = ["podman", "--root", store, "--runroot", run, "--storage-driver", "overlay"]
    # By a relative path: podman makes a name of it, and not every path can be one.
    subprocess.run(
        [*command, "pull", "-q", f"oci:oci:{NAME}"], cwd=FOLDER, stdout=subprocess.DEVNULL, check=True
    )
    image = read_layout(FOLDER / "oci").id
    subprocess.run([*command, "tag", image, f"localhost/{NAME}:latest"], check=True)
    subprocess.run([*command, "untag", image, "localhost/oci:latest"], check=True)
    # Podman makes the folder of layers a mount of its own.
    subprocess.run(["umount", store / "overlay"], stderr=subprocess.DEVNULL, check=False)
    for each in (run, store / "libpod"):
        shutil.rmtree(each, ignore_errors=True)


def main() -> int:
    """Makes the image and says what it is."""
    try:
        image = make()
    except (NodeError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(each.size for each in image.layers)
    print(f"{FOLDER.relative_to(ROOT)}: image {image.id[:12]}, {size / 1e6:.0f} MB packed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
