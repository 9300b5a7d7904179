"""What attach writes of the link: its script, its modules, and their bytecode for an interpreter."""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ray_envd.agent import link
from ray_envd.agent.link import script
from ray_envd.agent.rays_python import MAIN, AttachError, ask

_FOLDER = Path(link.__file__).parent
_SCRIPT = "script.py"
_CACHE = "__pycache__"
#: Compiles what JSON on its stdin has, name -> source. Python will check it by the source's hash (PEP 552)
#: and not by its time, which neither images nor copies keep.
_COMPILE = """
import base64, importlib.util, json, marshal, sys
head = importlib.util.MAGIC_NUMBER + (3).to_bytes(4, "little")
def compiled(name, source):
    code = marshal.dumps(compile(source, name, "exec"))
    return base64.b64encode(head + importlib.util.source_hash(source) + code).decode()
files = {name: compiled(name, text.encode()) for name, text in json.load(sys.stdin).items()}
print(json.dumps([sys.implementation.cache_tag, files]))
"""


@dataclass(frozen=True, slots=True)
class Bytecode:
    """The modules' bytecode for the Pythons of a tag: files of the package, last their checksum."""

    tag: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class LinkFiles:
    """The link of this ray-envd, as it stands in the folder of an agent."""

    modules: Mapping[str, bytes]

    @classmethod
    def own(cls) -> "LinkFiles":
        """Those of the installation that runs this."""
        paths = sorted(_FOLDER.glob("*.py"))
        return cls({path.name: path.read_bytes() for path in paths if path.name != _SCRIPT})

    @cached_property
    def package(self) -> str:
        """The modules' folder. Other modules have another one, so that those of two versions never mix."""
        digest = hashlib.sha256()
        for name, content in self.modules.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return script.PACKAGE + digest.hexdigest()[:12]

    @cached_property
    def main(self) -> bytes:
        """What is put in the place of Ray's script."""
        text = (_FOLDER / _SCRIPT).read_text()
        return text.replace(f'PACKAGE = "{script.PACKAGE}"', f'PACKAGE = "{self.package}"').encode()

    def compiled(self, python: Path) -> Bytecode:
        """By the interpreter that will run it. Blocking.

        Raises:
            AttachError: it cannot compile them.
        """
        tag, answer = ask(python, _COMPILE, {name: text.decode() for name, text in self.modules.items()})
        if not re.fullmatch(r"[\w-]+", str(tag)):
            raise AttachError(f"{python} keeps no bytecode", "is it CPython?")
        files = {
            f"{_CACHE}/{Path(name).stem}.{tag}.pyc": base64.b64decode(answer[name]) for name in self.modules
        }
        total = 0
        for name in sorted(files):
            total = binascii.crc32(files[name], total)
        return Bytecode(tag, {**files, f"{_CACHE}/{tag}.crc": b"%d" % total})

    def is_in(self, agent_dir: Path, tag: str) -> bool:
        """Whether all of it stands there, compiled for the Pythons of that tag."""
        package = agent_dir / self.package
        try:
            same = (agent_dir / MAIN).read_bytes() == self.main and all(
                (package / name).read_bytes() == content for name, content in self.modules.items()
            )
        except OSError:
            return False
        return same and script.is_whole(os.fspath(package), tag)
