"""What can be set, in one table: the fields of :class:`Settings`.

Flags of ``ray-envd serve``, ``RAY_ENVD_*`` variables, keys of the TOML file, ``ray-envd config`` and the
README's table are all made of it. Where values come from is :mod:`ray_envd.agent.config_sources`'s job.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ray_envd.agent.config_kinds import (
    ADDRESS,
    AUTO,
    BYTES,
    COUNT,
    FOLDERS,
    FORMAT,
    KIND_SHARES,
    LEVEL,
    LEVELS,
    NONE,
    OBJECT_KINDS,
    OPTION_NAMES,
    OPTIONAL_BYTES,
    OPTIONAL_PATH,
    OPTIONAL_RATIO,
    OPTIONAL_SECONDS,
    OPTIONAL_SHARE,
    PATH,
    PROGRAM,
    PULL_POLICY,
    RATIO,
    SECONDS,
    SHARE,
    SWITCH,
    Address,
    Kind,
)
from ray_envd.agent.humanize import Size
from ray_envd.agent.machine import default_parallelism

_TABLE = "ray_envd.setting"
#: Where nothing is set: the high watermark as a share of max_bytes, the low one as a share of the high one.
#: What lies between low and max_bytes is room for small builds, which then need not wait for a collection,
#: and for what sealing adds; it is no cache: wider gaps lose hits (benchmarks/hit_rates). Large builds wait
#: for a moment, beside the time that they take.
HIGH, LOW = 0.99, 0.995
_MIN_FREE = 1024**3


class ConfigError(Exception):
    """A setting is wrong.

    Attributes:
        remedy: what to write instead.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        """The message names the setting, its value and where that came from."""
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: of the field of :class:`Settings` and of the TOML key.
        kind: how its text is read.
        default: text; empty where the default depends on the machine, see ``default_shown``.
        default_shown: the default in words.
        help: one sentence, with the unit.
    """

    name: str
    kind: Kind
    default: str
    default_shown: str
    help: str

    @property
    def flag(self) -> str:
        """The flag of ``ray-envd serve``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"RAY_ENVD_{self.name.upper()}"


