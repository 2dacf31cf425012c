"""The operator is killed at random moments; what the cluster holds in the end is what it would have held anyway."""

import random
import threading

import pytest
from e2e_kit import RELEASE, resource, wait_for, wait_ready
from whole import WHOLE

pytestmark = pytest.mark.apart
KINDS = "deployments,services,poddisruptionbudgets,serviceaccounts,secrets"
KILLS = 20 if WHOLE else 4  # `make test-rollouts` does all; 4: one while each step is under way
FIXED_SEED = 20  # the moments are arbitrary, and the same in each run


def kill(system, after, killed):
    """Kill the operator without notice, some time from now; the names of pods that it hit are added to `killed`."""
    chosen = "--selector=app.kubernetes.io/component=operator"

    def strike():
        said = system.run("delete", "pod", chosen, "--grace-period=0", "--force", "--wait=false", "--output=name")
        killed.update(said.stdout.split())

    timer = threading.Timer(after, strike)
    timer.start()
    return timer


def children(kubectl):
    """What the operator made, without what differs between any two runs."""
    found = {}
    for item in kubectl.get(KINDS):
        if item["metadata"]["name"] == "default":
            continue
        meta = item["metadata"]
        owners = [(o["kind"], o["name"], o.get("controller")) for o in meta.get("ownerReferences", [])]
        spec = {k: v for k, v in item.items() if k not in ("metadata", "status")}
        if item["kind"] == "Service":
            spec["spec"] = {k: v for k, v in spec["spec"].items() if not k.startswith("clusterIP")}
        found[item["kind"], meta["name"]] = (meta["labels"], owners, spec)
    return found


def left(kubectl):
    return [
        f"{i['kind']}/{i['metadata']['name']}"
        for i in kubectl.get(f"{KINDS},pods")
        if i["metadata"]["name"] != "default"
    ]


def steps(kubectl):
    """Create, scale, update, delete: what is done, and what is then waited for."""
    gone = lambda: wait_for("nothing is left", lambda: not left(kubectl), 120)  # noqa: E731
    ready = lambda: wait_ready(kubectl, "phoenix", 180)  # noqa: E731
    return {
        "create": (lambda: kubectl.apply(resource("phoenix", replicas=1, drain={"timeoutSeconds": 1})), ready),
        "scale": (lambda: kubectl("scale", "infd/phoenix", "--replicas=2"), ready),
        "update": (lambda: kubectl.patch("phoenix", {"engine": {"maxRunning": 32}}), ready),
        "delete": (lambda: kubectl("delete", "infd", "phoenix", "--wait=false"), gone),
    }


@pytest.mark.timeout(900)
def test_the_final_state_is_the_same_however_often_the_operator_dies(own):
    system, namespace = own
    moments = random.Random(FIXED_SEED)
    wanted = {}
    for name, (act, settle) in steps(namespace).items():
        act()
        settle()
        wanted[name] = children(namespace)
    assert len(wanted["update"]) >= 4
    assert wanted["delete"] == {}

    killed = set()
    rounds = 0
    while len(killed) < KILLS:
        rounds += 1
        assert rounds <= KILLS, f"too few kills hit an operator: {sorted(killed)}"
        for name, (act, settle) in steps(namespace).items():
            strike = kill(system, moments.uniform(0.0, 0.8), killed)
            act()
            strike.join()
            settle()
            wait_for(f"{name}: the same children", lambda name=name: children(namespace) == wanted[name], 30)
    assert len(killed) >= KILLS
    system("rollout", "status", f"deployment/{RELEASE}-operator", "--timeout=60s", timeout=70)
