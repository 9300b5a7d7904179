"""Resolution over a real interpreter with real uv; the packages are made here."""

import asyncio
import threading
from pathlib import Path

import pytest
from package_world import Index, Kit, commit_all, make_project, make_wheel, read_text, sha256

from ray_envd.agent.errors import DownloadError, InvalidSpecError, NetworkError, ResolutionError, Retry
from ray_envd.agent.python.spec import parse_pip, parse_uv


async def test_what_is_there_is_not_installed_again(kit: Kit) -> None:
    """Ray and its dependency satisfy; the set is what remains, and it is empty if nothing does."""
    assert (await kit.lock(kit.pip("dep", "ray"))).pins == ()
    assert (await kit.lock(kit.pip("top"))).pins == (("tiny", "1.0"), ("top", "1.0"))


async def test_another_version_is_part_of_the_set(kit: Kit) -> None:
    """A version that the interpreter does not have is installed over it."""
    assert (await kit.lock(kit.pip("dep==2.0"))).pins == (("dep", "2.0"),)


async def test_two_specs_with_one_set_have_one_digest(kit: Kit) -> None:
    """Another field, order, spelling or detour by dependencies does not make another environment."""
    expected = await kit.lock(kit.pip("top", "tiny"))
    for spec in (
        kit.uv("tiny==1.0", "top==1.0"),
        kit.pip("top"),
        kit.uv("TOP", uv_pip_install_options=["--no-cache"]),
    ):
        assert (await kit.lock(spec)).digest == expected.digest
    assert (await kit.lock(kit.pip("tiny"))).digest != expected.digest


async def test_the_base_is_part_of_the_digest(kit: Kit, tmp_path: Path) -> None:
    """The same set over an interpreter with other packages is another environment."""
    first = await kit.lock(kit.pip("tiny==1.0"))
    (tmp_path / "extra/own-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "extra/own-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n"
    )
    kit.environment["PYTHONPATH"] = str(tmp_path / "extra")
    assert (await kit.lock(kit.pip("tiny==1.0"))).digest != first.digest


async def test_a_replaced_wheel_is_another_set(kit: Kit) -> None:
    """The same version with another content, found in a local folder, is not taken for the old one."""
    first = await kit.lock(kit.pip("tiny==1.0"))
    make_wheel(kit.wheels, "tiny", "1.0", body="# changed")
    assert (await kit.lock(kit.pip("tiny==1.0"))).digest != first.digest


async def test_an_unrelated_wheel_is_not(kit: Kit) -> None:
    """What else lies in the folder does not split environments."""
    first = await kit.lock(kit.pip("tiny==1.0"))
    make_wheel(kit.wheels, "unrelated", "1.0")
    assert (await kit.lock(kit.pip("tiny==1.0"))).digest == first.digest


@pytest.mark.parametrize("requirement", ["ray==2.40.0", "needsray"])
async def test_changing_rays_version_is_stocks_error(kit: Kit, requirement: str) -> None:
    """Named or pulled in, another Ray is refused before anything is installed."""
    make_wheel(kit.wheels, "ray", "2.40.0")
    make_wheel(kit.wheels, "needsray", "1.0", ["ray<2.50"])
    with pytest.raises(ResolutionError, match="Changing the ray version is not allowed") as caught:
        await kit.lock(kit.uv(requirement))
    assert "2.60.0" in caught.value.cause
    assert "2.40.0" in caught.value.cause


async def test_no_solution_keeps_the_resolvers_words(kit: Kit) -> None:
    """The user reads which package and why, and where the whole output stands."""
    with pytest.raises(ResolutionError) as caught:
        await kit.lock(kit.pip("top", "tiny==2.0"))
    text = str(caught.value)
    assert "top" in text
    assert "tiny" in text
    assert caught.value.retry is Retry.PERMANENT
    assert caught.value.log is not None
    assert "unsatisfiable" in read_text(caught.value.log)


