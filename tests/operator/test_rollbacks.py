"""Readiness gates, rollbacks and partitions on a fake cluster."""

import asyncio
from dataclasses import asdict

import fakecluster
import pytest
from operator_kit import document, unpullable
from waiting import eventually

from argosy_api.measures import Measures, bucket
from argosy_operator import diagnose, gate
from argosy_operator.errors import ApiError
from argosy_operator.facts import RouterFacts
from argosy_operator.observe import PodView

GATE = "argosy.dev/routable"


def pod(**facts) -> PodView:
    return PodView(**{"name": "p", "uid": "u", "gated": True, "answering": True} | facts)


@pytest.mark.parametrize(
    ("router", "opens"),
    [
        (None, True),  # nobody is asked in this installation
        (RouterFacts(reachable=0, total=0, ready=frozenset(), asked=False), False),  # an operator that has just begun
        (RouterFacts(reachable=0, total=2, ready=frozenset(), error="refused"), True),  # none that answers
        (RouterFacts(reachable=0, total=0, ready=frozenset(), error="no address"), True),  # scaled to zero
        (RouterFacts(reachable=1, total=2, ready=frozenset(), reached=frozenset({"p"})), True),
        (RouterFacts(reachable=2, total=2, ready=frozenset(), reached=frozenset({"other"})), False),
    ],
)
def test_when_a_gate_opens(router, opens):
    assert gate.opens(pod(), router) is opens
    assert not gate.opens(pod(answering=False), router)
    assert not gate.opens(pod(gated=False), router)
    assert not gate.opens(pod(terminating=True), router)


async def test_gates_open_several_at_a_time_and_one_that_is_refused_stops_no_other():
    under_way, most, calls = 0, 0, []

    class Api:
        async def apply_pod_condition(self, namespace, name, uid, condition):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            calls.append(uid)
            if uid == "u3":
                raise ApiError(500, "InternalError", "not now")
            if uid == "u4":
                raise ApiError(404, "NotFound", "gone")

    pods = tuple(pod(name=f"p{n}", uid=f"u{n}") for n in range(100))
    opened = {"u0", "of a pod that has gone"}
    refusal = await gate.open_gates(Api(), "default", pods, None, opened)
    assert refusal is not None
    assert refusal.status == 500
    assert sorted(calls) == sorted(f"u{n}" for n in range(1, 100))
    assert opened == {p.uid for p in pods} - {"u3", "u4"}
    assert 1 < most <= 8


def revisions(world) -> dict[str, str]:
    """Image -> state of all ControllerRevisions."""
    return {
        r["data"]["templates"]["leader"]["spec"]["containers"][0]["image"]: r["metadata"]["labels"][
            "serving.argosy.dev/state"
        ]
        for key, r in world.server.objects.items()
        if key.gvr == fakecluster.REVISIONS
    }


def images(world) -> list[str]:
    return sorted(p["spec"]["containers"][0]["image"] for p in world.controllers.pods("m").values())


async def test_old_pods_stay_until_every_router_reaches_the_new_ones(world, serve):
    workers: dict[str, str] = {}
    answer = {"namespace": "default", "name": "m"}

    def routes(path):
        listed = [{"worker_id": w, "revision": "", "state": s} for w, s in workers.items()]
        return {"deployments": [answer | {"workers": listed}]} if path == "/routes" else None

    def reach_all(state="ready"):
        workers.update(dict.fromkeys(world.controllers.pods("m"), state))

    await world.operator(router_status_url=f"http://127.0.0.1:{await serve(routes)}/routes")
    world.apply(document(replicas=2, image="a:1"))
    await eventually(lambda: len(world.controllers.pods("m")) == 2)
    await eventually(lambda: world.condition("Ready")[1] == "Syncing")
    assert world.status()["readyReplicas"] == 0
    reach_all("standby")
    await eventually(lambda: world.status()["readyReplicas"] == 2, what="gates are open")
    reach_all()
    await eventually(world.is_ready)
    old = set(world.controllers.pods("m"))

    world.apply(document(replicas=2, image="a:2"))
    await eventually(lambda: images(world) == ["a:1", "a:1", "a:2"])
    await eventually(lambda: world.condition("RouterSynced")[1] == "Syncing")
    assert old < set(world.controllers.pods("m"))
    assert world.status()["routableReplicas"] == 0

    def rolled() -> bool:
        reach_all()
        return images(world) == ["a:2", "a:2"] and world.is_ready()

    await eventually(rolled)
    gates = [c for p in world.controllers.pods("m").values() for c in p["status"]["conditions"] if c["type"] == GATE]
    assert [c["status"] for c in gates] == ["True", "True"]


