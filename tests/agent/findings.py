"""What tests of doctor look at, and for."""

from pathlib import Path

from ray_envd.agent.config import Settings
from ray_envd.agent.config_sources import load
from ray_envd.agent.doctor import Finding, Level


def is_bad(finding: Finding, level: Level, *words: str) -> None:
    """The level, the words in what was found, and a remedy."""
    assert finding.level is level, finding
    for word in words:
        assert word in finding.found
    assert finding.remedy


def settings_of(folder: Path) -> Settings:
    """Those of a node without a daemon."""
    flags = {"store": str(folder), "socket": "/tmp/no.sock", "http": "none"}
    return load(flags, environ={}).settings