async def test_a_malformed_option_is_an_invalid_spec(kit: Kit) -> None:
    """Uv's complaint about an option is the user's to correct."""
    with pytest.raises(InvalidSpecError):
        await kit.lock(kit.uv("tiny", uv_pip_install_options=["--resolution=sideways"]))


async def test_an_index_is_asked_once_and_then_the_cache(kit: Kit, index: Index) -> None:
    """Offline comes first: a second resolution asks nobody."""
    index.add(make_wheel(kit.root / "more", "far", "1.0"))
    spec = parse_pip(["far==1.0", f"-i {index.url()}"])
    assert (await kit.lock(spec)).pins == (("far", "1.0"),)
    asked = len(index.requests)
    assert asked
    assert (await kit.lock(spec)).pins == (("far", "1.0"),)
    assert len(index.requests) == asked


async def test_a_slow_index_holds_up_nobody_else(kit: Kit, index: Index) -> None:
    """While one resolution waits for its index, another over the same interpreter is done."""
    index.add(make_wheel(kit.root / "more", "far", "1.0"))
    await kit.shadow()
    index.stall = threading.Event()
    slow = asyncio.create_task(kit.lock(parse_pip(["far", f"-i {index.url()}"])))
    try:
        assert await asyncio.to_thread(index.asked.wait, 20)
        async with asyncio.timeout(10):
            assert (await kit.lock(kit.pip("tiny==1.0"))).pins == (("tiny", "1.0"),)
        assert not slow.done()
    finally:
        index.stall.set()
    assert (await slow).pins == (("far", "1.0"),)


async def test_nothing_asked_for_is_an_empty_set(kit: Kit) -> None:
    """A field of options or of nothing resolves to nothing."""
    assert (await kit.lock(kit.pip())).pins == (await kit.lock(parse_uv([]))).pins == ()


async def test_fresh_falls_back_to_the_cache_if_the_index_is_down(kit: Kit, index: Index) -> None:
    """An unreachable index costs freshness, not the environment; without a cached answer it is an error."""
    index.add(make_wheel(kit.root / "more", "far", "1.0"))
    spec = parse_uv({"packages": ["far"], "uv_pip_install_options": ["--refresh-package=far"]})
    kit.environment |= {"UV_INDEX_URL": index.url()}
    plain = parse_uv(["far"])
    assert (await kit.lock(plain)).pins == (("far", "1.0"),)
    index.status = 503
    with pytest.raises(NetworkError) as caught:
        await kit.lock(spec)
    assert caught.value.retry is Retry.TRANSIENT
    kit.environment |= {"UV_HTTP_RETRIES": "0"}
    assert (await kit.lock(plain, fresh=True)).pins == (("far", "1.0"),)


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, NetworkError), (503, NetworkError), (403, DownloadError), (404, ResolutionError)],
)
async def test_what_an_index_answers_is_told_apart(
    kit: Kit, index: Index, status: int, error: type[Exception]
) -> None:
    """What may pass is transient; what lasts is not."""
    index.status = status
    kit.environment |= {"PIP_RETRIES": "0"}
    with pytest.raises(error) as caught:
        await kit.lock(parse_pip(["far", f"-i {index.url()}"]))
    assert type(caught.value) is error


async def test_a_refused_connection_is_transient(kit: Kit, index: Index) -> None:
    """An index that is down is tried again."""
    index.close()
    kit.environment |= {"PIP_RETRIES": "0"}
    with pytest.raises(NetworkError):
        await kit.lock(parse_pip(["far", f"-i {index.url()}"]))


async def test_pip_looks_at_every_index(kit: Kit, index: Index) -> None:
    """The best version of all indexes is taken for the pip field, uv's first index for the uv field."""
    other = Index()
    try:
        index.add(make_wheel(kit.root / "one", "far", "1.0"))
        other.add(make_wheel(kit.root / "two", "far", "2.0"))
        lines = ["far", f"-i {other.url()}", f"--extra-index-url {index.url()}"]
        assert (await kit.lock(parse_pip(lines))).pins == (("far", "2.0"),)
        assert (await kit.lock(parse_uv(lines))).pins == (("far", "1.0"),)
    finally:
        other.close()


