"""file://, and what holds for every download: owners, cancellation, what is left behind."""

import asyncio
import hashlib
import os
import resource
import threading
from pathlib import Path

import pytest
from fetch_servers import FIELD, MakeContext, Request, Serve, ServeGcs, content, names, remove, write

from ray_envd.agent.errors import DownloadError, NeverFitsError, OutOfSpaceError
from ray_envd.agent.fetch import GcsEndpoint, fetch, validator
from ray_envd.cache.owner import Owner

STRANGER = Owner(64321, 64321, "/nonexistent", "64321")


async def test_a_file_is_copied(make_context: MakeContext, target: Path, tmp_path: Path) -> None:
    """Its name may be quoted or not."""
    data = content(write(tmp_path / "my code.zip", os.urandom(3_000_000)))
    for name in ("my code.zip", "my%20code.zip"):
        done = await fetch(f"file://{tmp_path}/{name}", target, make_context(), field=FIELD)
        assert done.sha256 == hashlib.sha256(data).hexdigest()
        assert content(target) == data
        remove(target)


async def test_the_validator_changes_with_the_file(make_context: MakeContext, tmp_path: Path) -> None:
    """Size, time and identity: an exchange that keeps the size is seen too."""
    source = tmp_path / "code.zip"
    write(source, b"1")
    tokens = [await validator(f"file://{source}", make_context(), field=FIELD)]
    os.utime(source, ns=(1, 1))
    tokens.append(await validator(f"file://{source}", make_context(), field=FIELD))
    write(tmp_path / "new", b"2")
    os.utime(tmp_path / "new", ns=(1, 1))
    (tmp_path / "new").replace(source)
    tokens.append(await validator(f"file://{source}", make_context(), field=FIELD))
    assert len(set(tokens)) == 3
    assert tokens[-1] == await validator(f"file://{source}", make_context(), field=FIELD)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "below a file"])
async def test_what_is_no_file_is_refused_at_once(
    kind: str, make_context: MakeContext, target: Path, tmp_path: Path
) -> None:
    """Above all a pipe, whose opening would wait for a writer for ever."""
    source = tmp_path / "code.zip"
    if kind == "folder":
        source.mkdir()
    elif kind == "pipe":
        os.mkfifo(source)
    elif kind == "below a file":
        source.touch()
        source /= "x.zip"
    with pytest.raises(DownloadError) as caught:
        await asyncio.wait_for(fetch(f"file://{source}", target, make_context(), field=FIELD), 10)
    assert type(caught.value) is DownloadError
    assert names(target.parent) == []


async def test_the_limit_of_bytes_holds(make_context: MakeContext, target: Path, tmp_path: Path) -> None:
    """Exactly."""
    write(tmp_path / "code.zip", b"12345")
    with pytest.raises(NeverFitsError):
        await fetch(f"file://{tmp_path}/code.zip", target, make_context(max_bytes=4), field=FIELD)
    await fetch(f"file://{tmp_path}/code.zip", target, make_context(max_bytes=5), field=FIELD)


