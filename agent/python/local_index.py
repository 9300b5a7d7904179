"""What pages of a package index on this machine lead to, where that is beside it: mirrors keep files apart.

A simple index (PEP 503, https://packaging.python.org/en/latest/specifications/simple-repository-api/) has a
folder for each package with a page of links, or with the files or symbolic links to them.
"""

from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import chain, islice
from pathlib import Path
from urllib.parse import urljoin

from ray_envd.agent.python.requirements import local_path

#: Packages looked at beside those that are asked for: what these need in turn lies as everything does.
_SAMPLE = 20
#: Pages are some kB a package; a longer one is no page of links.
_PAGE_BYTES = 16 * 1024 * 1024
#: Of the root folder and those in it, such as /usr.
_ROOT_PARTS = 2


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See :class:`HTMLParser`."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def beside(place: Path, names: Iterable[str]) -> list[Path]:
    """Folders outside of an index, or of a ``--find-links`` page or folder, that hold its files.

    Blocking, some milliseconds; call as the owner. What cannot be read leads nowhere: the tool tells if it
    matters.

    Args:
        place: the folder or page; absolute.
        names: of packages that are asked for, normalized.
    """
    top = place if place.is_dir() else place.parent
    targets = chain.from_iterable(map(_targets, _pages(place, names)))
    outside = {_folder(target, top) for target in targets if not target.is_relative_to(top)}
    return sorted(outside - {Path("/")})


def _pages(place: Path, names: Iterable[str]) -> Iterator[Path]:
    """The place itself, and folders of packages in it."""
    yield place
    yield from (place / name for name in names)
    try:
        yield from islice((each for each in place.iterdir() if each.is_dir()), _SAMPLE)
    except OSError:
        return


def _targets(page: Path) -> Iterator[Path]:
    """What a page links to, and a folder's symbolic links."""
    try:
        yield from (each.resolve() for each in (page.iterdir() if page.is_dir() else ()) if each.is_symlink())
        file = page / "index.html" if page.is_dir() else page
        if file.stat().st_size > _PAGE_BYTES:
            return
        links, base = _Links(), file.absolute().as_uri()
        links.feed(file.read_text(errors="replace"))
    except (OSError, RuntimeError):
        return
    for link in links.found:
        target = local_path(urljoin(base, link))
        if target is not None:
            yield target


def _folder(target: Path, top: Path) -> Path:
    """What has a file and its like: a sibling of the index or of a folder above it, but none near the root.

    A mirror's files may each have a folder; but ``/usr/lib`` is not taken for the folder of all files.
    """
    shared = next(path for path in target.parents if top.is_relative_to(path))
    if len(shared.parts) <= _ROOT_PARTS or shared == target.parent:
        return target.parent
    return shared / target.relative_to(shared).parts[0]
