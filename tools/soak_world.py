"""What the soak's tasks ask for: packages and archives made for it, and runtime envs drawn from them.

Standard library only: the driver imports it in Ray's own interpreter. With each env comes what a worker in it
must see, down to the digests of files, so that a wrong or half-built env is found out.
"""

import base64
import hashlib
import io
import json
import random
import string
import tarfile
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_WHEELS, _SDISTS, _ARCHIVES = 14, 4, 12
_VERSIONS = ("1.0", "2.0")
_SMALLEST, _LARGEST = 20_000, 4_000_000  # bytes of a wheel's payload
#: How often each kind of env is drawn.
_KINDS = {
    "env_vars": 14,
    "pip": 22,
    "uv": 22,
    "sdist": 12,
    "real pip": 3,
    "working_dir": 10,
    "py_modules": 6,
    "working_dir and pip": 8,
    "refused": 3,
}
_REPEATED = 0.35  # of the draws: an env that was drawn before
_REMEMBERED = 24
_BACKEND = """
import pathlib, subprocess, sys, time, zipfile

def build_wheel(folder, config=None, metadata=None):
    # Work that can be killed in the middle: a child, and a while.
    subprocess.run([sys.executable, "-c", "import time; time.sleep({seconds})"], check=True)
    source = pathlib.Path("built.whl")
    target = pathlib.Path(folder, "{wheel}")
    target.write_bytes(source.read_bytes())
    return target.name
"""


@dataclass(frozen=True)
class Package:
    """A distribution: what its module's payload must look like."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class Archive:
    """A zip for working_dir and py_modules: one module and one data file."""

    path: str
    module: str
    digest: str


@dataclass(frozen=True)
class Wanted:
    """A runtime env, and what a worker in it must find.

    Attributes:
        kind: a key of the table of kinds.
        runtime_env: what the task asks for.
        packages: distributions with the digests of their payloads.
        variables: values of env_vars.
        data: digest of ``data.bin`` in the worker's folder; empty: not looked at.
        modules: module -> its payload's digest.
        refused: what the error must say; empty where the env can be made.
    """

    kind: str
    runtime_env: dict[str, Any]
    packages: tuple[Package, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    data: str = ""
    modules: dict[str, str] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True)
class World:
    """Everything there is to ask for."""

    links: str
    packages: tuple[Package, ...]
    sdists: tuple[Package, ...]
    archives: tuple[Archive, ...]

    @classmethod
    def make(cls, folder: Path, seed: int) -> "World":
        """Writes the files; some tens of megabytes."""
        chance = random.Random(seed)
        links, zips = folder / "links", folder / "zips"
        for place in (links, zips):
            place.mkdir(parents=True)
        names = [f"soak-{letter}" for letter in string.ascii_lowercase[:_WHEELS]]
        packages = [_wheel(links, name, version, chance) for name in names for version in _VERSIONS]
        sdists = [_sdist(links, f"soak-slow-{number}", chance) for number in range(_SDISTS)]
        archives = [_archive(zips, f"bundle{number}", chance) for number in range(_ARCHIVES)]
        world = cls(str(links), tuple(packages), tuple(sdists), tuple(archives))
        (folder / "world.json").write_text(json.dumps(asdict(world)))
        return world

    @classmethod
    def read(cls, folder: Path) -> "World":
        """What :meth:`make` wrote."""
        raw = json.loads((folder / "world.json").read_text())
        return cls(
            raw["links"],
            tuple(Package(**each) for each in raw["packages"]),
            tuple(Package(**each) for each in raw["sdists"]),
            tuple(Archive(**each) for each in raw["archives"]),
        )


class Draws:
    """Draws envs, some of them again."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._chance = world, random.Random(seed)
        self._drawn: list[Wanted] = []
        self._number = 0

    def next(self) -> Wanted:
        """One env."""
        if self._drawn and self._chance.random() < _REPEATED:
            return self._chance.choice(self._drawn)
        (kind,) = self._chance.choices(list(_KINDS), list(_KINDS.values()))
        wanted = self.of(kind)
        self._drawn = [*self._drawn, wanted][-_REMEMBERED:]
        return wanted

    def of(self, kind: str) -> Wanted:
        """A new env of this kind."""
        self._number += 1
        variables = {"SOAK_ENV": f"{self._chance.getrandbits(40):x}-{self._number}"}
        common: dict[str, Any] = {"env_vars": variables}
        if kind == "env_vars":
            return Wanted(kind, common, variables=variables)
        if kind == "refused":
            name = f"soak-missing-{self._chance.getrandbits(40):x}"
            return Wanted(kind, {**common, "pip": self._pip(f"{name}==1.0")}, refused=name)
        if kind in {"pip", "uv", "real pip", "sdist"}:
            return self._packages(kind, common, variables)
        return self._archives(kind, common, variables)

    def _packages(self, kind: str, common: dict[str, Any], variables: dict[str, str]) -> Wanted:
        chosen = self._choose(1 if kind == "sdist" else 0)
        pins = [f"{package.name}=={package.version}" for package in chosen]
        chance = self._chance.random()
        if kind == "uv" or (kind == "sdist" and chance < 1 / 2):
            options = ["--no-index", "--find-links", self._world.links]
            installed: dict[str, Any] = {"uv": {"packages": pins, "uv_pip_install_options": options}}
        elif kind == "real pip":
            # uv has no such option, so pip itself has to do it.
            options = ["--no-index", "--find-links", self._world.links, "--ignore-installed"]
            installed = {"pip": {"packages": pins, "pip_install_options": options}}
        else:
            installed = {"pip": self._pip(*pins)}
        return Wanted(kind, {**common, **installed}, chosen, variables)

    def _archives(self, kind: str, common: dict[str, Any], variables: dict[str, str]) -> Wanted:
        archive = self._chance.choice(self._world.archives)
        uri, modules = f"file://{archive.path}", {archive.module: archive.digest}
        if kind == "py_modules":
            return Wanted(kind, {**common, "py_modules": [uri]}, variables=variables, modules=modules)
        env = {**common, "working_dir": uri}
        chosen: tuple[Package, ...] = ()
        if kind == "working_dir and pip":
            chosen = self._choose(0)
            env["pip"] = self._pip(*(f"{package.name}=={package.version}" for package in chosen))
        return Wanted(kind, env, chosen, variables, archive.digest, modules)

    def _choose(self, sdists: int) -> tuple[Package, ...]:
        built = self._chance.sample(self._world.sdists, sdists)
        some = self._chance.sample(self._world.packages, self._chance.randint(1, 3))
        return tuple({package.name: package for package in (*built, *some)}.values())

    def _pip(self, *pins: str) -> list[str]:
        return [f"--find-links {self._world.links}", "--no-index", *pins]


