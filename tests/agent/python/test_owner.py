"""A daemon that is root works as the user to whom the environment belongs."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_world import UV, Kit, clean_environment, make_wheel, run_python

from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.python.tools import Toolbox
from ray_envd.cache.owner import Owner

SYSTEM = "/usr/bin/python3"


@pytest.fixture
def theirs() -> Iterator[Kit]:
    """Everything in a folder of the user nobody, who can read the system's Python and this uv."""
    if os.geteuid() != 0 or not os.access(SYSTEM, os.X_OK):
        pytest.skip("only root can work as somebody else")
    nobody = pwd.getpwnam("nobody")
    root = Path(tempfile.mkdtemp(prefix="re-", dir="/tmp"))
    os.chown(root, nobody.pw_uid, nobody.pw_gid)
    uv = root / "uv"
    shutil.copy(UV, uv)
    uv.chmod(0o755)
    (root / "home").mkdir()
    kit = Kit(root, SYSTEM, clean_environment(root / "home"), Toolbox(str(uv), root / "uv-cache"))
    kit.owner = Owner.of(nobody.pw_uid, nobody.pw_gid)
    make_wheel(kit.wheels, "tiny", "1.0")
    yield kit
    shutil.rmtree(root)


def owners(folder: Path) -> set[int]:
    """Who owns what lies in a folder."""
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


async def test_what_is_built_belongs_to_its_user(theirs: Kit) -> None:
    """Shadow, cache and environment are his, and nobody else can look inside."""
    built = await theirs.build(theirs.pip("tiny"))
    target = built.python.parent.parent
    assert owners(target) == {theirs.owner.uid}
    assert owners(theirs.root / "uv-cache") == {theirs.owner.uid}
    assert owners(await theirs.shadow()) == {theirs.owner.uid}
    assert run_python(built.python, "import tiny; print(tiny.version)") == "1.0"


async def test_what_he_may_not_read_is_not_read_for_him(theirs: Kit) -> None:
    """A requirements file of root's is refused, though the daemon could read it."""
    secret = theirs.root / "secret.txt"
    secret.write_text("tiny\n")
    secret.chmod(0o600)
    with pytest.raises(Exception, match="cannot be read"):
        await theirs.request(theirs.pip(f"-r {secret}"))


async def test_what_is_remembered_of_his_interpreter_is_his(theirs: Kit) -> None:
    """It is written as him, and read only if he may read it."""
    folder = theirs.root / "interpreters"
    folder.mkdir(mode=0o700)
    os.chown(folder, theirs.owner.uid, theirs.owner.gid)
    theirs.interpreters = Interpreters(lambda _owner: folder)
    await theirs.interpreter()
    (file,) = folder.iterdir()
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (theirs.owner.uid, 0o600)
    os.chown(file, 0, 0)
    theirs.interpreters = Interpreters(lambda _owner: folder)
    await theirs.interpreter()
    assert file.stat().st_uid == theirs.owner.uid
