"""Nodes that are drained or cut off, with streams running all the while."""

import os
import shlex
import subprocess
import time

import pytest
from e2e_installed import install, wait_rolled_out
from e2e_kit import RELEASE, Load, reach, resource, same_texts, wait_for, wait_ready

pytestmark = pytest.mark.alone
URI = "sim://e2e?decode_ms=15"  # 64 tokens: a second, so that several streams run at any moment


@pytest.fixture(scope="module")
def two_routers(system):
    """One router on each of two nodes, as it should be where nodes are drained; a lost node is given up soon."""
    install("router.replicas=2", "nodeFailureSeconds=5")
    wait_rolled_out(system)
    yield system
    install()


@pytest.fixture
def routers_apart(two_routers):
    """The two, on two nodes, also when a node was drained before: nothing moves a pod back."""

    def look():
        chosen = "--selector=app.kubernetes.io/component=router"
        routers = [pod for pod in two_routers.get("pods", chosen) if "deletionTimestamp" not in pod["metadata"]]
        nodes = {pod["spec"].get("nodeName") for pod in routers}
        if len(routers) == 2 and len(nodes) == 1:
            two_routers("delete", "pod", routers[0]["metadata"]["name"], "--timeout=60s", timeout=70)
        return routers if len(nodes - {None}) == len(routers) == 2 else None

    wait_for("the routers are on two nodes", look, 180)
    wait_rolled_out(two_routers)
    return look()


@pytest.fixture
def served(namespace):
    """A resource with two workers."""
    namespace.apply(resource("fleet", URI, replicas=2))
    wait_ready(namespace, "fleet")
    return namespace


@pytest.fixture
def drained(cluster):
    """Drain nodes; what was drained is taken into use again afterwards."""
    nodes = []

    def drain(node):
        nodes.append(node)
        cluster(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s", timeout=160
        )

    yield drain
    for node in nodes:
        cluster("uncordon", node)


def test_no_request_fails_while_a_node_is_drained(two_routers, served, drained, http):
    node = served.workers("fleet")[0]["spec"]["nodeName"]
    with Load(http, "fleet") as load:
        load.wait_running()
        drained(node)
        wait_ready(served, "fleet")
        after = time.monotonic()
        wait_for("streams go on", lambda: len(load.succeeded_since(after)) >= 10, 30)
    assert load.failures == []
    assert len(load.outcomes) >= 30
    assert same_texts(load)
    assert {pod["spec"]["nodeName"] for pod in served.workers("fleet")}.isdisjoint({node})


def on_node(command_variable, node):
    command = [word.replace("{node}", node) for word in shlex.split(os.environ[command_variable])]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture
def operator_on(system, cluster):
    """Move the operator to a node: operator_on(node)."""
    chosen = "--selector=app.kubernetes.io/component=operator"
    others = []

    def move(node):
        others.extend(i["metadata"]["name"] for i in cluster.get("nodes") if i["metadata"]["name"] != node)
        for other in others:
            cluster("cordon", other)
        system("delete", "pod", chosen, "--timeout=60s", timeout=70)
        system("rollout", "status", f"deployment/{RELEASE}-operator", "--timeout=60s", timeout=70)
        while others:
            cluster("uncordon", others.pop())
        (pod,) = system.get("pods", chosen)
        assert pod["spec"]["nodeName"] == node
        return pod["metadata"]["name"]

    yield move
    for other in others:
        cluster("uncordon", other)


def test_requests_go_on_when_a_node_is_cut_off(two_routers, routers_apart, served, cluster, operator_on):
    """The operator is on that node too: the worst case, for it must first be replaced."""
    if "ARGOSY_CUT_NODE" not in os.environ:
        why = "ARGOSY_CUT_NODE and ARGOSY_MEND_NODE hold no commands that take a {node} off the network and put it back"
        assert os.environ.get("ARGOSY_REQUIRE_CLUSTER") != "1", why
        pytest.skip(f"LEFT OUT: {why}")
    node = max(item["metadata"]["name"] for item in cluster.get("nodes"))
    safe = [pod for pod in routers_apart if pod["spec"]["nodeName"] != node]
    placed = {pod["spec"]["nodeName"] for pod in served.workers("fleet")}
    assert safe
    assert placed >= {node}
    assert len(placed) == 2
    lost_operator = operator_on(node)
    with (
        reach(two_routers, f"pod/{safe[0]['metadata']['name']}", 8000) as address,
        Load(address, "fleet", per_second=2, timeout=60) as load,
    ):
        load.wait_running()
        on_node("ARGOSY_CUT_NODE", node)
        cut = time.monotonic()
        try:
            wait_for("requests go on", lambda: len(load.succeeded_since(cut)) >= 5, 15)
            wait_for("the node is given up", lambda: not node_ready(cluster, node), 60)
            wait_for(
                "only one is routable", lambda: served.get("infd", "fleet")["status"]["routableReplicas"] == 1, 120
            )
            now_there = two_routers.get("pods", "--selector=app.kubernetes.io/component=operator")
            alive = [p["metadata"]["name"] for p in now_there if "deletionTimestamp" not in p["metadata"]]
            assert len(alive) == 1
            assert lost_operator not in alive, "the status was written by somebody on a node that is cut off"
            lost = time.monotonic()
            wait_for("requests go on", lambda: len(load.succeeded_since(lost)) >= 10, 30)
            (stayed,) = {o.worker for o in load.succeeded_since(lost)[-5:]}
        finally:
            on_node("ARGOSY_MEND_NODE", node)
        wait_for("the node is back", lambda: node_ready(cluster, node), 90)
        wait_ready(served, "fleet")
        with Load(address, "fleet", per_second=2, timeout=60, prompts=1000) as news:  # which no worker has in its cache
            wait_for("the other one answers, too", lambda: {o.worker for o in news.succeeded_since(0)} - {stayed}, 60)
    late = [o for o in load.outcomes if o.failure and o.at > cut + 30]
    assert late == [], "failures after the router must have known"


def node_ready(cluster, node):
    conditions = cluster.get("node", node)["status"]["conditions"]
    return next(c["status"] for c in conditions if c["type"] == "Ready") == "True"
