"""The operator on a fake API server: create, scale, change, drift, delete, faults."""

import copy
import random

import fakecluster
import pytest
from fakeapi import ApiError, Key
from operator_kit import document
from waiting import eventually

from argosy_api.backoff import Backoff
from argosy_operator import kopf_edge, reconcile
from argosy_operator.manifests import PlanSettings


async def test_create_scale_update_delete(world):
    await world.operator()
    world.apply(document(replicas=2))
    await eventually(world.is_ready, what="ready")
    assert len(world.controllers.pods("m")) == 2
    status = world.status()
    assert (status["ready"], status["replicas"], status["readyReplicas"], status["routableReplicas"]) == (
        "2/2",
        2,
        2,
        2,
    )
    assert status["selector"] == "app.kubernetes.io/component=worker,serving.argosy.dev/name=m"
    assert status["observedGeneration"] == world.server.objects[world.key("m")]["metadata"]["generation"]

    revision = status["revision"]
    world.scale("m", 3)
    await eventually(lambda: world.is_ready() and len(world.controllers.pods("m")) == 3)
    assert world.status()["revision"] == revision

    world.apply(document(replicas=1, engine={"maxRunning": 7}))
    await eventually(lambda: world.is_ready() and world.status()["revision"] != revision)
    pods = world.controllers.pods("m")
    assert [p["metadata"]["labels"]["serving.argosy.dev/revision"] for p in pods.values()] == [
        world.status()["revision"]
    ]

    world.delete("m")
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())


async def test_only_a_finalizer_is_left_on_the_resource(world):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    metadata = world.server.objects[world.key("m")]["metadata"]
    assert metadata["finalizers"] == ["serving.argosy.dev/operator"]
    assert not metadata.get("annotations")


@pytest.mark.parametrize(
    "gvr", [g for g in fakecluster.CHILDREN if g not in (fakecluster.SECRETS, fakecluster.CONFIGS)]
)
async def test_a_deleted_child_comes_back(world, gvr):
    world.plan = PlanSettings(worker_ingress=())
    await world.operator()
    grouped = {"uri": "pvc://models/m.gguf", "parallelism": {"pipeline": 2}} if gvr == fakecluster.SETS else {}
    world.apply(document(**grouped))
    await eventually(world.is_ready)
    before = world.picture()
    key = next(k for k in world.children() if k.gvr == gvr)
    world.server.delete(key)
    await eventually(lambda: world.picture() == before and world.is_ready(), what="the child")


@pytest.mark.parametrize(
    ("gvr", "change"),
    [
        (fakecluster.DEPLOYMENTS, lambda o: o["spec"].update(replicas=5)),
        (fakecluster.DEPLOYMENTS, lambda o: o["spec"]["template"]["spec"]["containers"][0].update(image="evil")),
        (fakecluster.DEPLOYMENTS, lambda o: o["metadata"]["labels"].update({"app.kubernetes.io/name": "other"})),
        (fakecluster.SERVICES, lambda o: o["spec"].update(publishNotReadyAddresses=True)),
        (fakecluster.BUDGETS, lambda o: o["spec"].update(maxUnavailable=9)),
        (fakecluster.ACCOUNTS, lambda o: o.update(automountServiceAccountToken=True)),
    ],
)
async def test_drift_is_put_right(world, gvr, change):
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    before = world.picture()
    key = next(k for k in world.children() if k.gvr == gvr)
    changed = copy.deepcopy(world.server.objects[key])
    change(changed)
    world.server.update(key, changed)
    assert world.picture() != before
    await eventually(lambda: world.picture() == before)


async def test_nothing_is_written_when_nothing_changes(world):
    await world.operator(resync_s=0.3)
    world.apply(document(replicas=2))
    await eventually(world.is_ready)
    await eventually(lambda: world.status().get("ready") == "2/2")

    async def five_passes_wrote_nothing() -> bool:
        """At first the operator follows the echo of its own writes, for as long as the machine takes."""
        passes, writes = _passes(world), _writes(world)
        await eventually(lambda: _passes(world) >= passes + 5, what="resync passes")
        return _writes(world) == writes

    await eventually(five_passes_wrote_nothing)
    assert await five_passes_wrote_nothing()


