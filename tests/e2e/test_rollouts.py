"""Updates in a row under load, some of them bad, and canaries: nobody's request fails, and bad ones are taken back."""

import os
import time

import pytest
from e2e_kit import Load, resource, wait_for, wait_ready

UPDATES = int(os.environ.get("ARGOSY_UPDATES", "7"))
"""`make test-rollouts` does 20."""
RATE = float(os.environ.get("ARGOSY_RATE", "20"))
"""Requests a second; less for a machine that has other things to do."""
MODEL = "sim://e2e?decode_ms=5"
BAD = [
    {"image": "localhost/argosy-worker:is-not-there"},  # an image that is nowhere
    {"model": {"uri": "sim://e2e?kv_blocks=0"}},  # a model that can't be loaded
    {"model": {"uri": "sim://e2e?load_s=3600"}},  # workers that routers never reach
]
TAKEN_BACK_S = 60.0
ROLLOUT = {"progressDeadlineSeconds": 40, "maxSurge": 2}


def update(kubectl, name, number, **spec):
    """Make the resource what it was at first, but for this."""
    plain = {"model": {"uri": MODEL}, "image": None, "rollout": ROLLOUT, "engine": {"maxRunning": 32 + number}}
    kubectl.patch(name, plain | spec)


def serves(kubectl, name, replicas):
    status = kubectl.get("infd", name)["status"]
    return status["ready"] == f"{replicas}/{replicas}" and status.get("canary") is None


@pytest.mark.timeout(1500)
def test_updates_in_a_row_fail_no_request_and_bad_ones_are_taken_back(namespace, system, http):
    namespace.apply(resource("fleet", MODEL, replicas=2, rollout=ROLLOUT))
    wait_ready(namespace, "fleet")
    bad = {round((i + 1) * UPDATES / (len(BAD) + 1)): spec for i, spec in enumerate(BAD)}
    times = []
    with Load(http, "fleet", per_second=RATE, max_tokens=16) as load:
        load.wait_running()
        for number in range(UPDATES):
            update(namespace, "fleet", number, **bad.get(number, {}))
            began = time.monotonic()
            if number in bad:
                wait_for(
                    "it is taken back", lambda: namespace.condition("fleet", "Degraded").get("status") == "True", 120
                )
                wait_for("the former ones serve", lambda: serves(namespace, "fleet", 2), 60)
                times.append(time.monotonic() - began)
                status = namespace.get("infd", "fleet")["status"]
                assert status["reason"] == "RolledBack"
                assert status["failedRevision"] == status["revision"] != status["currentRevision"]
                assert "fleet-leader-" in namespace.condition("fleet", "Degraded")["message"]
            else:
                wait_ready(namespace, "fleet", 120)
                assert namespace.condition("fleet", "Degraded")["status"] == "False"
        after = time.monotonic()
        wait_for("streams go on", lambda: len(load.succeeded_since(after)) >= 20, 60)
    print(f"{UPDATES} updates, {len(load.outcomes)} requests; taken back after {[round(t, 1) for t in times]} s")
    assert load.failures == []
    assert len(times) == len(BAD)
    assert max(times) <= TAKEN_BACK_S
    history = namespace.get("controllerrevisions", "--selector=serving.argosy.dev/name=fleet")
    assert len(history) <= 5


@pytest.mark.timeout(600)
def test_a_canary_of_a_slower_model_is_stopped_by_its_own_time_to_the_first_token(namespace, system, http):
    steps = [{"weight": 50, "pauseSeconds": 300}]
    rollout = {"strategy": "Canary", "canary": {"steps": steps, "analysis": {"minRequests": 20}}}
    namespace.apply(resource("fleet", MODEL, replicas=2, rollout=rollout))
    wait_ready(namespace, "fleet")
    before = {pod["metadata"]["name"] for pod in namespace.workers("fleet")}
    with Load(http, "fleet", per_second=RATE / 2, max_tokens=8) as load:
        load.wait_running()
        namespace.patch("fleet", {"model": {"uri": f"{MODEL}&prefill_tps=40"}})  # a second for a prompt of 40 tokens
        wait_for("a canary", lambda: namespace.get("infd", "fleet")["status"].get("canary"), 30)
        wait_for("it is taken back", lambda: namespace.condition("fleet", "Degraded").get("status") == "True", 180)
        wait_for(
            "its worker is gone", lambda: {p["metadata"]["name"] for p in namespace.workers("fleet")} == before, 60
        )
        after = time.monotonic()
        wait_for("streams go on", lambda: len(load.succeeded_since(after)) >= 20, 30)
    assert load.failures == []
    assert "median time to the first token" in namespace.condition("fleet", "Degraded")["message"]
    canary = {outcome.worker for outcome in load.outcomes} - before
    assert len(canary) == 1
    assert canary.pop().startswith("fleet-leader-canary-")


@pytest.mark.timeout(600)
def test_a_canary_that_does_as_well_becomes_all_of_them(namespace, system, http):
    # the second step is long enough to be seen by a kubectl that takes seconds
    steps = [{"weight": 50, "pauseSeconds": 2}, {"weight": 80, "pauseSeconds": 15}]
    rollout = {"strategy": "Canary", "canary": {"steps": steps, "analysis": {"minRequests": 20, "maxTtftRatio": 20}}}
    namespace.apply(resource("fleet", MODEL, replicas=2, rollout=rollout))
    wait_ready(namespace, "fleet")
    with Load(http, "fleet", per_second=RATE / 2, max_tokens=8) as load:
        load.wait_running()
        namespace.patch("fleet", {"engine": {"maxRunning": 48}})
        wait_for(
            "the second step", lambda: namespace.get("infd", "fleet")["status"].get("canary", {}).get("step") == 2, 120
        )
        wait_ready(namespace, "fleet", 120)
    assert load.failures == []
    wait_for("the canaries are gone", lambda: len(namespace.workers("fleet")) == 2, 60)
    assert not [p for p in namespace.workers("fleet") if "canary" in p["metadata"]["name"]]