def _row(kind: Kind, default: str, text: str, *, shown: str = "") -> dict[str, Any]:
    """The metadata of a field: the rest of its row."""
    return {_TABLE: (kind, default, shown or default, text)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The effective settings of one process. Made and checked by ``config_sources.load``."""

    store: Path = field(
        metadata=_row(
            PATH,
            "",
            "Folder of everything that is kept; one daemon has it at a time.",
            shown="/var/lib/ray-envd for root, else $XDG_STATE_HOME/ray-envd or ~/.local/state/ray-envd",
        )
    )
    socket: Path = field(
        metadata=_row(
            PATH,
            "",
            "Unix socket for the command line and clients; links use the same path with .link behind it.",
            shown="/run/ray-envd/ray-envd.sock for root, else $XDG_RUNTIME_DIR/ray-envd/ray-envd.sock"
            " or STORE/run/ray-envd.sock",
        )
    )
    http: Address | None = field(
        metadata=_row(
            ADDRESS, "127.0.0.1:8497", "Where /metrics, /healthz and /readyz are served; port 0 takes any."
        )
    )
    http_allow_remote: bool = field(
        metadata=_row(SWITCH, "false", "Whether http may be an address that other machines reach.")
    )
    tcp: Address | None = field(
        metadata=_row(
            ADDRESS,
            NONE,
            "gRPC on TCP for callers with the token; not encrypted: for networks that you trust.",
        )
    )
    tcp_token_file: Path | None = field(
        metadata=_row(OPTIONAL_PATH, NONE, "File with the token that tcp asks for; mode 0600.")
    )
    python: str | None = field(
        metadata=_row(
            PROGRAM,
            NONE,
            "Interpreter for callers that name none and are no raylet.",
            shown="none: python3 of the daemon's PATH",
        )
    )
    warm_file: Path | None = field(
        metadata=_row(
            OPTIONAL_PATH,
            NONE,
            "TOML or JSON file of runtime envs that the daemon prepares by itself and keeps pinned.",
        )
    )
    ready_when_warm: bool = field(
        metadata=_row(
            SWITCH, "false", "Whether /readyz waits for all of warm_file, but for what can never be had."
        )
    )
    max_bytes: Size = field(
        metadata=_row(SHARE, "80%", "Budget of everything stored, in bytes or percent of the disk.")
    )
    high_watermark: Size | None = field(
        metadata=_row(
            OPTIONAL_SHARE,
            AUTO,
            "Collection starts above it; bytes or percent of the disk.",
            shown="auto: 99% of max_bytes",
        )
    )
    low_watermark: Size | None = field(
        metadata=_row(
            OPTIONAL_SHARE,
            AUTO,
            "Collection goes down to it; bytes or percent of the disk.",
            shown="auto: 99.5% of high_watermark",
        )
    )
    kind_max: Mapping[str, Size] = field(
        metadata=_row(
            KIND_SHARES,
            NONE,
            "Above it, unused objects of a kind are collected, such as python=20GiB,archive=10%; kinds:"
            f" {', '.join(OBJECT_KINDS)}; bytes or percent of the disk.",
        )
    )
    min_unused_age: float = field(
        metadata=_row(SECONDS, "60s", "What was used within this time is not collected; seconds.")
    )
    min_free: Size | None = field(
        metadata=_row(
            OPTIONAL_SHARE,
            AUTO,
            "What of the disk no build may take, and below which collection starts; bytes or percent of it.",
            shown="auto: 1GiB, at most 5% of the disk",
        )
    )
    resolution_ttl: float = field(
        metadata=_row(SECONDS, "1h", "After it, unpinned requirements and URLs are looked up anew; seconds.")
    )
    build_parallelism: int = field(
        metadata=_row(
            COUNT,
            str(default_parallelism()),
            "Builds that run at once; one of more than 3 s makes room for another while there is memory.",
            shown="number of cores, at most 1 per GiB of memory",
        )
    )
    drain_timeout: float = field(
        metadata=_row(SECONDS, "30s", "How long a stopping daemon waits for what is in flight; seconds.")
    )
    idle_exit: float | None = field(
        metadata=_row(OPTIONAL_SECONDS, NONE, "The daemon ends after so long without a session; seconds.")
    )
    image_pull_policy: float = field(
        metadata=_row(
            PULL_POLICY,
            "missing",
            "How long a tag means the image that it named last: missing (while that is here), always (look in"
            " the registry each time), or seconds.",
        )
    )
    container_options: frozenset[str] = field(
        metadata=_row(
            OPTION_NAMES,
            NONE,
            "Options of podman run that runtime envs may use beside those that only limit a container.",
        )
    )
    container_mounts: tuple[Path, ...] = field(
        metadata=_row(FOLDERS, NONE, "Folders of which runtime envs may mount parts into their containers.")
    )
    container_memory: int | None = field(
        metadata=_row(
            OPTIONAL_BYTES, NONE, "Most memory of a container whose runtime env says nothing of it."
        )
    )
    container_cpus: float | None = field(
        metadata=_row(
            OPTIONAL_RATIO, NONE, "Most cores of a container whose runtime env says nothing of them."
        )
    )
    archive_max_bytes: int = field(
        metadata=_row(BYTES, "32GiB", "Most bytes that one archive may unpack to.")
    )
    archive_max_ratio: float = field(
        metadata=_row(
            RATIO, "200", "Most times its own size that an archive may unpack to; judged above 64 MiB."
        )
    )
    request_max_bytes: int = field(metadata=_row(BYTES, "64MiB", "Most bytes of one request's body."))
    log_level: str = field(metadata=_row(LEVEL, "info", f"How much is logged: {', '.join(LEVELS)}."))
    log_format: str = field(
        metadata=_row(FORMAT, "auto", "console, json, or auto: console on a terminal, else json.")
    )

    @cached_property
    def disk_bytes(self) -> int:
        """Size of the file system on which the store is or will be; asked once."""
        folder = self.store
        while True:
            try:
                stat = os.statvfs(folder)
            except OSError:
                # Not made yet, or behind a folder that this user may not enter.
                if folder == folder.parent:
                    raise
                folder = folder.parent
            else:
                return stat.f_blocks * stat.f_frsize

    @property
    def budget_bytes(self) -> int:
        """``max_bytes`` in bytes."""
        return self.max_bytes.of(self.disk_bytes)

    @property
    def high_bytes(self) -> int:
        """``high_watermark`` in bytes."""
        if self.high_watermark is None:
            return int(self.budget_bytes * HIGH)
        return self.high_watermark.of(self.disk_bytes)

    @property
    def low_bytes(self) -> int:
        """``low_watermark`` in bytes."""
        if self.low_watermark is None:
            return int(self.high_bytes * LOW)
        return self.low_watermark.of(self.disk_bytes)

    @property
    def min_free_bytes(self) -> int:
        """``min_free`` in bytes."""
        if self.min_free is None:
            return min(_MIN_FREE, self.disk_bytes // 20)
        return self.min_free.of(self.disk_bytes)

    @property
    def kind_bytes(self) -> dict[str, int]:
        """``kind_max`` in bytes."""
        return {kind: share.of(self.disk_bytes) for kind, share in self.kind_max.items()}


def link_socket(control: Path) -> Path:
    """The links' socket stands beside the control socket, under a name that both sides know."""
    return control.with_name(f"{control.name}.link")


def _table() -> dict[str, Setting]:
    return {row.name: Setting(row.name, *row.metadata[_TABLE]) for row in fields(Settings)}


#: Every setting by its name, in the order in which people read them.
TABLE = _table()
