"""What a process has in memory, as the kernel counts it (proc(5), smaps_rollup)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """MiB of a process.

    Attributes:
        resident: all its pages that are in memory, also those of libraries that others have mapped too (Rss).
        share: its own pages, and an equal part of each page that it shares (Pss).
    """

    resident: float
    share: float


def memory_of(pid: int) -> Memory:
    """As it is now.

    Raises:
        OSError: there is no such process.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024)