async def test_what_is_cached_of_one_index_does_not_hide_another(kit: Kit, index: Index) -> None:
    """With a second index the cache of the first is not the answer, though it has one."""
    other = Index()
    try:
        index.add(make_wheel(kit.root / "one", "far", "1.0"))
        other.add(make_wheel(kit.root / "two", "far", "2.0"))
        lines = ["far", f"-i {index.url()}"]
        assert (await kit.lock(parse_pip(lines))).pins == (("far", "1.0"),)
        assert (await kit.lock(parse_pip([*lines, f"--extra-index-url {other.url()}"]))).pins == (
            ("far", "2.0"),
        )
        links = f"--find-links http://{other.host}/simple/far/"
        assert (await kit.lock(parse_uv([*lines, links]))).pins == (("far", "2.0"),)
    finally:
        other.close()


async def test_a_replaced_file_at_an_address_is_another_set(kit: Kit, index: Index) -> None:
    """An address without a hash is known by what stands there, as of the last fresh resolution."""
    index.add(make_wheel(kit.root / "more", "far", "1.0"))
    spec = parse_pip([f"http://{index.host}/files/far-1.0-py3-none-any.whl"])
    first = await kit.lock(spec)
    index.add(make_wheel(kit.root / "more", "far", "1.0", body="# changed"))
    assert (await kit.lock(spec)).digest == first.digest
    changed = await kit.lock(spec, fresh=True)
    assert changed.digest != first.digest
    assert "--hash=sha256:" in changed.lines[0]


async def test_a_repository_is_locked_to_its_commit(kit: Kit) -> None:
    """A branch that moves is another set."""
    project = make_project(kit.root, "gitty", "1.0")
    commit_all(project)
    spec = kit.pip(f"git+file://{project}")
    first = await kit.lock(spec)
    (project / "gitty.py").write_text("version = 'moved'\n")
    head = commit_all(project)
    moved = await kit.lock(spec, fresh=True)
    assert first.pins[0][1] != moved.pins[0][1]
    assert head in moved.lines[0]


async def test_hashes_make_every_requirement_need_one(kit: Kit) -> None:
    """Pip's rule: one hash asks for all."""
    tiny = kit.wheels / "tiny-1.0-py3-none-any.whl"
    with pytest.raises((DownloadError, InvalidSpecError), match=r"(?i)hash"):
        await kit.lock(kit.pip(f"tiny==1.0 --hash={sha256(tiny)}", "top==1.0"))
    assert (await kit.lock(kit.pip(f"tiny==1.0 --hash={sha256(tiny)}"))).pins == (("tiny", "1.0"),)


async def test_constraints_and_options_hold(kit: Kit, tmp_path: Path) -> None:
    """A constraint limits what is taken, also by way of --constraint among the options."""
    (tmp_path / "limits.txt").write_text("tiny<2\n")
    limited = kit.pip("tiny", pip_install_options=["-c", f"{tmp_path}/limits.txt"])
    assert (await kit.lock(limited)).pins == (("tiny", "1.0"),)
    assert (await kit.lock(kit.pip("tiny"))).pins == (("tiny", "2.0"),)
    assert (await kit.lock(kit.uv("tiny", uv_pip_install_options=["--resolution", "lowest"]))).pins == (
        ("tiny", "1.0"),
    )
    no_deps = kit.pip("top", pip_install_options=["--no-deps"])
    assert (await kit.lock(no_deps)).pins == (("top", "1.0"),)
    upgraded = kit.pip("dep", pip_install_options=["-U"])
    assert (await kit.lock(upgraded)).pins == (("dep", "2.0"),)
