"""An operator that is killed after any of its calls loses nothing, leaves nothing behind, and makes nothing twice.

Each story is told once with an operator that lives; then once for each of the changing calls of that one, whose operator
dies after it: the call is carried out, and nobody learns of it. Another one then comes to the same end within 30 s. The
stories of all calls run side by side, each on a fake cluster of its own; most of the time they wait.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import fakecluster
import pytest
from operator_kit import MUTATING, World, document, unpullable
from waiting import eventually
from whole import places

from argosy_api.measures import Measures, bucket
from argosy_operator import diagnose, routers
from argosy_operator.autoscaling import pilot
from argosy_operator.manifests import PlanSettings

PLAN = PlanSettings(redis_url="redis://:secret@127.0.0.1:1/0")
"""Redis is away, too: nothing may wait for it."""
LIMIT = 80
"""More calls than any of these stories has."""
WITHIN_S = 30.0
SIDE_BY_SIDE = 6
STEPS = [{"weight": 10, "pauseSeconds": 0}, {"weight": 60, "pauseSeconds": 0}]
CANARY = {"strategy": "Canary", "canary": {"steps": STEPS, "analysis": {"minRequests": 20}}}
SCALED = {"maxReplicas": 4, "scaleDown": {"stabilizationSeconds": 0, "maxStep": 4}}


def measures(ttft: float) -> dict:
    made = Measures(requests=50)
    made.ttft[bucket(ttft)] = made.itl[bucket(0.01)] = 50
    return asdict(made)


@dataclass
class Router:
    """What a router of this world says: it reaches all pods."""

    world: World
    canary_ttft: float | None = None
    """None: it measures nothing."""
    queue_s: float | None = None
    """None: it tells no demand."""

    def __call__(self, path: str) -> dict:
        pods = sorted(self.world.controllers.pods("m"))
        load = {"age_s": 0.1, "requests": 1, "kv_used": 0.0, "prefill_rate": 100.0, "itl_s": 0.0}
        load["queue_s"] = (self.queue_s or 0.0) / max(1, len(pods))
        workers = [{"worker_id": name, "revision": "", "state": "ready", "load": load} for name in pods]
        said = {"namespace": "default", "name": "m", "workers": workers}
        if self.queue_s is not None:
            said["demand"] = {"held": 0, "in_flight": 1, "idle_s": 0.0, "prompt_rate": 0.0, "ttft": {}}
        if self.canary_ttft is not None and (canary := self.world.status().get("canary")):
            sides = {"canary": measures(self.canary_ttft), "stable": measures(0.1)}
            said["trial"] = {"revision": canary["revision"], **sides}
        return {"deployments": [said]}


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a user does, and how it ends."""

    change: Callable[[World], None]
    images: list[str]
    """Of the workers at the end."""
    reason: str = "Ready"
    """Of the Ready condition at the end."""
    begin: dict | None = field(default_factory=lambda: {"replicas": 2, "image": "a:1"})
    """The resource before; None: there is none."""
    most: int
    """Pods that there may be at any time, those beside the others among them."""
    serving: int = 0
    """Pods that are ready at any time."""
    pods_each: int = 1
    """Pods of a worker at the end."""
    router: dict | None = None
    """What the router tells; None: there is none."""
    after: dict = field(default_factory=dict)
    """What the router tells once the user has done it."""


def spec(**fields) -> Callable[[World], None]:
    return lambda world: world.apply(document(**{"replicas": 2, "image": "a:1"} | fields))


def revert(world: World) -> None:
    """Something else is wanted, and at once the former again."""
    world.apply(document(replicas=2, image="a:2"))
    world.apply(document(replicas=2, image="a:1"))


STORIES = {
    "create": Story(change=spec(), begin=None, images=["a:1"] * 2, most=2),
    "update": Story(change=spec(disruption={"maxUnavailable": 2}), images=["a:1"] * 2, most=2, serving=2),
    "scale up": Story(change=spec(replicas=4), images=["a:1"] * 4, most=4, serving=2),
    "scale down": Story(change=spec(replicas=1), images=["a:1"], most=2, serving=1),
    "scale to zero": Story(change=spec(replicas=0), images=[], reason="ScaledToZero", most=2),
    "autoscaling down": Story(
        change=lambda _: None, begin={"autoscaling": SCALED, "image": "a:1"}, images=["a:1"], most=3, serving=1,
        router={"queue_s": 2.5}, after={"queue_s": 0.0},
    ),
    "rollout": Story(change=spec(image="a:2"), images=["a:2"] * 2, most=3, serving=2),
    "rollout and scale": Story(
        change=spec(replicas=3, engine={"maxRunning": 9}), images=["a:1"] * 3, most=4, serving=2
    ),
    "recreate": Story(change=spec(image="a:2", rollout={"strategy": "Recreate"}), images=["a:2"] * 2, most=2),
    "partition": Story(
        change=spec(replicas=3, image="a:2", rollout={"partition": 1}), images=["a:1", "a:2", "a:2"],
        reason="Partitioned", most=5, serving=2,
    ),
    "rollback": Story(change=spec(image="bad:1"), images=["a:1"] * 2, reason="RolledBack", most=3, serving=2),
    "revert": Story(change=revert, images=["a:1"] * 2, most=3, serving=2),
    "canary": Story(
        change=spec(image="a:2", rollout=CANARY), images=["a:1", "a:1", "a:2"], reason="Canary", most=3, serving=2
    ),
    "canary completed": Story(
        change=spec(image="a:2", rollout=CANARY), images=["a:2"] * 2, most=5, serving=2, router={"canary_ttft": 0.1}
    ),
    "canary rejected": Story(
        change=spec(image="a:2", rollout=CANARY), images=["a:1"] * 2, reason="RolledBack", most=3, serving=2,
        router={"canary_ttft": 0.3},
    ),
    "groups": Story(
        change=spec(uri="pvc://models/m.gguf", parallelism={"pipeline": 2}), images=["a:1"] * 4, most=6, serving=2,
        pods_each=2,
    ),
    "delete": Story(change=lambda world: world.delete("m"), images=[], most=2),
    "delete in a rollout": Story(
        change=lambda world: (spec(image="bad:1")(world), world.delete("m")), images=[], most=3
    ),
}  # fmt: skip


