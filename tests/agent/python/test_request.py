"""Keys of requests: equal for equal meaning, different for anything that matters."""

from pathlib import Path

import pytest
from package_world import Kit

from ray_envd.agent.python.spec import PackagesSpec, parse_pip, parse_uv

COMMIT = "0123456789abcdef0123456789abcdef01234567"


async def digest(kit: Kit, spec: PackagesSpec, digests: dict[Path, str] | None = None) -> str:
    """The request's digest."""
    return (await kit.request(spec)).digest(await kit.interpreter(), digests or {})


async def test_order_spelling_and_field_do_not_matter(kit: Kit, tmp_path: Path) -> None:
    """The same requirements in the pip or the uv field, in any order, from a file or not, are one request."""
    (tmp_path / "r.txt").write_text("b>=1 # why\nFoo-Bar [x] == 1.0\n")
    expected = await digest(kit, parse_pip(["foo.bar[X]==1", "b >= 1.0"]))
    assert await digest(kit, parse_uv(["b>=1", "foo_bar[x]==1.0.0"])) == expected
    assert await digest(kit, parse_pip([f"-r {tmp_path}/r.txt"])) == expected
    assert await digest(kit, parse_uv({"packages": [f"-r {tmp_path}/r.txt"]})) == expected


@pytest.mark.parametrize(
    "other",
    [
        parse_pip(["a==2"]),
        parse_pip(["a==1", "b"]),
        parse_pip(["a==1", "-i https://other/s"]),
        parse_pip({"packages": ["a==1"], "pip_check": True}),
        parse_pip({"packages": ["a==1"], "pip_version": "==24.0"}),
        parse_pip({"packages": ["a==1"], "pip_install_options": ["--no-deps"]}),
        parse_pip({"packages": ["a==1"], "pip_install_options": ["--no-binary=a"]}),
        parse_uv({"packages": ["a==1"], "uv_version": "==0.5.0"}),
        parse_uv({"packages": ["a==1"], "uv_pip_install_options": ["--resolution=lowest"]}),
    ],
)
async def test_anything_that_changes_the_result_changes_the_key(kit: Kit, other: PackagesSpec) -> None:
    """Requirements, indexes, checks, tools and options are part of the request."""
    assert await digest(kit, other) != await digest(kit, parse_pip(["a==1"]))


async def test_configuration_and_expanded_variables_matter_others_do_not(kit: Kit) -> None:
    """PIP_*, and what a line names, count; the rest of the environment does not."""
    spec = parse_pip(["a==${V}"])
    kit.environment["V"] = "1"
    first = await digest(kit, spec)
    kit.environment["UNRELATED"] = "x"
    assert await digest(kit, spec) == first
    kit.environment["V"] = "2"
    second = await digest(kit, spec)
    kit.environment["PIP_INDEX_URL"] = "https://own/simple"
    assert len({first, second, await digest(kit, spec)}) == 3


async def test_local_content_counts_and_its_place_does_not(kit: Kit, tmp_path: Path) -> None:
    """A package of the working_dir is the same request in every session until its content changes."""
    spec = parse_uv(["${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/pkg"])
    found = []
    for folder, content in ((tmp_path / "a", "D"), (tmp_path / "b", "D"), (tmp_path / "b", "E")):
        kit.environment["RAY_RUNTIME_ENV_CREATE_WORKING_DIR"] = str(folder)
        request = await kit.request(spec)
        assert request.local_files == [folder / "pkg"]
        found.append(await digest(kit, spec, {folder / "pkg": content}))
    assert found[0] == found[1] != found[2]


async def test_a_new_file_in_find_links_makes_a_new_request(kit: Kit) -> None:
    """Whoever puts a wheel into a local folder sees it at once."""
    spec = kit.pip("tiny")
    first = await digest(kit, spec)
    (kit.wheels / "new-1.0-py3-none-any.whl").write_bytes(b"")
    assert await digest(kit, spec) != first


@pytest.mark.parametrize(
    ("lines", "pinned"),
    [
        (["a==1", "b===2"], True),
        (["a==1", "b"], False),
        (["a==1.*"], False),
        (["b", "-c {limits}"], True),
        (["-r https://h/r.txt", "a==1"], False),
        (["git+https://h/a@main"], False),
        ([f"git+https://h/a@{COMMIT}"], True),
        (["https://h/a-1-py3-none-any.whl"], False),
        ([f"https://h/a-1-py3-none-any.whl --hash=sha256:{'0' * 64}"], True),
        (["/srv/a-1-py3-none-any.whl"], True),
    ],
)
async def test_only_an_exact_top_level_is_pinned(
    kit: Kit, tmp_path: Path, lines: list[str], *, pinned: bool
) -> None:
    """Every requirement must be exact, itself or by a constraint."""
    (tmp_path / "limits.txt").write_text("b==2\n")
    spec = parse_pip([line.replace("{limits}", f"{tmp_path}/limits.txt") for line in lines])
    assert (await kit.request(spec)).is_pinned is pinned


async def test_an_upgrade_is_never_pinned(kit: Kit) -> None:
    """Whoever asks for the newest asks anew."""
    spec = parse_pip({"packages": ["a==1"], "pip_install_options": ["-U"]})
    assert not (await kit.request(spec)).is_pinned