async def test_a_gate_that_is_open_stays_so_without_routers_and_operator(world):
    first = await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    (before,) = world.controllers.pods("m").values()
    await world.stop(first)
    await world.operator(router_status_url="http://127.0.0.1:9/routes")
    await eventually(lambda: world.condition("RouterSynced")[1] == "RouterUnreachable")
    (after,) = world.controllers.pods("m").values()
    assert after == before


async def test_a_bad_image_is_taken_back_and_not_tried_again(world, monkeypatch):
    monkeypatch.setattr(diagnose, "HOPELESS_S", 0.0)
    world.controllers.fate = unpullable
    await world.operator(resync_s=0.5)
    world.apply(document(replicas=2, image="a:1"))
    await eventually(lambda: world.is_ready() and revisions(world) == {"a:1": "good"})
    good = world.status()["revision"]
    before = set(world.controllers.pods("m"))

    world.apply(document(replicas=2, image="bad:1"))
    await eventually(lambda: world.condition("Degraded")[:2] == ("True", "RolledBack"))
    await eventually(lambda: images(world) == ["a:1", "a:1"] and world.status()["updatedReplicas"] == 0)
    assert set(world.controllers.pods("m")) == before  # none of the good ones was replaced
    status = world.status()
    assert (status["currentRevision"], status["failedRevision"]) == (good, status["revision"])
    assert (status["ready"], status["updatedReplicas"], status["reason"]) == ("2/2", 0, "RolledBack")
    for kind, value in (("Ready", "False"), ("Progressing", "False"), ("Degraded", "True")):
        said = world.condition(kind)
        assert said[:2] == (value, "RolledBack")
        assert "Back-off pulling image" in said[2]
        assert good in said[2]
    assert revisions(world) == {"a:1": "good", "bad:1": "failed"}

    world.scale("m", 3)  # no reason to try it again, and no hindrance
    await eventually(lambda: images(world) == ["a:1"] * 3 and world.status()["ready"] == "3/3")
    assert revisions(world)["bad:1"] == "failed"

    world.apply(document(replicas=3, image="a:2"))
    await eventually(lambda: world.is_ready() and images(world) == ["a:2"] * 3)
    assert world.condition("Degraded")[:2] == ("False", "AsAsked")
    await eventually(lambda: revisions(world) == {"a:1": "good", "a:2": "good"})


async def test_what_was_taken_back_is_tried_again_when_asked_to(world, monkeypatch):
    monkeypatch.setattr(diagnose, "HOPELESS_S", 0.0)
    world.controllers.fate = unpullable
    await world.operator()
    world.apply(document(image="a:1"))
    await eventually(lambda: revisions(world) == {"a:1": "good"})
    world.apply(document(image="bad:1"))
    await eventually(lambda: world.condition("Ready")[1] == "RolledBack")
    world.controllers.fate = fakecluster.ready
    world.apply(document(image="bad:1", rollout={"restart": 1}))
    await eventually(lambda: world.is_ready() and images(world) == ["bad:1"])


async def test_an_operator_that_comes_anew_knows_what_failed(world, monkeypatch):
    monkeypatch.setattr(diagnose, "HOPELESS_S", 0.0)
    world.controllers.fate = unpullable
    first = await world.operator()
    world.apply(document(image="a:1"))
    await eventually(lambda: revisions(world) == {"a:1": "good"})
    world.apply(document(image="bad:1"))
    await eventually(lambda: world.condition("Degraded")[0] == "True" and images(world) == ["a:1"])
    await world.stop(first)
    calls = len(world.calls("PATCH"))
    await world.operator()
    await eventually(lambda: len(world.calls("PATCH")) > calls)
    await asyncio.sleep(0.3)
    assert images(world) == ["a:1"]
    assert world.condition("Degraded")[:2] == ("True", "RolledBack")