def _changing_calls(world: World) -> int:
    return sum(method in MUTATING for method, _ in world.server.requests)


def _images(world: World) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["image"] for pod in world.controllers.pods("m").values())


def _is_told(world: World) -> bool:
    """The status is about the present spec."""
    resource = world.server.objects[world.key("m")]
    return resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]


def _done(world: World, story: Story) -> bool:
    if world.key("m") not in world.server.objects:
        return not world.children()
    told = _is_told(world) and world.status()["replicas"] * story.pods_each == len(story.images)
    return told and _images(world) == story.images and world.condition("Ready")[1] == story.reason


async def _quiet(world: World) -> None:
    """No changing call for as long as the operator's own echo lasts."""
    until, count = 0.0, -1
    loop = asyncio.get_running_loop()
    while loop.time() < until or count != _changing_calls(world):
        if count != _changing_calls(world):
            count, until = _changing_calls(world), loop.time() + 0.5
        await asyncio.sleep(0.02)


class Guard:
    """Looks at every change of the cluster: whether something is there twice, or too few serve."""

    def __init__(self, world: World, story: Story) -> None:
        self._world, self._story = world, story
        self.broken: list[str] = []
        self.armed = False

    async def run(self) -> None:
        queue = self._world.server.listen()
        while True:
            await queue.get()
            while not queue.empty():
                queue.get_nowait()
            pods = self._world.controllers.pods("m").values()
            ready = sum(fakecluster._is_ready(pod) for pod in pods)
            if len(pods) > self._story.most and self.armed:
                self.broken.append(f"{len(pods)} pods: {_images(self._world)}")
            if ready < self._story.serving and self.armed:
                self.broken.append(f"{ready} pods serve: {_images(self._world)}")


def _end(world: World) -> tuple[dict, dict]:
    """What is there, and what is told of it, without what differs from run to run."""
    status = world.status()
    told = {name: status.get(name) for name in ("ready", "revision", "currentRevision", "failedRevision", "replicas")}
    told |= {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", ())}
    return world.picture(), told


async def _tell(story: Story, serve, k: int = 0, reference: object = None) -> tuple[object, int]:
    """The end of the story with an operator that dies after its k-th changing call, and how many there were.

    With k = 0 nobody dies, and the end is the reference that all others must come to.
    """
    world = World()
    world.plan, world.controllers.fate = PLAN, unpullable
    router = Router(world, **story.router) if story.router is not None else None
    if router is not None:
        world.extra = {"router_status_url": f"http://127.0.0.1:{await serve(router)}/routes", "resync_s": 1.0}
    guard = Guard(world, story)
    async with world.serving(), asyncio.TaskGroup() as group:
        watch = group.create_task(guard.run())
        if story.begin is not None:
            first = await world.operator()
            world.apply(document(**story.begin))
            wanted = 3 if "autoscaling" in story.begin else 2
            await eventually(
                lambda: _images(world) == ["a:1"] * wanted and world.is_ready() and world.status()["currentRevision"],
                what="the beginning",
            )
            await _quiet(world)
            await world.stop(first)
        guard.armed = True
        for name, value in story.after.items():
            setattr(router, name, value)
        story.change(world)
        if k:
            dead = world.die_after(k)
            victim = await world.operator()
            await eventually(lambda: dead.is_set() or _done(world, story), what="death or the end")
            await world.stop(victim)
            world.server.hooks.clear()
        before = _changing_calls(world)
        heir = await world.operator()
        after = f"after death at call {k}"
        await eventually(lambda: _done(world, story), what=f"the end, {after}", within=WITHIN_S)
        if k:
            await eventually(lambda: _end(world) == reference, what=f"the same end, {after}", within=WITHIN_S)
        await _quiet(world)
        end, calls = _end(world), _changing_calls(world) - before
        assert not k or end == reference, f"it did not stay so {after}"
        guard.armed = False
        world.delete("m")
        await eventually(lambda: world.key("m") not in world.server.objects and not world.children())
        await world.stop(heir)
        assert not world.children()
        assert not [key for key in world.server.objects if key.gvr in fakecluster.CHILDREN]
        watch.cancel()
    assert guard.broken == [], after
    return end, calls


@pytest.mark.parametrize("name", STORIES)
async def test_killed_after_each_call(serve, name, monkeypatch):
    """After every third one, that is, unless all are asked for (`make test-operator`)."""
    monkeypatch.setattr(diagnose, "HOPELESS_S", 0.0)
    monkeypatch.setattr(pilot, "AGAIN_S", 0.1)
    monkeypatch.setattr(routers, "SETTLED_S", 0.2)
    story = STORIES[name]
    reference, calls = await _tell(story, serve)
    assert 0 < calls < LIMIT
    seats = asyncio.Semaphore(SIDE_BY_SIDE)

    async def told(k: int) -> None:
        async with seats:
            await _tell(story, serve, k, reference)

    async with asyncio.TaskGroup() as group:
        for k in places(calls, name):
            group.create_task(told(k))