async def test_a_status_that_was_not_written_is_written_later(world):
    """404 is also what an API server says for a moment after a definition has changed."""
    refused = []

    async def not_served(request, phase):
        if phase == "before" and request.path.endswith("/m/status") and len(refused) < 2:
            refused.append(1)
            raise ApiError(404, "NotFound", "404 page not found")

    world.server.hooks.append(not_served)
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready, within=30.0)
    assert len(refused) == 2


async def test_what_a_new_resource_cannot_have_is_not_looked_for(world):
    """Each call counts where resources come one after another; what an operator finds may have anything."""
    looked = ("configmaps/m-argosy-adapters", "secrets/m-argosy-redis")

    def asked() -> set[str]:
        return {path for path in looked for method, url in world.calls("GET") if url.endswith(path)}

    first = await world.operator()
    world.apply(document())
    await eventually(lambda: world.is_ready() and world.status().get("currentRevision"))
    assert asked() == set()
    await world.stop(first)
    await world.operator()
    await eventually(lambda: asked() == set(looked))


async def test_what_was_made_without_an_answer_goes_when_it_is_not_wanted(world):
    """The resource is new, so nothing was there before; what this very operator tried to make may be there."""
    refused = []

    async def made_and_not_told(request, phase):
        if phase == "after" and request.method == "PATCH" and request.path.endswith("/m-argosy-adapters"):
            refused.append(1)
            raise ApiError(504, "Timeout", "no answer")

    world.server.hooks.append(made_and_not_told)
    await world.operator()
    world.apply(document(adapters=[{"name": "a", "uri": "file:///a"}], uri="file:///m.gguf"))
    await eventually(lambda: refused)
    world.apply(document(uri="file:///m.gguf"))
    await eventually(lambda: world.child(fakecluster.CONFIGS, "m-argosy-adapters") is None)


def _writes(world) -> int:
    return sum(request[0] != "GET" for request in world.server.requests)


