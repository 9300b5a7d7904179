"""What the clients of a :class:`~life.Life` were told, and so what must be so."""

from dataclasses import dataclass, field

from raylet import Created, Env


@dataclass(frozen=True)
class Use:
    """A runtime env and what a worker in it must print.

    Attributes:
        env: the runtime env.
        code: what the worker runs.
        prints: what it prints then.
    """

    env: Env
    code: str
    prints: str


@dataclass
class Count:
    """The references of an env: as many as this, or, where a reply was lost, anything between the two."""

    low: int = 0
    high: int = 0


@dataclass
class Model:
    """What is so for all that the clients have been told.

    Attributes:
        counts: references, by raylet and env.
        contexts: what the raylet was last told of an env.
        kept: envs that must still be there without a build: got, and nothing that could remove them begun.
        removed: ids of objects whose removal was answered, since an env was last asked for.
        pinned: ids of objects; False for one whose unpinning was answered.
    """

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    contexts: dict[tuple[str, str], Created] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    pinned: dict[str, bool] = field(default_factory=dict)

    def count(self, raylet: str, env: str) -> Count:
        """The count of one env of one raylet."""
        return self.counts.setdefault((raylet, env), Count())
