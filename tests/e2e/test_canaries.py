"""Canaries under load: nobody's request fails, and a worse one is taken back."""

import os
import time

import pytest
from e2e_kit import Load, resource, wait_for, wait_ready

RATE = float(os.environ.get("ARGOSY_RATE", "20"))
"""Requests a second; less for a machine that has other things to do."""
MODEL = "sim://e2e?decode_ms=5"


@pytest.mark.timeout(600)
def test_a_canary_of_a_slower_model_is_stopped_by_its_own_time_to_the_first_token(namespace, system, http):
    steps = [{"weight": 50, "pauseSeconds": 300}]
    rollout = {"strategy": "Canary", "canary": {"steps": steps, "analysis": {"minRequests": 20}}}
    namespace.apply(resource("tried", MODEL, replicas=2, rollout=rollout))
    wait_ready(namespace, "tried")
    before = {pod["metadata"]["name"] for pod in namespace.workers("tried")}
    with Load(http, "tried", per_second=RATE / 2, max_tokens=8) as load:
        load.wait_running()
        namespace.patch("tried", {"model": {"uri": f"{MODEL}&prefill_tps=40"}})  # a second for a prompt of 40 tokens
        wait_for("a canary", lambda: namespace.get("infd", "tried")["status"].get("canary"), 30)
        wait_for("it is taken back", lambda: namespace.condition("tried", "Degraded").get("status") == "True", 180)
        wait_for(
            "its worker is gone", lambda: {p["metadata"]["name"] for p in namespace.workers("tried")} == before, 60
        )
        after = time.monotonic()
        wait_for("streams go on", lambda: len(load.succeeded_since(after)) >= 20, 30)
    assert load.failures == []
    assert "median time to the first token" in namespace.condition("tried", "Degraded")["message"]
    canary = {outcome.worker for outcome in load.outcomes} - before
    assert len(canary) == 1
    assert canary.pop().startswith("tried-leader-canary-")


@pytest.mark.timeout(600)
def test_a_canary_that_does_as_well_becomes_all_of_them(namespace, system, http):
    steps = [{"weight": 50, "pauseSeconds": 2}, {"weight": 80, "pauseSeconds": 2}]
    rollout = {"strategy": "Canary", "canary": {"steps": steps, "analysis": {"minRequests": 20, "maxTtftRatio": 20}}}
    # without guessing ahead, at which a worker is better that has seen the texts for longer; and a step takes so long that
    # what a busy machine adds to it is little
    plain = {"speculative": {"method": "off"}}
    namespace.apply(resource("tried", "sim://e2e?decode_ms=40", replicas=2, rollout=rollout, engine=plain))
    wait_ready(namespace, "tried")
    with (
        Load(http, "tried", per_second=RATE / 2, max_tokens=8) as load,
        namespace.watched("infd", "tried", "{.status.canary.step}") as seen,
    ):
        load.wait_running()
        namespace.patch("tried", {"engine": {"maxRunning": 48}})

        def over():
            degraded = namespace.condition("tried", "Degraded")
            assert degraded.get("status") != "True", degraded["message"]
            return namespace.is_ready("tried")

        wait_for("it is all of them", over, 240)
        wait_for("that is seen", lambda: seen()[-1] == "", 30)
        assert list(dict.fromkeys(seen())) == ["", "1", "2"]  # in this order, one after another
    assert load.failures == []
    wait_for("the canaries are gone", lambda: len(namespace.workers("tried")) == 2, 60)
    assert not [p for p in namespace.workers("tried") if "canary" in p["metadata"]["name"]]
