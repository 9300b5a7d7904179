"""What attach and detach do with the link's modules and their bytecode."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import interpreters
from ray_installation import ORIGINAL, Installation

from ray_envd.agent.attach import AttachError, attach, detach, status
from ray_envd.agent.link.script import PACKAGE, SETTINGS_NAME, STOCK_NAME
from ray_envd.agent.link_files import LinkFiles
from ray_envd.agent.stock_agent import AgentFiles, writing

SOCKET = Path("/run/ray-envd/ray-envd.sock.link")
#: The link as it was before it had modules: one script, and its settings.
OLDER = Path(__file__).with_name("older_link.txt").read_bytes()


def attach_older(ray: Installation) -> None:
    """What the ray-envd of that link left."""
    (ray.agent / STOCK_NAME).write_bytes(ray.main.read_bytes())
    (ray.agent / SETTINGS_NAME).write_text(json.dumps({"version": "0.1.0", "ray_version": "2.60.0"}))
    ray.main.write_bytes(OLDER)


def test_link_of_one_file_is_upgraded(ray: Installation) -> None:
    """An older link is recognised, becomes what a first attach makes, and is undone."""
    attach_older(ray)
    older = status(ray.python)
    assert (older.attached, older.current, older.stock_kept, older.link_version) == (
        True,
        False,
        True,
        "0.1.0",
    )
    assert "attach` again" in older.advice
    assert attach(ray.python, socket=SOCKET, daemon=None).action == "updated"
    assert status(ray.python).advice == ""
    upgraded = ray.files()
    detach(ray.python)
    assert ray.files() == {"main.py": ORIGINAL}
    attach(ray.python, socket=SOCKET, daemon=None)
    assert ray.files() == upgraded


def test_link_of_one_file_is_detached(ray: Installation) -> None:
    """Also without an attach in between."""
    attach_older(ray)
    assert detach(ray.python).action == "detached"
    assert ray.files() == {"main.py": ORIGINAL}


def attach_another(ray: Installation) -> LinkFiles:
    """The link of a ray-envd that has one module more."""
    other = LinkFiles({**LinkFiles.own().modules, "more.py": b"MORE = 1\n"})
    with writing(ray.agent) as files:
        files.put_link(other, other.compiled(ray.python), b"{}\n")
    return other


@pytest.mark.parametrize("name", ["__init__.py", "main.py"])
def test_upgrade_that_is_interrupted_leaves_the_other_link_whole(
    ray: Installation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A disk that is full at the first write, or at the last, leaves script and modules of one version."""
    other = attach_another(ray)
    tag = other.compiled(ray.python).tag
    real = AgentFiles._replace

    def failing(self: AgentFiles, path: Path, content: bytes) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        real(self, path, content)

    monkeypatch.setattr(AgentFiles, "_replace", failing)
    with pytest.raises(AttachError, match="No space left"):
        attach(ray.python, socket=SOCKET, daemon=None)
    assert other.is_in(ray.agent, tag)
    monkeypatch.undo()
    attach(ray.python, socket=SOCKET, daemon=None)
    assert status(ray.python).current
    detach(ray.python)
    assert ray.files() == {"main.py": ORIGINAL}


def test_modules_of_another_version_give_way(ray: Installation) -> None:
    """Each version has a folder of its own; another ray-envd replaces it with the script, and leaves none."""
    own, other = LinkFiles.own(), attach_another(ray)
    assert [path.name for path in ray.agent.glob(f"{PACKAGE}*")] == [other.package]
    assert not status(ray.python).current
    assert attach(ray.python, socket=SOCKET, daemon=None).action == "updated"
    assert [path.name for path in ray.agent.glob(f"{PACKAGE}*")] == [own.package]
    assert status(ray.python).current


@pytest.mark.parametrize("name", ["session.py", "__pycache__/session.{tag}.pyc", "__pycache__/{tag}.crc"])
@pytest.mark.parametrize("damage", ["gone", "empty", "changed"])
def test_damage_is_told_and_repaired(ray: Installation, name: str, damage: str) -> None:
    """With a module or bytecode that is not as attach wrote it, it is not current until the next one."""
    attach(ray.python, socket=SOCKET, daemon=None)
    whole = ray.files()
    (package,) = ray.agent.glob(f"{PACKAGE}*")
    (crc,) = package.glob("__pycache__/*.crc")
    path = package / name.format(tag=crc.stem)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else content[:-1] + bytes([content[-1] ^ 1]))
    broken = status(ray.python)
    assert (broken.attached, broken.current) == (True, False)
    assert "attach` again" in broken.advice
    assert attach(ray.python, socket=SOCKET, daemon=None).action == "updated"
    assert ray.files().keys() == whole.keys()
    assert status(ray.python).current
    assert attach(ray.python, socket=SOCKET, daemon=None).action == "unchanged"


def test_pythons_that_share_a_ray_have_bytecode_each(ray: Installation, tmp_path: Path) -> None:
    """Attached by one, a Ray is not current for the other; then for both, and one detach leaves nothing."""
    tags = {LinkFiles.own().compiled(Path(path)).tag: path for path in interpreters()}
    own = LinkFiles.own().compiled(ray.python).tag
    tags.pop(own, None)
    # On a machine with one Python, the same under another tag.
    tag, other = next(iter(tags.items()), ("another", sys.executable))
    subprocess.run([other, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    (site_packages,) = (tmp_path / "other").glob("lib/python*/site-packages")
    named = f"import sys; sys.implementation.cache_tag = {tag!r}"
    (site_packages / "ray.pth").write_text(f"{ray.package.parent}\n{named}\n")
    second = tmp_path / "other" / "bin" / "python"
    attach(ray.python, socket=SOCKET, daemon=None)
    assert status(second).agent_dir == ray.agent
    assert not status(second).current
    assert attach(second, socket=SOCKET, daemon=None).action == "updated"
    assert status(ray.python).current
    assert status(second).current
    assert {Path(name).stem for name in ray.files() if name.endswith(".crc")} == {tag, own}
    detach(second)
    assert ray.files() == {"main.py": ORIGINAL}
