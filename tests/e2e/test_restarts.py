"""Workers, routers, operator and Valkey are replaced or end, with streams running all the while; and what goes on without routers."""

import contextlib
import time

import pytest
from e2e_installed import apart
from e2e_kit import RELEASE, Load, reach, resource, same_texts, wait_for, wait_ready

pytestmark = pytest.mark.apart
URI = "sim://e2e?decode_ms=15"  # 64 tokens: a second, so that several streams run at any moment
ROUTER = f"deployment/{RELEASE}-router"


@pytest.fixture(scope="module")
def fleet(nobody_else, cluster):
    """(system, namespace): two routers, and a resource with two workers."""
    with apart(cluster, "router.replicas=2") as (system, served):
        served.apply(resource("fleet", URI, replicas=2))
        wait_ready(served, "fleet")
        yield system, served


@contextlib.contextmanager
def loaded(system, least):
    """Streams run meanwhile and for a while afterwards; none fails, and each prompt has one answer."""
    with reach(system, f"service/{RELEASE}-router", 8000) as address, Load(address, "fleet") as load:
        load.wait_running()
        yield load
        after = time.monotonic()
        wait_for("streams go on", lambda: len(load.succeeded_since(after)) >= 10, 30)
    assert load.failures == []
    assert len(load.outcomes) >= least
    assert same_texts(load)


def test_no_request_fails_while_a_changed_engine_rolls_out(fleet):
    system, served = fleet
    before = {pod["metadata"]["name"] for pod in served.workers("fleet")}
    with loaded(system, 30) as load:
        served.patch("fleet", {"engine": {"maxBatchTokens": 512}})
        wait_ready(served, "fleet")
        wait_for(
            "the old workers are gone",
            lambda: before.isdisjoint(p["metadata"]["name"] for p in served.get("pods") or []),
            90,
        )
        after = time.monotonic()
    newcomers = {pod["metadata"]["name"] for pod in served.workers("fleet")}
    assert newcomers.isdisjoint(before)
    assert newcomers >= {outcome.worker for outcome in load.succeeded_since(after)}


def test_no_request_fails_while_the_router_rolls_out(fleet):
    system, _ = fleet
    with loaded(system, 30):
        system("rollout", "restart", ROUTER)
        system("rollout", "status", ROUTER, "--timeout=150s", timeout=160)


def test_the_end_of_the_operator_and_of_valkey_touches_no_request(fleet):
    system, _ = fleet
    with loaded(system, 20):
        for component in ("operator", "valkey"):
            chosen = f"--selector=app.kubernetes.io/component={component}"
            system("delete", "pod", chosen, "--grace-period=0", "--force", "--wait=false")
        for component in ("operator", "valkey"):
            system("rollout", "status", f"deployment/{RELEASE}-{component}", "--timeout=90s", timeout=100)


def test_without_routers_autoscaling_leaves_the_number_as_it_is(fleet):
    system, served = fleet
    window = 5
    scaling = {"minReplicas": 2, "maxReplicas": 2, "metrics": [{"type": "running", "target": 4}]}
    scaling["scaleDown"] = {"stabilizationSeconds": window, "maxStep": 2, "periodSeconds": 5}
    served.apply(resource("still", autoscaling=scaling))
    wait_ready(served, "still")
    system("scale", ROUTER, "--replicas=0")
    try:
        wait_for("it is told", lambda: served.condition("still", "AutoscalingActive").get("reason") == "NoSignals", 60)
        served.patch("still", {"autoscaling": {"minReplicas": 1}})  # now one would be enough
        # what must not happen can only be waited for: a decision to go down would take one window
        time.sleep(3 * window)
        assert len(served.workers("still")) == 2
    finally:
        system("scale", ROUTER, "--replicas=2")
        system("rollout", "status", ROUTER, "--timeout=60s", timeout=70)
    wait_for("one is taken away", lambda: len(served.workers("still")) == 1, 120)
