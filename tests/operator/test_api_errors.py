"""An API server that fails again and again: every change still comes about, and nothing hammers at the server."""

import asyncio
import functools
import random
from bisect import bisect_left, insort
from collections import defaultdict

import fakecluster
from fakeapi import ApiError
from operator_kit import MUTATING, World, document
from waiting import eventually
from whole import WHOLE

SHARE = 0.3
_EACH = 1 - (1 - SHARE) ** 0.5
"""Of the requests before they are carried out, and of the others after that."""
RESOURCES, ROUNDS = (40, 5) if WHOLE else (15, 3)
"""200 operations, or some; all resources at the same time, since most of it is waiting."""
PAUSE_S = 6.0
"""From one change of a resource to the next at least: each of them takes many writes at once."""
WRITES_PER_S = 5.0
WINDOW_S = 10.0
"""The children of a new resource come at once, so the rate is that of some seconds."""


class Failing:
    """Answers a part of all requests with an error; some of these were carried out all the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.injected: dict[int, int] = defaultdict(int)
        self.writes: dict[str, list[float]] = defaultdict(list)
        """When each resource, or something of it, was to be changed."""

    async def __call__(self, request, phase: str) -> None:
        if phase == "before" and request.method in MUTATING:
            self._count(request.path)
        if self._random.random() >= _EACH:
            return
        if phase == "after":
            if request.query.get("watch"):
                return  # its answer has been sent
            self._fail(504)
        self._fail(self._random.choice((409, 429, 500, 503) if request.method in MUTATING else (429, 500, 503)))

    def _fail(self, code: int) -> None:
        self.injected[code] += 1
        raise ApiError(code, f"Injected{code}", "injected")

    def _count(self, path: str) -> None:
        name = path.partition("/namespaces/default/")[2].partition("/")[2].partition("/")[0]
        if name:
            insort(self.writes[name.partition("-")[0]], asyncio.get_running_loop().time())

    def most(self) -> float:
        """The most writes a second to one resource, over any window."""
        most = 0
        for times in self.writes.values():
            most = max([most, *(bisect_left(times, at + WINDOW_S) - i for i, at in enumerate(times))])
        return most / WINDOW_S


def has_come_about(world: World, name: str, wanted: dict | None) -> bool:
    mine = world.controllers.pods(name).values()
    if wanted is None:
        return world.key(name) not in world.server.objects and not mine
    images = [pod["spec"]["containers"][0]["image"] for pod in mine]
    return world.is_ready(name) and images == [wanted["image"]] * wanted["replicas"]


async def life(world: World, name: str, chance: random.Random) -> dict | None:
    """So many changes of one resource, each when the one before has come about; how it is to be at the end."""
    wanted: dict | None = None
    for _ in range(ROUNDS):
        if wanted is not None and chance.random() < 0.15:
            wanted = None
            world.delete(name)
        else:
            wanted = {"replicas": chance.randint(1, 4), "image": f"a:{chance.randint(1, 3)}"}
            world.apply(document(name, **wanted))
        began = asyncio.get_running_loop().time()
        await eventually(functools.partial(has_come_about, world, name, wanted), what=f"{name}: {wanted}")
        await asyncio.sleep(began + PAUSE_S - asyncio.get_running_loop().time())
    return wanted


async def test_changes_with_thirty_percent_errors(world):
    failing = Failing(seed=7)
    await world.operator(resync_s=5.0)
    world.server.hooks.append(failing)
    names = [f"r{n}" for n in range(RESOURCES)]
    ends = await asyncio.gather(*(life(world, name, random.Random(name)) for name in names))
    world.server.hooks.clear()
    for code in (409, 429, 500, 503, 504):
        assert failing.injected[code] > RESOURCES * ROUNDS // 10, failing.injected
    most = failing.most()
    print(
        f"at most {most:.1f} writes a second to one resource, over {WINDOW_S:.0f} s; errors: {dict(failing.injected)}"
    )
    assert most <= WRITES_PER_S
    await eventually(lambda: all(has_come_about(world, n, w) for n, w in zip(names, ends, strict=True)))
    alive = {name for name, end in zip(names, ends, strict=True) if end is not None}
    assert {p["metadata"]["labels"]["serving.argosy.dev/name"] for p in world.controllers.pods().values()} == alive
    children = [key for key in world.server.objects if key.gvr in fakecluster.CHILDREN]
    assert {key.name.split("-")[0] for key in children} == alive
