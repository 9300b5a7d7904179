"""Policies that estimate how soon something is wanted again: Hyperbolic caching and LHD, by cost and size.

Both look at a sample of what is stored where they were published, to be quick; here at all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from items import Item, Workload
from peers import OneByOne
from replay import World


class Hyperbolic(OneByOne):
    """Hyperbolic caching (Blankstein, Sen, Freedman, USENIX ATC 2017): uses / time stored x cost / size.

    Time is that of requests, as in the paper.
    """

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._clock = 0
        self._uses = dict[Item, tuple[int, int]]()

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """One more use, since it came in."""
        self._clock += 1
        uses, came = self._uses.get(item, (0, self._clock))
        self._uses[item] = uses + 1, came

    built = hit

    def victims(self, world: World) -> Iterator[Item]:
        """By uses for each request since then, times what it costs by size."""
        free = (item for item in self._uses if not world.busy(item))
        return iter(sorted(free, key=self._priority))

    def _priority(self, item: Item) -> float:
        uses, came = self._uses[item]
        return uses / max(1, self._clock - came) * _value(item)

    def evicted(self, item: Item) -> None:
        """Comes in anew, if it does."""
        del self._uses[item]


@dataclass(slots=True)
class _Tag:
    """What LHD knows of a stored item.

    Attributes:
        used: the number of the request that used it last.
        ages: at its last two hits.
        explores: it stays until it is used.
    """

    used: int
    ages: tuple[int, int]
    explores: bool


class Ages:
    """What became of items of one class, by their age: a histogram of hits, and one of evictions."""

    def __init__(self, most: int, first: float) -> None:
        """``first``: what density is at age 0 until something is known; the older, the less."""
        self.hits, self.evictions = [0.0] * most, [0.0] * most
        self.density = [first / (age + 1) for age in range(most)]

    def model(self, decay: float) -> None:
        """Makes the density of the histograms, and lets these fade.

        At an age it is the hits from then on, for all the time that items of this age go on to take: the
        probability of a hit by the expected rest of the lifetime (sections 3 and 4 of the paper).
        """
        hits = events = lifetime = 0.0
        for age in reversed(range(len(self.hits))):
            hits += self.hits[age]
            events += self.hits[age] + self.evictions[age]
            lifetime += events
            self.density[age] = hits / lifetime if events > _NOTHING else 0.0
        self.hits = [n * decay for n in self.hits]
        self.evictions = [n * decay for n in self.evictions]


class Lhd(OneByOne):
    """LHD (Beckmann, Chen, Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018).

    What an item's class has shown at its age, times its cost by size. Classes are by the sum of the last two
    ages at a hit, by powers of two, as in the authors' code; what that learns each million of requests is
    learnt each five hundred. A hundredth of the cache is for explorers: chosen by chance, they stay until
    they are used, or else nothing would be learnt of ages at which all is evicted.
    """

    #: Requests between two models, what is left of the counts then, requests that are one step of age, steps.
    learn, decay, step, most = 500, 0.9, 8, 2048
    #: The part of the cache for explorers, and of uses that make one.
    explored, explorers = 0.01, 1 / 32

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._clock = 0
        self._tags = dict[Item, _Tag]()
        self._classes = dict[int, Ages]()
        self._chance, self._budget = Random("LHD"), capacity * self.explored

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """A hit at its age, which is 0 again."""
        tag = self._tags[item]
        age = self._age(tag)
        self._class(tag).hits[age] += 1
        self._budget += item.size.apparent * tag.explores
        self._tagged(item, (tag.ages[1], age))

    def built(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """As the authors' code has it: of the class of what was hit last after a long time."""
        self._tagged(item, (self.most, 0))

    def _tagged(self, item: Item, ages: tuple[int, int]) -> None:
        explores = self._chance.random() < self.explorers and self._budget > 0
        self._budget -= item.size.apparent * explores
        self._tags[item] = _Tag(self._clock, ages, explores)
        self._clock += 1
        if self._clock % self.learn == 0:
            for each in self._classes.values():
                each.model(self.decay)

    def _age(self, tag: _Tag) -> int:
        return min((self._clock - tag.used) // self.step, self.most - 1)

    def _class(self, tag: _Tag) -> Ages:
        number = min(sum(tag.ages), self.most).bit_length()
        if number not in self._classes:
            self._classes[number] = Ages(self.most, 1.0 + self.most.bit_length() - number)
        return self._classes[number]

    def victims(self, world: World) -> Iterator[Item]:
        """By density."""
        free = (item for item in self._tags if not world.busy(item))
        return iter(sorted(free, key=self._density))

    def _density(self, item: Item) -> tuple[bool, float]:
        tag = self._tags[item]
        return tag.explores, self._class(tag).density[self._age(tag)] * _value(item)

    def evicted(self, item: Item) -> None:
        """An eviction at its age."""
        tag = self._tags.pop(item)
        self._budget += item.size.apparent * tag.explores
        self._class(tag).evictions[self._age(tag)] += 1


def _value(item: Item) -> float:
    return item.seconds / max(1, item.size.apparent)


#: What so few events say is noise.
_NOTHING = 1e-5
