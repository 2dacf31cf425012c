"""Workers follow the load, on a cluster: up soon, down after the window, still while nothing is known."""

import asyncio
import time
import urllib.request

import aiohttp
from e2e_kit import Load, resource, wait_for, wait_ready

SLOW = "sim://busy?decode_ms=40"
WINDOW_S = 15
AUTOSCALING = {
    "minReplicas": 1,
    "maxReplicas": 3,
    "metrics": [{"type": "running", "target": 4}],
    "scaleDown": {"stabilizationSeconds": WINDOW_S, "maxStep": 2, "periodSeconds": 5},
}


def desired(namespace, name):
    return ((namespace.get("infd", name) or {}).get("status", {}).get("autoscaling") or {}).get("desiredReplicas")


def test_up_with_the_load_and_down_after_the_window(namespace, http):
    # without guessing ahead, which makes short work of texts that come again: the load is the same until it ends
    namespace.apply(resource("busy", SLOW, autoscaling=AUTOSCALING, engine={"speculative": {"method": "off"}}))
    wait_ready(namespace, "busy")
    assert desired(namespace, "busy") == 1
    with Load(http, "busy", per_second=5.0, max_tokens=64) as load:
        began = time.monotonic()
        wait_for("more workers are wanted", lambda: desired(namespace, "busy") == 3, 60)
        wait_for("they are made", lambda: len(namespace.workers("busy")) == 3, 15)
        print(f"{time.monotonic() - began:.1f} s from the first request to three workers")
        wait_ready(namespace, "busy")
        ended = time.monotonic()  # no window begins before; those that run now take their time
    assert load.failures == []
    wait_for("all but one are taken away", lambda: len(namespace.workers("busy")) == 1, 120)
    assert time.monotonic() - ended >= WINDOW_S - 5
    decisions = namespace.get("infd", "busy")["status"]["autoscaling"]["decisions"]
    assert {d["reason"] for d in decisions} == {"Load", "LessLoad"}
    assert "requests run or wait" in decisions[-1]["message"]


def test_from_no_worker_to_one_with_a_hundred_requests_held(namespace, http):
    zero = {"minReplicas": 0, "maxReplicas": 1, "scaleToZero": {"idleSeconds": 10, "holdSeconds": 120}}
    namespace.apply(resource("seldom", "sim://seldom?decode_ms=2", autoscaling=zero))
    wait_for("nobody is there", lambda: namespace.condition("seldom").get("reason") == "ScaledToZero", 60)
    assert namespace.workers("seldom") == []
    wait_for("the router knows it", lambda: "seldom" in models(http), 30)

    async def ask(session, i):
        body = {"model": "seldom", "prompt": f"number {i}", "max_tokens": 4}
        async with session.post(f"http://{http}/v1/completions", json=body) as reply:
            return reply.status, await reply.text()

    async def ask_all():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(ask(session, i) for i in range(100)))

    began = time.monotonic()
    answers = asyncio.run(ask_all())
    print(f"{time.monotonic() - began:.1f} s until a hundred held requests were answered")
    assert {status for status, _ in answers} == {200}, [a for a in answers if a[0] != 200][:3]
    assert len(namespace.workers("seldom")) == 1
    wait_for("nobody is there again", lambda: namespace.workers("seldom") == [], 90)
    decisions = namespace.get("infd", "seldom")["status"]["autoscaling"]["decisions"]
    assert [d["reason"] for d in decisions] == ["Idle", "Woken"]


def models(http):
    with urllib.request.urlopen(f"http://{http}/v1/models", timeout=10) as reply:
        return reply.read().decode()


def test_a_number_of_its_own_is_refused(namespace):
    namespace.apply(resource("owned", autoscaling=AUTOSCALING))
    refused = namespace.run("scale", "infd/owned", "--replicas=3")
    assert refused.returncode != 0
    assert "is decided by autoscaling" in refused.stderr
