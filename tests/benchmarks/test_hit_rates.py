"""The simulator of benchmarks/hit_rates: what it counts, on workloads small enough to count by hand."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ray_envd.cache.sizes import Size, Unit

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/hit_rates"))

# Found by the line above:
from density import Ages, Hyperbolic, Lhd
from items import START, Item, Use, Workload, workload
from ours import Ours, OursWithWatermarks
from peers import Gdsf, Lfu, Lru, Stock
from queues import S3Fifo, WTinyLfu
from recorded import read_trace
from replay import Outcome, Policy, World, replay
from workloads import GENERATORS

ROOT = Path(__file__).resolve().parents[2]
#: `make test` and `make test-fast` set it up; it has numpy and scipy.
BENCH_PYTHON = ROOT / ".work/bench/bin/python"
POLICIES = [Ours, OursWithWatermarks, Stock, Lru, Lfu, Gdsf, Hyperbolic, Lhd, S3Fifo, WTinyLfu]


def item(name: str, size: int, seconds: float = 1.0, **units: int) -> Item:
    """An item of some bytes, and of shared units."""
    return Item(
        name, "python", Size(size, tuple(Unit(unit, n, "file") for unit, n in units.items())), seconds
    )


def used(*what: tuple[Item, float, float]) -> Workload:
    """Items, with the seconds when they are wanted and given back."""
    return workload("by hand", "", [Use(START + begin, each, end - begin) for each, begin, end in what])


def test_what_is_counted() -> None:
    """Two fit: a third drives out the least recently used; a request for what is in use decides nothing."""
    a, b, c = item("a", 40), item("b", 40, 3.0), item("c", 40, 5.0)
    trace = used((a, 0, 10), (a, 5, 8), (b, 20, 21), (a, 30, 31), (c, 40, 41), (a, 50, 51), (b, 60, 61))
    found = replay(trace, 100, Lru)
    assert found == Outcome(
        shared=1,
        requests=6,
        hits=2,
        bytes=240,
        hit_bytes=80,
        seconds=14.0,
        first_seconds=9.0,
        saved_seconds=2.0,
        evictions=2,
    )
    assert found.saved == 2.0 / 5.0


def test_the_costly_one_stays_with_ours() -> None:
    """LRU drives out what takes a minute to build for what takes a second; ray-envd does not."""
    dear, cheap = item("dear", 60, 60.0), [item(f"cheap{n}", 60) for n in range(5)]
    turns = [(each, 10.0 * n + 5, 10.0 * n + 6) for n, each in enumerate(cheap)]
    trace = used((dear, 0, 1), *turns, (dear, 100, 101))
    assert replay(trace, 130, Lru).saved_seconds == 0
    assert replay(trace, 130, Ours).saved_seconds == 60


_KNOWING = """
import json, sys
sys.path[:0] = sys.argv[1:]
from bound import optimum
from items import START, Item, Use, workload
from peers import Lru
from ray_envd.cache.sizes import Size, Unit
from replay import replay
from schedule import best_schedule
def turns(*items):
    trace = workload("by hand", "", [Use(START + 10 * n, each, 1.0) for n, each in enumerate(items * 2)])
    solved = optimum(trace, 100)
    saved = [best_schedule(trace, 100, solved.kept).saved_seconds, replay(trace, 100, Lru).saved_seconds]
    return [solved.seconds, *saved]