# making


def job_folder(folder: Path, name: str, seed: int) -> tuple[Path, str]:
    """A folder for a job's own working_dir, which Ray uploads; and the digest of its data."""
    place = folder / name
    place.mkdir(parents=True)
    content = random.Random(seed).randbytes(50_000)
    (place / "data.bin").write_bytes(content)
    return place, _sha256(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _payload(chance: random.Random) -> bytes:
    """Most are small, some are large; it does not compress."""
    return chance.randbytes(int(_SMALLEST * (_LARGEST / _SMALLEST) ** chance.random()))


def _wheel_bytes(name: str, version: str, payload: bytes) -> bytes:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n".encode(),
        f"{module}/data.bin": payload,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: soak\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return made.getvalue()


def _file_name(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def _wheel(folder: Path, name: str, version: str, chance: random.Random) -> Package:
    payload = _payload(chance)
    (folder / _file_name(name, version)).write_bytes(_wheel_bytes(name, version, payload))
    return Package(name, version, _sha256(payload))


def _sdist(folder: Path, name: str, chance: random.Random) -> Package:
    version, payload = "1.0", _payload(chance)
    seconds = round(0.5 + chance.random() * 1.5, 2)
    files = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": _BACKEND.format(seconds=seconds, wheel=_file_name(name, version)),
    }
    contents = {path: text.encode() for path, text in files.items()}
    contents["built.whl"] = _wheel_bytes(name, version, payload)
    with tarfile.open(folder / f"{name.replace('-', '_')}-{version}.tar.gz", "w:gz") as archive:
        for path, content in contents.items():
            member = tarfile.TarInfo(f"{name.replace('-', '_')}-{version}/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Package(name, version, _sha256(payload))


def _archive(folder: Path, module: str, chance: random.Random) -> Archive:
    payload = _payload(chance)
    path = folder / f"{module}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/data.bin", payload)
        archive.writestr(f"top/{module}/__init__.py", "")
        archive.writestr(f"top/{module}/data.bin", payload)
    return Archive(str(path), module, _sha256(payload))
