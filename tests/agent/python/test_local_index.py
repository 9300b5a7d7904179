"""Where the files of an index on this machine are."""

import os
from pathlib import Path

from ray_envd.agent.python.local_index import beside


def _page(folder: Path, *targets: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    links = "".join(f'<a href="{target}#sha256=0">{Path(target).name}</a>\n' for target in targets)
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return folder


def test_a_mirror_keeps_files_beside_its_pages(tmp_path: Path) -> None:
    """One folder for all of them, whether each has a folder of its own in it or not."""
    _page(tmp_path / "simple" / "one", "../../files/one-1-py3-none-any.whl")
    _page(tmp_path / "simple" / "two", "../../packages/ab/cd/two-1-py3-none-any.whl")
    assert beside(tmp_path / "simple", ["one"]) == [tmp_path / "files", tmp_path / "packages"]


def test_what_is_in_the_index_or_far_away_is_not_beside_it(tmp_path: Path) -> None:
    """Files below the pages, and those of servers."""
    _page(
        tmp_path / "simple" / "one", "one-1.whl", "https://example.org/one-2.whl", "//example.org/one-3.whl"
    )
    assert beside(tmp_path / "simple", ["one", "missing"]) == []
    assert beside(tmp_path / "missing", ["one"]) == []


def test_links_of_the_file_system(tmp_path: Path) -> None:
    """In a folder of wheels, and in an index whose packages have no pages."""
    wheels = tmp_path / "wheels"
    for folder in (wheels, tmp_path / "found", tmp_path / "simple" / "one"):
        folder.mkdir(parents=True)
    (wheels / "one-1-py3-none-any.whl").touch()
    for folder in (tmp_path / "found", tmp_path / "simple" / "one"):
        (folder / "one-1-py3-none-any.whl").symlink_to(wheels / "one-1-py3-none-any.whl")
    assert beside(tmp_path / "found", []) == [wheels]
    assert beside(tmp_path / "simple", []) == [wheels]


def test_a_page_of_links_and_a_file_that_is_none(tmp_path: Path) -> None:
    """``--find-links page.html``; what cannot be read leads nowhere."""
    page = _page(tmp_path / "pages", f"{(tmp_path / 'a b' / 'one-1.whl').as_uri()}") / "index.html"
    assert beside(page, []) == [tmp_path / "a b"]
    page.write_bytes(os.urandom(1000))
    assert beside(page, []) == []


def test_no_folder_of_the_root_is_taken_whole(tmp_path: Path) -> None:
    """It would hide the image's own: the file's folder is enough there."""
    _page(tmp_path / "simple" / "one", "file:///usr/share/python-wheels/one-1.whl", "file:///two-1.whl")
    assert beside(tmp_path / "simple", []) == [Path("/usr/share/python-wheels")]
