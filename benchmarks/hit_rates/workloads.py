"""The workloads that are generated; equal seeds give equal ones."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from catalogue import environment, package, revision, variant
from items import DAY, HOUR, START, Item, Use, Workload, workload

from ray_envd.cache.sizes import Size


def zipf_drift(seed: int) -> Workload:
    """Two weeks; popularity is Zipf's (0.9) and a twentieth of the ranks change places each day."""
    chance = random.Random(f"zipf {seed}")
    items = [_any(chance, f"zipf{n}") for n in range(400)]
    weights = [1 / rank**0.9 for rank in range(1, len(items) + 1)]
    uses = list[Use]()
    for day in range(14):
        for _ in range(len(items) // 20):
            one, other = chance.randrange(len(items)), chance.randrange(len(items))
            items[one], items[other] = items[other], items[one]
        for item in chance.choices(items, weights, k=400):
            uses.append(_use(chance, item, day * DAY + chance.random() * DAY))
    return workload("zipf drift", str(zipf_drift.__doc__), uses)


def scans(seed: int) -> Workload:
    """Ten days of Zipf's (1.0), and each night a test matrix of 120 envs that are never wanted again."""
    chance = random.Random(f"scan {seed}")
    items = [_any(chance, f"scan{n}") for n in range(200)]
    weights = [1 / rank for rank in range(1, len(items) + 1)]
    uses = list[Use]()
    for day in range(10):
        for item in chance.choices(items, weights, k=350):
            uses.append(_use(chance, item, day * DAY + chance.random() * DAY))
        for step in range(120):
            once = _any(chance, f"matrix{day}.{step}")
            uses.append(_use(chance, once, day * DAY + 2 * HOUR + step * 60, mean=120))
    return workload("scans", str(scans.__doc__), uses)


def serving(seed: int) -> Workload:
    """Three weeks of 120 services with hours of their own: replicas come and go by day, few at weekends.

    Each has an environment and a working dir that changes every few days; ad-hoc jobs run beside them.
    """
    chance = random.Random(f"serving {seed}")
    uses = list[Use]()
    for number in range(120):
        env = environment(chance, f"service{number}")
        opens, lasts = chance.uniform(5, 11) * HOUR, chance.uniform(4, 12) * HOUR
        weekend, version = chance.random() < 0.2, 0
        code = package(chance, f"service{number}.v0")
        for day in range(21):
            if day % 7 >= 5 and not weekend:
                continue
            if chance.random() < 0.2:
                version += 1
                code = revision(code, f"service{number}.v{version}")
            begin = day * DAY + opens + chance.gauss(0, 600)
            for _ in range(1 + int(chance.expovariate(1.0))):
                start = begin + chance.random() ** 2 * lasts
                held = chance.uniform(0.05, 0.3) * lasts
                uses += [Use(START + start, env, held), Use(START + start, code, held)]
    jobs = [_any(chance, f"adhoc{n}") for n in range(150)]
    for _ in range(900):
        uses.append(_use(chance, jobs[int(150 * chance.random() ** 3)], chance.random() * 21 * DAY))
    return workload("serving windows", str(serving.__doc__), uses)


def weekly_batch(seed: int) -> Workload:
    """Six weeks: 150 pipelines once a week at their hour, often slow to build; 60 daily ones; small jobs."""
    chance = random.Random(f"weekly {seed}")
    uses = list[Use]()
    for number in range(150):
        item, at = environment(chance, f"weekly{number}", heavy=0.4), chance.random() * 7 * DAY
        for week in range(6):
            uses.append(_use(chance, item, week * 7 * DAY + at + chance.gauss(0, 900), mean=HOUR))
    for number in range(60):
        item, at = environment(chance, f"daily{number}"), chance.random() * DAY
        for day in range(42):
            uses.append(_use(chance, item, day * DAY + at + chance.gauss(0, 900), mean=1800))
    jobs = [_any(chance, f"small{n}") for n in range(300)]
    for _ in range(1500):
        uses.append(_use(chance, jobs[int(300 * chance.random() ** 2)], chance.random() * 42 * DAY))
    return workload("weekly batch", str(weekly_batch.__doc__), uses)


def notebooks(seed: int) -> Workload:
    """Ten working days of 16 people: each goes on changing an env, and runs each version a few times.

    Versions of one person's env share most of their packages; now and then somebody goes back to an old one.
    """
    chance = random.Random(f"notebook {seed}")
    uses = list[Use]()
    for person in range(16):
        versions = [environment(chance, f"note{person}.0")]
        for day in range(10):
            now = (day + 2 * (day // 5)) * DAY + chance.uniform(7, 11) * HOUR
            end = now + chance.uniform(4, 9) * HOUR
            while now < end:
                if chance.random() < 0.35:
                    versions.append(variant(chance, versions[-1], f"note{person}.{len(versions)}"))
                back = chance.random() < 0.15
                item = chance.choice(versions) if back else versions[-1]
                uses.append(_use(chance, item, now, mean=600))
                now += chance.expovariate(1 / 2400)
    return workload("notebook churn", str(notebooks.__doc__), uses)


def notebooks_apart(seed: int) -> Workload:
    """The same people with environments that share nothing: each version has all of its bytes for itself."""
    whole = notebooks(seed)
    apart = {each: replace(each, size=Size(each.size.apparent)) for each in whole.items}
    uses = [Use(use.time, apart[use.item], use.held) for use in whole.uses]
    return workload("notebooks apart", str(notebooks_apart.__doc__), uses)


def tenants(seed: int) -> Workload:
    """Two weeks of four teams on one node: services, a batch at night, notebooks, and tests on each commit.

    Their larger envs share a few base sets of packages; a commit's working dir is never wanted after its day.
    """
    chance = random.Random(f"tenants {seed}")
    bases = [environment(chance, f"base{n}", heavy=1.0) for n in range(4)]
    services = [variant(chance, chance.choice(bases), f"serve{n}") for n in range(30)]
    batch = [environment(chance, f"batch{n}", heavy=0.3) for n in range(60)]
    people = [[variant(chance, chance.choice(bases), f"person{n}.0")] for n in range(15)]
    tests = [environment(chance, f"tests{n}") for n in range(12)]
    uses = list[Use]()
    for day in range(14):
        working = day % 7 < 5
        if working:
            uses += _day_of_notebooks(chance, people, day)
        for item in services:
            for _ in range(1 + int(chance.expovariate(1))):
                uses.append(_use(chance, item, day * DAY + chance.uniform(7, 20) * HOUR, mean=2 * HOUR))
        for item in batch:
            if chance.random() < 0.8:
                uses.append(_use(chance, item, day * DAY + chance.uniform(0, 5) * HOUR, mean=900))
        for commit in range(25 if working else 3):
            at, code = day * DAY + chance.uniform(8, 19) * HOUR, package(chance, f"commit{day}.{commit}")
            for run in range(3):
                uses.append(_use(chance, code, at + 400 * run))
                uses.append(_use(chance, chance.choice(tests), at + 400 * run))
    return workload("mixed tenants", str(tenants.__doc__), uses)


def _day_of_notebooks(chance: random.Random, people: list[list[Item]], day: int) -> Iterator[Use]:
    for person, versions in enumerate(people):
        for _ in range(6):
            if chance.random() < 0.3:
                versions.append(variant(chance, versions[-1], f"person{person}.{len(versions)}"))
            yield _use(chance, versions[-1], day * DAY + chance.uniform(8, 18) * HOUR)


def projects(seed: int) -> Workload:
    """Half a year of 60 projects: each has a few envs for two to ten weeks, and leaves them behind."""
    chance = random.Random(f"projects {seed}")
    uses = list[Use]()
    for number in range(60):
        begin, days = chance.randrange(24) * 7, chance.randrange(14, 70)
        envs = [environment(chance, f"project{number}.{n}") for n in range(chance.randrange(2, 6))]
        for item in (*envs, package(chance, f"project{number}.code")):
            often = min(0.9, chance.expovariate(2.0))
            for day in range(begin, begin + days):
                while day % 7 < 5 and chance.random() < often:
                    uses.append(_use(chance, item, day * DAY + chance.uniform(8, 20) * HOUR))
    return workload("projects", str(projects.__doc__), uses)


GENERATORS: tuple[Callable[[int], Workload], ...] = (
    zipf_drift,
    scans,
    serving,
    weekly_batch,
    notebooks,
    notebooks_apart,
    tenants,
    projects,
)


def generated(seed: int) -> Iterator[Workload]:
    """All of them."""
    return (make(seed) for make in GENERATORS)


def _any(chance: random.Random, name: str) -> Item:
    """An environment or, as often, a package."""
    return environment(chance, name) if chance.random() < 0.5 else package(chance, name)


def _use(chance: random.Random, item: Item, time: float, mean: float = 300.0) -> Use:
    """A use that lasts for about so many seconds."""
    return Use(START + time, item, max(1.0, chance.lognormvariate(math.log(mean), 1.0)))
