"""Where Kubernetes does other than one would guess: each test fails where the operator relies on the guess."""

import fakecluster
import pytest
from fakeapi import ApiError
from operator_kit import Operator, document
from waiting import eventually

from argosy_api.crd import crd
from argosy_api.resource import parse
from argosy_operator.manifests import PlanSettings
from argosy_operator.metrics import page
from argosy_operator.plan import Observed, plan
from argosy_operator.settings import Settings, from_environment
from argosy_operator.store import WATCHED


def test_a_number_of_replicas_is_always_there_for_the_scale_subresource():
    """Without one `kubectl scale --current-replicas` fails with 500, and disruption budgets are stuck."""
    (version,) = crd()["spec"]["versions"]
    assert version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]["default"] == 1
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"
    assert version["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"


def test_lists_and_maps_are_bounded_so_that_rules_may_iterate():
    """The API server refuses a definition whose rules iterate over, or match in, what may be of any size."""
    (version,) = crd()["spec"]["versions"]

    def unbounded(schema, path):
        kind, values = schema.get("type"), schema.get("additionalProperties")
        if kind == "array" and "maxItems" not in schema:
            yield path
        if isinstance(values, dict):
            if "maxProperties" not in schema:
                yield path
            yield from unbounded(values, f"{path}.*")
        for name, inner in schema.get("properties", {}).items():
            yield from unbounded(inner, f"{path}.{name}")
        if kind == "array":
            yield from unbounded(schema["items"], f"{path}.0")

    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert list(unbounded(spec, "spec")) == []


async def test_the_status_counts_pods_that_exist_not_those_that_are_wanted(world):
    """An autoscaler cuts the spec back to this number where it is less."""
    world.controllers.fate = lambda _pod: fakecluster.unschedulable("0/2 nodes are available: 2 Insufficient cpu.")
    await world.operator()
    world.apply(document(replicas=3))
    await eventually(lambda: world.status().get("replicas") == 3)
    assert world.status()["readyReplicas"] == 0
    assert world.status()["selector"]  # without it autoscalers refuse the resource


def test_a_worker_that_loads_its_model_holds_no_drain_up():
    made = plan(parse(document(replicas=2)), Observed(), PlanSettings()).apply
    (budget,) = [m["spec"] for m in made if m["kind"] == "PodDisruptionBudget"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_order_of_variables_is_the_same_however_they_are_given():
    """The same variables in another order are a new generation, and a rollout."""
    settings = [
        from_environment({"ARGOSY_WORKER_ENV": text}).plan for text in ('{"B": "2", "A": "1"}', '{"A": "1", "B": "2"}')
    ]
    first, second = (plan(parse(document()), Observed(), chosen).apply for chosen in settings)
    assert first == second


def test_numbers_of_workloads_are_always_said():
    """Dropped by their only owner they fall to 1, at once."""
    for count in (0, 1, 5):
        made = plan(parse(document(replicas=count)), Observed(), PlanSettings()).apply
        assert [m["spec"]["replicas"] for m in made if m["kind"] == "Deployment"] == [count]


@pytest.mark.parametrize("plural", [plural for _, _, plural in WATCHED])
async def test_an_operator_that_may_not_list_a_kind_is_alive_and_not_ready(world, plural):
    refused = []

    async def forbid(request, phase):
        if phase == "before" and request.method == "GET" and request.path.endswith(f"/{plural}"):
            refused.append(1)
            raise ApiError(403, "Forbidden", f"{plural} is forbidden")

    world.server.hooks.append(forbid)
    operator = Operator(Settings(host="127.0.0.1", metrics_port=0), world.url)
    operator._thread.start()
    try:
        await eventually(lambda: len(refused) > 1)
        assert page(operator.metrics, operator.health, "/readyz")[0] == 503
        assert page(operator.metrics, operator.health, "/healthz")[0] == 200
        world.server.hooks.remove(forbid)
        await eventually(operator.ready_flag.is_set)
        assert page(operator.metrics, operator.health, "/readyz")[0] == 200
    finally:
        await operator.stop()
