"""Canaries: a credential in any place of a spec is in no output, argument, error or file that others read."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from package_world import Index, Kit, make_wheel, run_python

from ray_envd.agent.errors import EnvError
from ray_envd.agent.python.spec import PackagesSpec, parse_pip, parse_uv

CANARY = "canary-5e4d3c2b"

Make = Callable[[Index], PackagesSpec]

SPECS: dict[str, Make] = {
    "pip index line": lambda i: parse_pip(["far", f"-i {i.url(f'user:{CANARY}')}"]),
    "pip index variable": lambda i: parse_pip(["far", f"-i http://user:${{SECRET}}@{i.host}/simple"]),
    "pip option": lambda i: parse_pip(
        {"packages": ["far"], "pip_install_options": ["-i", i.url(f"user:{CANARY}")]}
    ),
    "uv option": lambda i: parse_uv(
        {
            "packages": ["far"],
            "uv_pip_install_options": ["--index-url", f"http://user:$SECRET@{i.host}/simple"],
        }
    ),
    "uv direct": lambda i: parse_uv([f"far @ http://user:{CANARY}@{i.host}/files/far-1.0-py3-none-any.whl"]),
    "pip bare": lambda i: parse_pip(
        [f"http://user:{CANARY}@{i.host}/files/far-1.0-py3-none-any.whl?token={CANARY}"]
    ),
}


def arguments() -> str:
    """The command lines of every process on this machine."""
    text = ""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text += process.read_bytes().decode(errors="replace") + "\n"
        except OSError:
            continue
    return text


def readable_by_others(root: Path) -> str:
    """Texts of files that not only their owner can read, outside uv's cache and the packages themselves."""
    text = ""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if path.stat().st_mode & 0o077 and "uv-cache" not in path.parts and "index" not in path.parts:
                text += path.read_bytes().decode(errors="replace")
    return text


@pytest.mark.parametrize("make", SPECS.values(), ids=SPECS.keys())
async def test_credentials_work_and_stay_hidden(kit: Kit, index: Index, make: Make) -> None:
    """The package is had with them; no progress, pin or file of others shows them."""
    index.credentials = f"user:{CANARY}"
    index.add(make_wheel(kit.root / "index", "far", "1.0"))
    kit.environment["SECRET"] = CANARY
    spec = make(index)
    lock = await kit.lock(spec)
    built = await kit.build(spec)
    assert run_python(built.python, "import far; print(far.version)") == "1.0"
    assert CANARY not in repr(lock)
    assert CANARY not in repr(kit.events)
    assert CANARY not in await asyncio.to_thread(readable_by_others, kit.root)


@pytest.mark.parametrize("make", SPECS.values(), ids=SPECS.keys())
async def test_failures_do_not_tell_them(kit: Kit, index: Index, make: Make) -> None:
    """Neither the message nor the log of a failed run."""
    index.credentials = "user:another"
    kit.environment["SECRET"] = CANARY
    with pytest.raises(EnvError) as caught:
        await kit.build(make(index))
    assert CANARY not in str(caught.value)
    assert caught.value.log is not None
    assert all(CANARY not in path.read_text() for path in (kit.root / "logs").iterdir())


@pytest.mark.parametrize("make", SPECS.values(), ids=SPECS.keys())
async def test_arguments_do_not_show_them(kit: Kit, index: Index, make: Make) -> None:
    """While uv waits for an index, its command line holds no credential."""
    index.credentials = f"user:{CANARY}"
    index.add(make_wheel(kit.root / "index", "far", "1.0"))
    kit.environment["SECRET"] = CANARY
    index.stall = threading.Event()
    waiting = asyncio.create_task(kit.lock(make(index)))
    try:
        assert await asyncio.to_thread(index.asked.wait, 20)
        seen = await asyncio.to_thread(arguments)
    finally:
        index.stall.set()
        await waiting
    assert str(kit.root) in seen
    assert CANARY not in seen
