"""Something that is found as an installation of Ray."""

import json
from pathlib import Path

from ray_envd.agent.link.script import SETTINGS_NAME

ORIGINAL = b"# Ray's own agent\r\nprint('caf\xc3\xa9')\n"


class Installation:
    """An interpreter, and a package named ray somewhere that it looks."""

    def __init__(self, python: Path, package: Path, version: str = "2.60.0") -> None:
        self.python, self.package = python, package
        self.agent = package / "_private" / "runtime_env" / "agent"
        self.main = self.agent / "main.py"
        self.agent.mkdir(parents=True)
        # Whoever imports it fails the test.
        (package / "__init__.py").write_text("raise SystemExit('ray was imported')")
        self.install(version)

    def install(self, version: str, main: bytes = ORIGINAL) -> None:
        """What an installer does, also over what is there: new files, never through old ones."""
        (self.package / "_version.py").write_text(f'# by CI\nversion = "{version}"\ncommit = "abc"\n')
        self.main.unlink(missing_ok=True)
        self.main.write_bytes(main)
        self.main.chmod(0o644)

    def files(self) -> dict[str, bytes]:
        """All that is in the agent's folder."""
        found = [path for path in self.agent.rglob("*") if not path.is_dir() or not any(path.iterdir())]
        return {
            str(path.relative_to(self.agent)): b"" if path.is_dir() else path.read_bytes() for path in found
        }

    def settings(self) -> dict[str, object]:
        return dict(json.loads((self.agent / SETTINGS_NAME).read_text()))
