"""Installing into an overlay, also after a run of uv that broke off."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from package_world import Kit, run_python

from ray_envd.agent import process
from ray_envd.agent.errors import InterruptedToolError
from ray_envd.agent.process import Completed
from ray_envd.agent.python import overlay
from ray_envd.agent.python.build import Built, build
from ray_envd.agent.python.spec import PackagesSpec

KILLED, DISK_FULL = -9, 2


class BreaksOff:
    """Runs tools, but some installations end in the middle: the metadata is there, the module is not."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.runs = list(codes), 0

    async def __call__(self, argv: Sequence[str], **rest: Any) -> Completed:
        """As :func:`process.run`."""
        completed = await process.run(argv, **rest)
        if "--prefix" not in argv:
            return completed
        self.runs += 1
        if not self.codes:
            return completed
        assert completed.returncode == 0
        target = Path(argv[list(argv).index("--prefix") + 1])
        await asyncio.to_thread(lose_modules, target)
        return Completed(self.codes.pop(0), ())


def lose_modules(target: Path) -> None:
    """Leaves packages without their modules."""
    for path in target.glob("lib/python*/site-packages/*/__init__.py"):
        path.unlink()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def built_with(kit: Kit, spec: PackagesSpec, runner: BreaksOff) -> Built:
    """The spec, built by this runner."""
    request, shadow = await kit.request(spec), await kit.shadow()
    lock = await kit.lock(spec)
    work = replace(await kit.work(spec), run=runner)
    return await build(lock, request, work, shadow=shadow, target=kit.root / f"env{kit.count}")


@pytest.mark.parametrize("code", [KILLED, DISK_FULL])
@pytest.mark.parametrize("field", ["pip", "uv"])
async def test_what_a_broken_run_left_is_not_taken_for_installed(kit: Kit, field: str, code: int) -> None:
    """Over metadata that is there uv installs nothing, so the next run begins with an empty overlay."""
    spec, runner = getattr(kit, field)("top", "tiny==1.0"), BreaksOff(code)
    built = await built_with(kit, spec, runner)
    assert runner.runs == 2
    code_ = "import tiny, top; print(tiny.__file__ is not None and top.__file__ is not None)"
    assert run_python(built.python, code_) == "True"


async def test_a_killed_last_run_is_an_interruption(kit: Kit) -> None:
    """Where the second run is killed, too, there is no environment, and the error says that it may pass."""
    with pytest.raises(InterruptedToolError, match="SIGKILL"):
        await built_with(kit, kit.pip("tiny==1.0"), BreaksOff(KILLED, KILLED))


async def test_room_is_asked_for_between_the_runs(kit: Kit) -> None:
    """Before anything is downloaded, with the overlay empty; not where uv's cache knows everything."""
    spec = kit.uv("tiny==1.0")
    work, target = await kit.work(spec), kit.root / "target"
    site_packages = await asyncio.to_thread(overlay.make, work, target)
    seen: list[list[str]] = []

    async def before() -> None:
        seen.append(await asyncio.to_thread(names, site_packages))

    arguments = ["pip", "install", "--no-index", "--find-links", str(kit.wheels), "--prefix", str(target)]
    arguments += ["--python", str(await kit.shadow() / "bin" / "python"), "tiny==1.0"]
    await asyncio.to_thread(work.workdir.mkdir)
    for runner, times in ((BreaksOff(), 0), (BreaksOff(DISK_FULL), 1)):
        await asyncio.to_thread(overlay.empty, work, target)
        completed = await overlay.install(
            replace(work, run=runner), arguments, {}, target=target, before=before
        )
        assert completed.returncode == 0
        assert seen == [["~ray-envd-base.pth"]] * times
        assert "__init__.py" in await asyncio.to_thread(names, site_packages / "tiny")
