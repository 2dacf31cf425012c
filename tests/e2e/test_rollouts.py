"""Updates in a row under load, some of them bad: nobody's request fails, and bad ones are taken back."""

import os
import time

import pytest
from e2e_kit import Load, resource, wait_for, wait_ready
from whole import WHOLE

UPDATES = int(os.environ.get("ARGOSY_UPDATES", "5"))
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
BAD_DEADLINE_S = 40 if WHOLE else 15
"""For bad ones there is nothing to wait for; good ones have their 40 s on a slow machine, too."""


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
            deadline = {"rollout": ROLLOUT | {"progressDeadlineSeconds": BAD_DEADLINE_S}} if number in bad else {}
            update(namespace, "fleet", number, **deadline, **bad.get(number, {}))
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
