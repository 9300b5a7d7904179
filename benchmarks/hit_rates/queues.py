"""Policies of several queues: S3-FIFO and W-TinyLFU, with sizes in bytes, as libcachesim has them."""

from collections import Counter

from items import Item, Workload
from replay import World


class Queue:
    """Items in order, the oldest first, with their bytes."""

    def __init__(self) -> None:
        self.line = dict[Item, None]()
        self.bytes = 0

    def push(self, item: Item) -> None:
        """To the end; an item that is there moves."""
        if item in self.line:
            del self.line[item]
        else:
            self.bytes += item.size.apparent
        self.line[item] = None

    def remove(self, item: Item) -> None:
        """Out of it."""
        del self.line[item]
        self.bytes -= item.size.apparent

    def first(self, world: World) -> Item | None:
        """The oldest that nobody uses."""
        return next((item for item in self.line if not world.busy(item)), None)

    def oldest(self) -> Item:
        """The oldest."""
        return next(iter(self.line))

    def __contains__(self, item: Item) -> bool:
        return item in self.line


class _Queues:
    """Victims are taken for good, one by one."""

    eager = False

    def make_room(self, world: World, missing: int, _now: float, _coming: Item | None) -> list[Item]:
        """Until there is room."""
        gone, holders = list[Item](), dict[str, int]()
        while missing > 0 and (item := self.take(world)) is not None:
            missing -= item.size.private
            for unit in item.size.units:
                left = holders[unit.id] = holders.get(unit.id, world.holders[unit.id]) - 1
                missing -= 0 if left else unit.bytes
            gone.append(item)
        return gone

    def take(self, world: World) -> Item | None:
        """The next victim; None if all are in use."""
        raise NotImplementedError

    def rested(self, item: Item, now: float) -> None:
        """Textbook policies know no end of use."""


class S3Fifo(_Queues):
    """S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023).

    A small queue of a tenth of the capacity; what was used twice more in it moves to the main one, the rest
    leaves a ghost; a ghost that comes back goes to the main queue at once. In the main queue each use (three
    at most) is worth another round. What is in use is passed by: in the small queue that is a use, too.
    """

    def __init__(self, _workload: Workload, capacity: int, small: float = 0.1, ghost: float = 0.9) -> None:
        self._small_bytes, self._ghost_bytes = int(capacity * small), int(capacity * ghost)
        self._main_bytes = capacity - self._small_bytes
        self._small, self._main, self._ghost = Queue(), Queue(), Queue()
        self._uses = Counter[Item]()
        self._full = False

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Counts."""
        self._uses[item] += 1

    def built(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Joins the small queue, or as a ghost of itself the main one."""
        self._uses[item] = 0
        if item in self._ghost:
            self._ghost.remove(item)
            self._main.push(item)
        elif item.size.apparent >= self._small_bytes or (
            not self._full and self._small.bytes >= self._small_bytes
        ):
            self._main.push(item)
        else:
            self._small.push(item)

    def take(self, world: World) -> Item | None:
        """From the main queue if it is above its size, else from the small one."""
        self._full = True
        if not (self._small.first(world) or self._main.first(world)):
            return None
        while True:
            if self._main.bytes > self._main_bytes or not self._small.line:
                found = self._from_main(world) or self._from_small(world)
            else:
                found = self._from_small(world) or self._from_main(world)
            if found is not None:
                return found

    def _from_small(self, world: World) -> Item | None:
        while self._small.line:
            item = self._small.oldest()
            self._small.remove(item)
            if world.busy(item) or self._uses[item] >= 2:
                self._main.push(item)
                continue
            self._haunt(item)
            return item
        return None

    def _haunt(self, item: Item) -> None:
        self._ghost.push(item)
        while self._ghost.bytes > self._ghost_bytes:
            self._ghost.remove(self._ghost.oldest())

    def _from_main(self, world: World) -> Item | None:
        if self._main.first(world) is None:
            return None
        while True:
            item = self._main.oldest()
            if world.busy(item):
                self._main.push(item)
            elif self._uses[item]:
                self._uses[item] = min(self._uses[item], 3) - 1
                self._main.push(item)
            else:
                self._main.remove(item)
                return item


class WTinyLfu(_Queues):
    """W-TinyLFU (Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", 2017).

    A window of one hundredth (least recently used leaves) before a segmented LRU; what leaves the window
    enters the main part only if it was wanted more often than whom it would replace. Frequencies are counted
    exactly, also of what is not stored, and halved after ten times as many requests as items are stored:
    the sketch of the paper is an approximation of that.
    """

    #: Requests between two halvings, for each stored item.
    sample = 10

    def __init__(
        self, _workload: Workload, capacity: int, window: float = 0.01, protected: float = 0.8
    ) -> None:
        self._window_bytes = max(1, int(capacity * window))
        self._main_bytes = capacity - self._window_bytes
        self._protected_bytes = int(self._main_bytes * protected)
        self.window, self._probation, self._protected = Queue(), Queue(), Queue()
        self._often = Counter[Item]()
        self._requests = 0

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Moves it up."""
        self.count(item)
        if item in self.window:
            self.window.push(item)
        elif item in self._protected:
            self._protected.push(item)
        elif item in self._probation:
            self._probation.remove(item)
            self._protected.push(item)
            while self._protected.bytes > self._protected_bytes:
                demoted = self._protected.oldest()
                self._protected.remove(demoted)
                self._probation.push(demoted)

    def built(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Joins the window; what it pushes out finds a place as long as there is one."""
        self.count(item)
        self.window.push(item)
        self._overflow()

    def _overflow(self) -> None:
        while self.window.bytes > self._window_bytes:
            item = self.window.oldest()
            if self._probation.bytes + self._protected.bytes + item.size.apparent > self._main_bytes:
                return
            self.window.remove(item)
            self._probation.push(item)

    def contested(self, newcomer: Item) -> None:
        """Somebody has to make room for it, or it for him."""

    def count(self, item: Item) -> None:
        """It was wanted once more."""
        self._often[item] += 1
        self._requests += 1
        stored = len(self.window.line) + len(self._probation.line) + len(self._protected.line)
        if self._requests > self.sample * max(100, stored):
            self._requests = 0
            self._often = Counter({each: n // 2 for each, n in self._often.items() if n > 1})

    def take(self, world: World) -> Item | None:
        """The window's candidate against the main part's: who is wanted less often goes."""
        self._overflow()
        newcomer = self.window.first(world)
        queue = self._probation if self._probation.first(world) else self._protected
        victim = queue.first(world)
        if victim is None or newcomer is None:
            last = newcomer or victim
            if last is not None:
                (self.window if last is newcomer else queue).remove(last)
            return last
        admitted = self._often[newcomer] > self._often[victim]
        self.contested(newcomer)
        self.window.remove(newcomer)
        if not admitted:
            return newcomer
        queue.remove(victim)
        self._probation.push(newcomer)
        return victim