async def test_a_full_disk_is_told_as_such(make_context: MakeContext, target: Path, tmp_path: Path) -> None:
    """A file larger than a process may write stands for it; the partial file is gone."""
    source = write(tmp_path / "code.zip", b"1" * 3_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # inherited; Python ignores SIGXFSZ
    try:
        with pytest.raises(OutOfSpaceError):
            await fetch(f"file://{source}", target, make_context(), field=FIELD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(target.parent) == []


@pytest.mark.parametrize("scheme", ["file", "gcs"])
async def test_an_existing_destination_is_left_alone(
    scheme: str, make_context: MakeContext, serve_gcs: ServeGcs, tmp_path: Path
) -> None:
    """Neither overwritten nor removed, be it a file or a link to one."""
    write(tmp_path / "code.zip", b"new")
    write(tmp_path / "other", b"old")
    (tmp_path / "link").symlink_to("other")
    store = serve_gcs()
    store.values[b"gcs://_ray_pkg_a.zip"] = b"new"
    context = make_context(gcs=GcsEndpoint(store.address))
    uri = f"file://{tmp_path}/code.zip" if scheme == "file" else "gcs://_ray_pkg_a.zip"
    for name in ("other", "link"):
        with pytest.raises(DownloadError, match="already"):
            await fetch(uri, tmp_path / name, context, field=FIELD)
    assert (tmp_path / "other").read_bytes() == b"old"
    assert (tmp_path / "link").is_symlink()


async def test_a_destination_that_cannot_be_written_is_told(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """The cause names the reason."""
    write(tmp_path / "code.zip", b"1")
    with pytest.raises(DownloadError, match="No such file"):
        await fetch(f"file://{tmp_path}/code.zip", tmp_path / "no/package", make_context(), field=FIELD)


async def test_a_cancelled_download_ends_its_program_and_leaves_no_file(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """While the server is still talking."""
    started, release = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 30))
        request.end_headers()
        request.wfile.write(b"1" * (2 << 20))
        started.set()
        release.wait(20)

    arriving = asyncio.Event()
    uri = f"{serve(slow).url}/code.zip"

    def heard(done: int, _total: int | None) -> None:
        if done:  # the first word comes before the file
            arriving.set()

    task = asyncio.create_task(fetch(uri, target, make_context(), field=FIELD, report=heard))
    try:
        await asyncio.wait_for(arriving.wait(), 20)
        assert names(target.parent) == ["package"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        release.set()
    assert names(target.parent) == []
    assert _children_named(b"ray_envd.agent.fetcher") == []


def _children_named(word: bytes) -> list[str]:
    """Processes of ours that run this module."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                if f"\nPPid:\t{os.getpid()}\n" in status and word in (entry / "cmdline").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
    return found


@pytest.fixture
def open_tmp(short_tmp: Path, other_users: None) -> Path:
    """A folder that every user may pass through."""
    short_tmp.chmod(0o755)
    return short_tmp


@pytest.mark.parametrize("scheme", ["file", "gcs", "http"])
async def test_the_file_belongs_to_its_owner(
    scheme: str, open_tmp: Path, make_context: MakeContext, serve_gcs: ServeGcs, serve: Serve
) -> None:
    """Also where the daemon is root."""
    write(open_tmp / "code.zip", b"new")
    own = open_tmp / "own"
    own.mkdir(mode=0o700)
    os.chown(own, STRANGER.uid, STRANGER.gid)
    store = serve_gcs()
    store.values[b"gcs://_ray_pkg_a.zip"] = b"new"
    web = serve(lambda request: request.answer(b"new"))
    uri = {
        "file": f"file://{open_tmp}/code.zip",
        "gcs": "gcs://_ray_pkg_a.zip",
        "http": f"{web.url}/code.zip",
    }[scheme]
    context = make_context(owner=STRANGER, gcs=GcsEndpoint(store.address))
    await fetch(uri, own / "package", context, field=FIELD)
    facts = (own / "package").stat()
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (STRANGER.uid, STRANGER.gid, 0o600)


@pytest.mark.parametrize("scheme", ["file", "gcs"])
async def test_root_lends_nobody_its_rights(
    scheme: str, open_tmp: Path, make_context: MakeContext, serve_gcs: ServeGcs
) -> None:
    """Neither to write into another user's folder, nor to read another user's file."""
    private = open_tmp / "private"
    private.mkdir(mode=0o700)
    write(private / "code.zip", b"secret")
    write(open_tmp / "code.zip", b"new")
    write(open_tmp / "group.zip", b"secret")
    (open_tmp / "group.zip").chmod(0o640)  # of root's group: that membership is not lent either
    store = serve_gcs()
    store.values[b"gcs://_ray_pkg_a.zip"] = b"new"
    context = make_context(owner=STRANGER, gcs=GcsEndpoint(store.address))
    uri = f"file://{open_tmp}/code.zip" if scheme == "file" else "gcs://_ray_pkg_a.zip"
    with pytest.raises(DownloadError, match="Permission denied"):
        await fetch(uri, private / "package", context, field=FIELD)
    assert sorted(path.name for path in private.iterdir()) == ["code.zip"]
    own = open_tmp / "own"
    own.mkdir()
    os.chown(own, STRANGER.uid, STRANGER.gid)
    for name in ("private/code.zip", "group.zip"):
        with pytest.raises(DownloadError, match="Permission denied"):
            await fetch(f"file://{open_tmp}/{name}", own / "package", context, field=FIELD)
    assert list(own.iterdir()) == []
