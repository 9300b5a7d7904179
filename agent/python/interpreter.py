"""The raylet's Python: what it is, what it can import, and noticing when that changes."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ray_envd.agent import process
from ray_envd.agent.errors import ToolMissingError, UnsupportedError
from ray_envd.agent.python.remembered import Remembered
from ray_envd.agent.python.tool_errors import interrupted
from ray_envd.cache.owner import Owner, acting_as

_log = logging.getLogger(__name__)
PROBE_SCRIPT = Path(__file__).with_name("probe_script.py")
_PREFIX = "ray-envd-probe:"
_OLDEST = (3, 9)
#: What decides which folders an interpreter looks into.
_VARIABLES = ("HOME", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUSERBASE")


#: Inode, size, and the times of the last modification and change in nanoseconds.
Stamp = tuple[int, int, int, int]
#: Executable, uid, flags, then the values of _VARIABLES: what decides a probe's findings.
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed distribution, with as much of its metadata as a resolver reads.

    ``name`` is normalised (PEP 503); ``direct_url`` is the text of PEP 610's file.
    """

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    requires_python: str | None = None
    direct_url: str | None = None


@dataclass(frozen=True)
class Interpreter:
    """A Python that overlays are put on.

    Attributes:
        executable: what the raylet runs, e.g. a virtual environment's ``bin/python``.
        base_executable: the real binary below every virtual environment.
        purelib: site-packages of a virtual environment of it, relative to that one's root.
        site_dirs: its site folders in the order of its sys.path (user site before system site).
        distributions: everything importable, ordered by name, each name once.
        ray_version: of the Ray it imports; None where there is none.
        image: the id of the image that has it, in which all of its paths are; empty for the host.
    """

    executable: str
    version: str
    implementation: str
    abi: str
    prefix: str
    base_prefix: str
    base_executable: str
    purelib: str
    site_dirs: tuple[str, ...]
    markers: Mapping[str, str]
    distributions: tuple[Distribution, ...]
    ray_version: str | None
    ray_path: str | None
    #: Of each file and folder whose change may change any of the above.
    stamps: Mapping[str, "Stamp | None"] = field(repr=False)
    image: str = ""

    @property
    def is_venv(self) -> bool:
        """Whether it is a virtual environment's."""
        return self.prefix != self.base_prefix

    @cached_property
    def installed(self) -> Mapping[str, str]:
        """Version by normalised name."""
        return {dist.name: dist.version for dist in self.distributions}

    @cached_property
    def digest(self) -> str:
        """Covers everything that decides what an overlay on it must hold, and where it may be used."""
        facts = [
            self.executable,
            self.version,
            self.abi,
            self.prefix,
            self.base_executable,
            self.purelib,
            self.site_dirs,
            [self.markers[name] for name in ("platform_machine", "sys_platform", "implementation_name")],
            [
                (d.name, d.version, d.requires, d.extras, d.requires_python, d.direct_url)
                for d in self.distributions
            ],
            self.ray_version,
            *([self.image] if self.image else []),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Interpreters:
    """Probes interpreters, and remembers each one for as long as nothing it can import has changed.

    In memory, and on disk for the daemon that comes next.
    """

    def __init__(self, folder_of: Callable[[Owner], Path] | None = None) -> None:
        """A memory.

        Args:
            folder_of: makes and names the folder where an owner's are kept, blocking; None keeps none.
        """
        self._folder_of = folder_of
        self._known: dict[_Key, Interpreter] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}

    async def probe(
        self,
        executable: str,
        *,
        owner: Owner,
        environment: Mapping[str, str],
        python_flags: Iterable[str] = (),
    ) -> Interpreter:
        """The interpreter at this absolute path as it is now; some 0.2 ms where nothing has changed.

        A change is noticed by the inodes and times of its binary, its pyvenv.cfg, its site folders and the
        folders on its path: what every installer touches.

        Args:
            executable: absolute path.
            owner: as whom it is run.
            environment: what it is run with; PYTHONPATH and the like change what it can import.
            python_flags: such as ``-s``.

        Raises:
            ToolMissingError: it does not exist, may not be run or is no Python.
            UnsupportedError: it is older than 3.9.
        """
        flags = tuple(python_flags)
        key = (executable, owner.uid, flags, *(environment.get(name) for name in _VARIABLES))
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known.get(key)
            if known is not None and await asyncio.to_thread(_is_current, known, owner):
                return known
            interpreter = await asyncio.to_thread(self._recall, key, executable, owner)
            if interpreter is None:
                facts = await _probe(executable, owner, environment, flags)
                interpreter = read_interpreter(executable, facts)
                await asyncio.to_thread(self._keep, key, facts, owner)
            self._known[key] = interpreter
            return interpreter

    def _recall(self, key: _Key, executable: str, owner: Owner) -> Interpreter | None:
        """What an earlier daemon found, if it is still so."""
        if self._folder_of is None:
            return None
        remembered = Remembered(self._folder_of(owner))
        with acting_as(owner):
            facts = remembered.get(_lasting(key))
        if facts is None:
            return None
        try:
            interpreter = read_interpreter(executable, facts)
            return interpreter if _is_current(interpreter, owner) else None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UnsupportedError):
            return None  # not what a probe writes: somebody's own doing

    def _keep(self, key: _Key, facts: Mapping[str, Any], owner: Owner) -> None:
        if self._folder_of is None:
            return
        try:
            remembered = Remembered(self._folder_of(owner))
            with acting_as(owner):
                remembered.put(_lasting(key), facts)
        except OSError as error:
            _log.warning("what was found of an interpreter is not kept: %s", error)