def _passes(world) -> float:
    return sum(
        sample.value
        for operator in world._operators
        for metric in operator.metrics.passes.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def test_the_redis_password_is_in_a_secret_and_goes_with_it(world):
    world.plan = PlanSettings(redis_url="redis://:hunter2@valkey:6379/0")
    first = await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    assert world.child(fakecluster.SECRETS, "m-argosy-redis") is not None
    assert "hunter2" not in str(world.child(fakecluster.DEPLOYMENTS))
    await world.stop(first)
    world.plan = PlanSettings()
    await world.operator()
    await eventually(lambda: world.child(fakecluster.SECRETS, "m-argosy-redis") is None)


async def test_a_network_policy_is_made_kept_and_goes_with_the_setting(world):
    world.plan = PlanSettings(worker_ingress=({"ports": [{"port": "grpc"}]},))
    first = await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    made = world.child(fakecluster.POLICIES)
    chosen, own = made["spec"]["ingress"]
    assert chosen == {"ports": [{"port": "grpc"}]}
    assert own["from"][0]["podSelector"]["matchLabels"]["serving.argosy.dev/name"] == "m"  # they fetch blocks
    key = next(k for k in world.server.objects if k.gvr == fakecluster.POLICIES)
    world.server.update(key, {**made, "spec": {**made["spec"], "ingress": [{}]}})
    await eventually(
        lambda: world.child(fakecluster.POLICIES)["spec"]["ingress"] != [{}], what="opened by hand, closed"
    )
    await world.stop(first)
    world.plan = PlanSettings()
    await world.operator()
    await eventually(lambda: world.child(fakecluster.POLICIES) is None)


async def test_an_invalid_resource_keeps_its_children_and_says_so(world):
    await world.operator()
    world.apply(document(replicas=2))
    await eventually(world.is_ready)
    before = world.picture()
    world.apply(document(replicas=2, engine={"device": "toaster"}))
    await eventually(lambda: world.condition("Ready")[1] == "InvalidSpec")
    assert "spec.engine.device" in world.condition("Ready")[2]
    assert world.condition("Ready")[0] == "False"
    assert world.picture() == before
    world.apply(document(replicas=1))
    await eventually(lambda: world.is_ready() and len(world.controllers.pods()) == 1)


async def test_the_younger_of_two_with_one_name_says_so(world):
    await world.operator()
    model = {"uri": "sim://tiny", "servedName": "llama"}
    made = {name: document(name) for name in ("m", "n")}
    for resource in made.values():
        resource["spec"]["model"] = model
        world.apply(resource)
    about = {name: world.server.objects[world.key(name)]["metadata"] for name in made}
    # of those that were made within one second the uid decides
    older, younger = sorted(about, key=lambda name: (about[name]["creationTimestamp"], about[name]["uid"]))
    await eventually(lambda: world.condition("NameTaken", younger)[:2] == ("True", "NameTaken"))
    assert f"default/{older} has the same served name" in world.condition("NameTaken", younger)[2]
    await eventually(lambda: world.condition("NameTaken", older)[:2] == ("False", "OwnName"))
    await eventually(lambda: world.is_ready(younger))
    world.delete(older)
    await eventually(lambda: world.condition("NameTaken", younger)[:2] == ("False", "OwnName"))


async def test_an_image_that_is_not_allowed(world):
    await world.operator(allowed_images=("registry.example/argosy/*", "other:1"))
    world.apply(document(replicas=1))
    await eventually(world.is_ready)
    before = world.picture()
    for image, allowed in (("evil:1", False), ("registry.example/argosy/w:2", True), ("other:12", False)):
        world.apply(document(replicas=1, image=image))
        if allowed:
            await eventually(world.is_ready)
            before = world.picture()
        else:
            await eventually(lambda: world.condition("Ready")[1] == "ImageNotAllowed")
            assert image in world.condition("Ready")[2]
            assert world.picture() == before


async def test_a_refusal_of_the_api_server_becomes_a_condition(world):
    async def refuse(request, phase):
        if phase == "before" and request.method == "PATCH" and "poddisruptionbudgets" in request.path:
            raise ApiError(403, "Forbidden", "no budgets for you")

    world.server.hooks.append(refuse)
    await world.operator()
    world.apply(document())
    await eventually(lambda: world.condition("Ready")[1] == "Forbidden")
    assert "no budgets for you" in world.condition("Ready")[2]
    world.server.hooks.remove(refuse)
    await eventually(world.is_ready)


@pytest.mark.parametrize("code", [409, 429, 500, 503, 504])
async def test_half_of_the_calls_fail(world, code, monkeypatch):
    soon = Backoff(first=0.05, cap=0.5)
    for module, name in ((reconcile, "_REFUSED"), (kopf_edge, "_KOPFS"), (kopf_edge, "_OURS")):
        monkeypatch.setattr(module, name, soon)
    chance = random.Random(code)

    async def fail(request, phase):
        # before: refused; after: carried out, but the answer is lost
        share = 0.5 if code == 409 else 0.3
        if request.method != "GET" and (phase == "before" or code in (500, 504)) and chance.random() < share:
            raise ApiError(code, "Injected", "injected", retry_after_s=0 if code == 429 else None)

    world.server.hooks.append(fail)
    await world.operator()
    for index in range(4):
        world.apply(document(f"m{index}", replicas=index))
    await eventually(lambda: all(world.is_ready(f"m{i}") for i in range(4)))
    assert len(world.controllers.pods()) == 0 + 1 + 2 + 3
    for index in range(4):
        world.delete(f"m{index}")
    await eventually(
        lambda: not world.children() and not any(k.gvr == fakecluster.RESOURCES for k in world.server.objects),
    )


async def test_a_deployment_of_an_earlier_release_serves_until_the_new_one_can(world):
    """Its selector, which can't be changed, lacks the labels role and track, so there will be another Deployment."""
    first = await world.operator()
    world.apply(document(replicas=2))
    await eventually(world.is_ready)
    await world.stop(first)
    key = Key(fakecluster.DEPLOYMENTS, "default", "m-leader")
    former = copy.deepcopy(world.server.objects[key])
    world.server.delete(key)
    for pod in [k for k in world.server.objects if k.gvr == fakecluster.PODS]:
        world.server.delete(pod)
    for part in (former["spec"]["selector"]["matchLabels"], former["spec"]["template"]["metadata"]["labels"]):
        del part["serving.argosy.dev/role"], part["serving.argosy.dev/track"]
    former["spec"]["template"]["metadata"]["labels"]["serving.argosy.dev/revision"] = "former"
    old = Key(fakecluster.DEPLOYMENTS, "default", "m-worker")
    world.server.create(old, former | {"metadata": former["metadata"] | {"name": "m-worker"}})
    await eventually(lambda: len(world.controllers.pods("m")) == 2)

    def fate(pod):
        is_old = pod["metadata"]["labels"]["serving.argosy.dev/revision"] == "former"
        return fakecluster.ready(pod) if is_old else fakecluster.unschedulable("0/2 nodes are available")

    world.controllers.fate = fate
    await world.operator()
    await eventually(lambda: world.condition("Ready")[1] == "Unschedulable")
    # whose gates the operator that comes has opened by then
    await eventually(lambda: "2 workers of an earlier revision can serve" in world.condition("Ready")[2])
    await eventually(lambda: len(world.controllers.pods("m")) == 4)
    assert old in world.server.objects
    world.controllers.fate = fakecluster.ready
    world.controllers.settle()
    await eventually(lambda: world.is_ready() and old not in world.server.objects)
    await eventually(lambda: len(world.controllers.pods("m")) == 2)


async def test_watches_that_break_or_expire(world):
    operator = await world.operator()
    world.apply(document(replicas=1))
    await eventually(world.is_ready)
    world.server.drop_watches()
    world.scale("m", 2)
    await eventually(lambda: world.is_ready() and len(world.controllers.pods()) == 2)
    # what vanishes while nobody watches, and history is gone: only a comparison of lists can tell
    pod = next(k for k in world.server.objects if k.gvr == fakecluster.PODS)
    world.server.delete(pod)
    world.server.compact()
    world.server.drop_watches()
    world.scale("m", 3)
    await eventually(lambda: world.is_ready() and world.status()["replicas"] == 3)
    assert operator.health.problem() == ""


async def test_deleted_while_no_operator_runs(world):
    first = await world.operator()
    world.apply(document(replicas=2))
    await eventually(world.is_ready)
    await world.stop(first)
    world.delete("m")
    assert world.key("m") in world.server.objects
    await world.operator()
    await eventually(lambda: world.key("m") not in world.server.objects and not world.children())


async def test_an_operator_stops_at_once(world):
    operator = await world.operator()
    for index in range(5):
        world.apply(document(f"m{index}"))
    await eventually(lambda: all(world.is_ready(f"m{i}") for i in range(5)))
    assert await world.stop(operator) < 3.0


async def test_events_tell_what_a_person_wants_to_know(world):
    world.controllers.fate = lambda pod: fakecluster.unschedulable(
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    )
    await world.operator()
    world.apply(document(uri="hf://a/b", resources={"gpu": {}}))
    await eventually(lambda: world.condition("Ready")[1] == "InsufficientGpu")
    world.controllers.fate = fakecluster.ready
    world.controllers.settle()
    await eventually(world.is_ready)

    def events():
        return [(o["type"], o["reason"]) for k, o in world.server.objects.items() if k.gvr == fakecluster.EVENTS]

    await eventually(lambda: ("Normal", "Ready") in events())
    assert events() == [("Warning", "InsufficientGpu"), ("Normal", "Ready")]
