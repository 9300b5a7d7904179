"""What the options of a field come to for uv; the common form of pip's and uv's own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_envd.agent.python.requirements import local_path

_SUFFIX = re.compile(r"(?:\.tar\.gz|\.zip)$")


@dataclass(frozen=True)
class Sources:
    """Where packages come from. URLs may hold credentials: never in an argv or a log."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False

    def lines(self) -> list[str]:
        """As option lines of a requirements file."""
        lines = ["--no-index"] if self.no_index else []
        if self.index_url and not self.no_index:
            lines.append(f"--index-url {self.index_url}")
        if not self.no_index:
            lines += [f"--extra-index-url {url}" for url in self.extra_index_urls]
        return lines + [f"--find-links {place}" for place in self.find_links]

    @property
    def indexes(self) -> tuple[str, ...]:
        """Every index that is asked; the default one is ``""``."""
        return () if self.no_index else (self.index_url or "", *self.extra_index_urls)

    @property
    def several_remote(self) -> bool:
        """Whether more than one place on other machines may hold a package.

        Then what is cached of one of them says nothing about the others, and an offline answer may differ
        from the true one.
        """
        return sum(local_path(url) is None for url in self.indexes) + self.remote_links > 1

    @property
    def remote_links(self) -> int:
        """How many ``--find-links`` pages are on other machines."""
        return sum("://" in place and local_path(place) is None for place in self.find_links)

    def relevant(self, names: frozenset[str]) -> "Sources":
        """Without the local places that hold none of these packages: they cannot have supplied them."""
        return Sources(
            index_url=self.index_url,
            extra_index_urls=tuple(url for url in self.extra_index_urls if _index_has(url, names)),
            find_links=tuple(place for place in self.find_links if _place_has(place, names)),
            no_index=self.no_index,
        )

    def local_state(self) -> list[str]:
        """The local folders and when something was last put into or taken from them; blocking."""
        folders = [folder for place in self.find_links if (folder := _folder(place)) is not None]
        return [f"{folder} {_stat(folder)[2]}" for folder in folders]

    def local_files(self, name: str, version: str) -> list[Path]:
        """The files of a version of a package in local folders; blocking."""
        folders = [folder for place in self.find_links if (folder := _folder(place)) is not None]
        found = [file for folder in folders for file in _matching(folder, frozenset({name}))]
        return [file for file in found if _SUFFIX.sub("", file.name).split("-")[1:2] == [version]]

    def stamp(self, names: frozenset[str]) -> list[object]:
        """What tells a changed place from an unchanged one: the matching files of local folders; blocking."""
        stamps: list[object] = []
        for place in self.find_links:
            folder = _folder(place)
            if folder is not None:
                stamps.append(sorted(_stat(file) for file in _matching(folder, names)))
        return stamps


@dataclass(frozen=True)
class Options:
    """Options of ``pip install`` or ``uv pip install`` as uv is given them.

    Attributes:
        resolve: arguments for the resolution only.
        both: arguments for resolution and installation: they also decide what a wheel holds.
        transport: arguments for both that change only how packages are fetched.
        variables: for uv's environment: what may be secret, or has no argument.
        fresh: whether the index must be asked even if everything is cached.
        only_pip: those that only the real pip understands; uv then is not the engine.
        notes: what a user should know, for the set-up log.
    """

    sources: Sources = Sources()
    resolve: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    transport: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    only_pip: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _folder(place: str) -> Path | None:
    if "://" in place:
        return local_path(place)
    return Path(place)


def _index_has(url: str, names: frozenset[str]) -> bool:
    folder = local_path(url)
    return folder is None or any((folder / name).exists() for name in names)


def _place_has(place: str, names: frozenset[str]) -> bool:
    folder = _folder(place)
    return folder is None or bool(_matching(folder, names))


def _matching(folder: Path, names: frozenset[str]) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if any(_is_of(entry.name, name) for name in names)]


def _is_of(file: str, name: str) -> bool:
    normal = file.lower().replace("_", "-").replace(".", "-")
    return normal.startswith(f"{name}-")


def _stat(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, 0, 0
    return path.name, status.st_size, status.st_mtime_ns
