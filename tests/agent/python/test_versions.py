"""uv in the version that a spec asks for."""

import asyncio
import importlib.metadata

import pytest
from package_world import Kit, run_python

from ray_envd.agent.errors import ResolutionError
from ray_envd.agent.python.build import build
from ray_envd.agent.python.resolve import resolve
from ray_envd.agent.python.spec import parse_uv
from ray_envd.agent.python.versions import with_uv_version
from ray_envd.cache.reflink import clones_files


async def test_ours_serves_where_it_satisfies(kit: Kit) -> None:
    """Nothing is fetched for a version that is there."""
    for version in (None, f"=={importlib.metadata.version('uv')}", ">=0.4"):
        value = {"packages": ["tiny"]} | ({"uv_version": version} if version else {})
        spec = parse_uv(value)
        work = await kit.work(spec)
        chosen = await with_uv_version(
            await kit.request(spec), work, shadow=await kit.shadow(), folder=kit.root / "tools"
        )
        assert chosen is work


@pytest.mark.slow
async def test_another_version_is_fetched_once_and_used(kit: Kit) -> None:
    """An older uv resolves and installs in the same way."""
    spec = kit.uv("top", "dep==2.0", uv_version="==0.5.0")
    request, shadow = await kit.request(spec), await kit.shadow()
    programs = []
    for _ in range(2):
        work = await with_uv_version(request, await kit.work(spec), shadow=shadow, folder=kit.root / "tools")
        programs.append(work.tools.program)
    assert programs[0] == programs[1] != work.tools.uv
    assert (work.tools.link_mode == "clone") == await asyncio.to_thread(clones_files, kit.root)
    lock = await resolve(request, work, shadow=shadow, file_digests={})
    assert lock.pins == (("dep", "2.0"), ("tiny", "1.0"), ("top", "1.0"))
    built = await build(lock, request, work, shadow=shadow, target=kit.root / "env")
    assert run_python(built.python, "import top, dep, ray; print(dep.version)") == "2.0"


async def test_a_version_that_nobody_has_is_an_error(kit: Kit) -> None:
    """The message names it."""
    kit.environment["UV_NO_INDEX"] = "1"
    spec = parse_uv({"packages": ["tiny"], "uv_version": "==0.0.99"})
    with pytest.raises(ResolutionError, match=r"uv==0\.0\.99"):
        await with_uv_version(
            await kit.request(spec),
            await kit.work(spec),
            shadow=await kit.shadow(),
            folder=kit.root / "tools",
        )