async def test_a_partition_lets_some_workers_be_new(world):
    world.controllers.fate = unpullable
    await world.operator()
    world.apply(document(replicas=3, image="a:1"))
    await eventually(lambda: revisions(world) == {"a:1": "good"})
    world.apply(document(replicas=3, image="a:2", rollout={"partition": 1}))
    await eventually(lambda: images(world) == ["a:1", "a:2", "a:2"])
    await eventually(lambda: world.condition("Progressing")[:2] == ("True", "Partitioned"))
    world.scale("m", 4)
    await eventually(lambda: images(world) == ["a:1", "a:2", "a:2", "a:2"])
    world.apply(document(replicas=4, image="a:2"))
    await eventually(lambda: world.is_ready() and images(world) == ["a:2"] * 4)
    assert world.child(fakecluster.DEPLOYMENTS, "m-leader-canary") is None


async def test_recreate_leaves_no_setting_of_rolling_behind(world):
    await world.operator()
    world.apply(document(rollout={"strategy": "Recreate"}))
    await eventually(world.is_ready)
    assert world.child(fakecluster.DEPLOYMENTS)["spec"]["strategy"] == {"type": "Recreate", "rollingUpdate": None}
    world.apply(document(image="a:2", rollout={"strategy": "Recreate"}))
    await eventually(lambda: world.is_ready() and images(world) == ["a:2"])


def measures(requests: int, ttft: float) -> dict:
    made = Measures(requests=requests)
    made.ttft[bucket(ttft)] = made.itl[bucket(0.01)] = requests
    return asdict(made)


@pytest.mark.parametrize(("ttft", "ends"), [(0.1, "Complete"), (0.3, "RolledBack")])
async def test_a_canary_goes_as_far_as_its_own_times_allow(world, serve, ttft, ends):
    """As slow as the others: all workers become like it. Three times as slow: it is taken back."""
    told: dict = {}

    def routes(path):
        workers = [{"worker_id": w, "revision": "", "state": "ready"} for w in world.controllers.pods("m")]
        return {"deployments": [{"namespace": "default", "name": "m", "workers": workers, **told}]}

    await world.operator(router_status_url=f"http://127.0.0.1:{await serve(routes)}/routes", resync_s=1.0)
    world.apply(document(replicas=2, image="a:1"))
    await eventually(lambda: revisions(world) == {"a:1": "good"})
    steps = [{"weight": 10, "pauseSeconds": 0}, {"weight": 80, "pauseSeconds": 0}]
    rollout = {"strategy": "Canary", "canary": {"steps": steps, "analysis": {"minRequests": 20}}}
    world.apply(document(replicas=2, image="a:2", rollout=rollout))
    await eventually(lambda: images(world) == ["a:1", "a:1", "a:2"])
    await eventually(lambda: "No router tells" in world.status().get("canary", {}).get("message", ""))
    status = world.status()
    assert (status["canary"]["revision"], status["canary"]["weight"]) == (status["revision"], 10)
    assert world.condition("Ready")[:2] == ("False", "Canary")
    assert world.condition("Progressing")[:2] == ("True", "Canary")
    assert world.condition("Degraded")[0] == "False"
    assert status["ready"] == "2/2"

    told["trial"] = {"revision": status["revision"], "canary": measures(9, ttft), "stable": measures(99, 0.1)}
    await eventually(lambda: "9 requests of the canary" in world.status()["canary"]["message"])
    assert world.status()["canary"]["step"] == 1
    told["trial"]["canary"] = measures(50, ttft)
    await eventually(lambda: world.condition("Progressing")[1] == ends)
    assert "canary" not in world.status()
    if ends == "Complete":
        await eventually(lambda: images(world) == ["a:2", "a:2"] and world.is_ready())
        assert revisions(world) == {"a:1": "good", "a:2": "good"}
    else:
        await eventually(lambda: images(world) == ["a:1", "a:1"])
        assert "Its median time to the first token is" in world.condition("Degraded")[2]
        assert revisions(world) == {"a:1": "good", "a:2": "failed"}
    assert world.child(fakecluster.DEPLOYMENTS, "m-leader-canary") is None