alone = [Item(name, "python", Size(40), seconds) for name, seconds in (("a", 1.0), ("b", 3.0), ("c", 5.0))]
base = (Unit("base", 30, "file"),)
sharing = [Item(name, "python", Size(10, base), 2.0) for name in "ab"]
print(json.dumps([turns(*alone), turns(*sharing, Item("c", "python", Size(45), 3.0))]))
"""


def test_what_knowing_the_future_saves() -> None:
    """Of three in turn two fit: the second goes for the others. If two share files, all three fit."""
    command = [BENCH_PYTHON, "-c", _KNOWING, ROOT / "benchmarks/hit_rates", ROOT / "dev"]
    found = subprocess.run(command, capture_output=True, check=True)
    alone, sharing = json.loads(found.stdout.splitlines()[-1])
    assert alone == [pytest.approx(6.0), 6.0, 0.0]
    assert sharing == [pytest.approx(7.0), 7.0, 7.0]


def test_what_is_shared_takes_its_bytes_once() -> None:
    """Two envs of ten bytes with a hundred in common are 120; the second adds ten."""
    world, one, other = World(1000), item("one", 10, base=100), item("other", 10, base=100)
    world.add(one)
    assert (world.used, world.needs(other)) == (110, 10)
    world.add(other)
    world.drop(one)
    assert (world.used, world.needs(one)) == (110, 10)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_rules(policy: type[Policy]) -> None:
    """Nothing in use goes (World.drop would raise), and what is stored fits unless all of it is in use."""
    chance = random.Random(1)
    items = [item(f"{n}", chance.randrange(5, 60), chance.random() * 9, base=30) for n in range(20)]
    items += [item(f"alone{n}", chance.randrange(5, 90), chance.random() * 9) for n in range(30)]
    spans = [
        (chance.choice(items), at := chance.random() * 3000, at + chance.random() * 40) for _ in range(900)
    ]
    worlds = list[World]()

    class Watched(policy):  # type: ignore[misc,valid-type]  # a class made at run time
        def make_room(self, world: World, missing: int, now: float, coming: Item | None) -> list[Item]:
            worlds.append(world)
            gone: list[Item] = super().make_room(world, missing, now, coming)
            assert len(set(gone)) == len(gone)
            left = [each for each in world.there if each not in gone and not world.busy(each)]
            after = World(world.capacity)
            for each in world.there:
                if each not in gone:
                    after.add(each)
            assert not left or world.used - after.used >= missing
            return gone

    found = replay(used(*spans), 400, Watched)
    assert worlds
    assert 0 < found.hits < found.requests
    assert found.evictions > 0


def test_hyperbolic_goes_by_uses_for_each_request_since_an_item_came() -> None:
    """Three uses of nine requests are more than one of four; three of sixty-seven are less."""
    for requests, gone in ((2, "new"), (60, "old")):
        old, new, third = item("old", 50), item("new", 50), item("third", 50)
        turns = [old, old, old, *[third] * requests, new, *[third] * 4]
        policy, world = Hyperbolic(used((old, 0, 1)), 150), World(150)
        for each in turns:
            if each in world.there:
                policy.hit(each, 0)
            else:
                world.add(each)
                policy.built(each, 0)
        assert next(policy.victims(world)).name == gone


def test_hit_density_is_hits_for_the_time_still_taken() -> None:
    """As the paper defines it: at each age, the hits to come by the sum of the rest of all lifetimes."""
    chance, ages = random.Random(1), Ages(40, 1.0)
    for line in (ages.hits, ages.evictions):
        line[:30] = [float(chance.randrange(9)) for _ in range(30)]
    hits, events = list(ages.hits), [sum(pair) for pair in zip(ages.hits, ages.evictions, strict=True)]
    ages.model(0.5)
    for age in range(30):
        later = range(age, 40)
        taken = sum((x - age + 1) * events[x] for x in later)
        assert ages.density[age] == pytest.approx(sum(hits[age:]) / taken)
    assert ages.density[35] == 0
    assert ages.hits == [n / 2 for n in hits]


def test_lhd_learns_what_a_loop_needs() -> None:
    """Sixty in turn where forty fit: LRU never has what is wanted, LHD learns to keep a part."""
    items = [item(f"{n}", 10) for n in range(60)]
    turns = used(*((items[n % 60], 10.0 * n, 10.0 * n + 1) for n in range(6000)))
    assert replay(turns, 400, Lru).hits == 0
    assert replay(turns, 400, Lhd).hit_rate > 0.3


@pytest.mark.parametrize("generator", GENERATORS)
def test_workloads_are_the_same_each_time(generator: object) -> None:
    """A seed says all; another seed is another workload."""
    one, same, other = (
        [(use.time, use.item.name, use.item.size, use.held) for use in generator(seed).uses]  # type: ignore[operator]  # a generator of the table
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_a_recorded_trace(tmp_path: Path) -> None:
    """Acquires and releases are paired in their order; what is not given back is in use until the end."""
    name = {"owner": 7, "kind": "python", "digest": "ab"}
    size = {"bytes": 10, "units": [["u", 5]], "build_seconds": 2.5, "fetched_bytes": 4}
    lines = [
        {"time": 1.0, "event": "build", **name, **size},
        {"time": 1.0, "event": "acquire", "number": 1, **name},
        {"time": 2.0, "event": "acquire", "number": 1, **name},
        {"time": 4.0, "event": "release", "number": 1, **name},
        {"time": 5.0, "event": "lost", "number": 3},
        {"time": 9.0, "event": "evict", **name},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_trace(path).uses
    assert (first.time, first.held, second.time, second.held) == (1.0, 3.0, 2.0, 7.0)
    assert (first.item.size, first.item.seconds) == (Size(10, (Unit("u", 5, "file"),)), 2.5)
    path.write_text("")
    with pytest.raises(ValueError, match="nobody used anything"):
        read_trace(path)