def _lasting(key: _Key) -> list[object]:
    """A key that also tells daemons and kernels apart: their versions decide what a probe says."""
    system = os.uname()
    script = hashlib.sha256(PROBE_SCRIPT.read_bytes()).hexdigest()
    return [script, *key, system.release, system.version, system.machine]


def _is_current(interpreter: Interpreter, owner: Owner) -> bool:
    with acting_as(owner):
        return all(_stamp(path) == stamp for path, stamp in interpreter.stamps.items())


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - runs for every request: pathlib doubles its cost
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


async def _probe(
    executable: str, owner: Owner, environment: Mapping[str, str], flags: tuple[str, ...]
) -> dict[str, Any]:
    source = await asyncio.to_thread(PROBE_SCRIPT.read_text)
    completed = await process.run([executable, *flags, "-c", source], env=environment, cwd="/", owner=owner)
    found = [line for line in completed.lines if line.startswith(_PREFIX)]
    if completed.killed_by:
        raise interrupted(executable, completed, field=None, log=None, doing="say what it is")
    if completed.returncode or not found:
        raise ToolMissingError(
            f"{executable} does not run as a Python interpreter of version 3.9 or later",
            remedy="check the raylet's interpreter with `ray-envd doctor`",
            output=completed.tail(),
        )
    facts: dict[str, Any] = json.loads(found[-1].removeprefix(_PREFIX))
    return facts


def read_interpreter(executable: str, facts: Mapping[str, Any], *, image: str = "") -> Interpreter:
    """What a probe found.

    Raises:
        UnsupportedError: it is older than 3.9.
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: that is not what a probe writes.
    """
    if tuple(map(int, facts["version"].split(".")[:2])) < _OLDEST:
        raise UnsupportedError(
            f"{executable} is Python {facts['version']}", remedy="use Python 3.9 or later for Ray"
        )
    distributions = tuple(
        Distribution(
            name=dist["name"],
            version=dist["version"],
            requires=tuple(dist["requires"]),
            extras=tuple(dist["extras"]),
            requires_python=dist["requires_python"],
            direct_url=dist["direct_url"],
        )
        for dist in facts["distributions"]
    )
    if facts["ray_version"] and "ray" not in (dist.name for dist in distributions):
        distributions += (Distribution("ray", facts["ray_version"]),)  # run from its source tree
    same = ("version", "implementation", "abi", "prefix", "base_prefix", "base_executable", "purelib")
    return Interpreter(
        executable=executable,
        **{name: facts[name] for name in same},
        site_dirs=tuple(facts["site_dirs"]),
        markers=facts["markers"],
        distributions=distributions,
        ray_version=facts["ray_version"],
        ray_path=facts["ray_path"],
        stamps={path: tuple(stamp) if stamp else None for path, stamp in facts["stamps"].items()},
        image=image,
    )
