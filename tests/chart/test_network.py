"""Who may talk to whom, with networkPolicy.enabled."""

from rendered import POD_KINDS, env_of, one

from argosy_api import labels
from argosy_operator.settings import from_environment


def ingress_of_workers(objects):
    operator = one(objects, "Deployment", "argosy-operator")["spec"]["template"]["spec"]["containers"][0]
    names = ("ARGOSY_WORKER_INGRESS", "ARGOSY_WORKER_EGRESS")
    return from_environment({name: env_of(operator).get(name, "") for name in names}).plan


def matches(peer, objects, name):
    """Whether a peer is the pods of a Deployment of the release."""
    template = one(objects, "Deployment", name)["spec"]["template"]["metadata"]
    return (
        peer.get("namespaceSelector") == {"matchLabels": {"kubernetes.io/metadata.name": "argosy-system"}}
        and peer["podSelector"]["matchLabels"].items() <= template["labels"].items()
    )


def test_only_routers_may_ask_workers_for_tokens(render):
    """Wherever the workers are: the operator makes the policy beside them, of the rules that the chart gives."""
    assert ingress_of_workers(render()).worker_ingress is None
    objects = render("networkPolicy.enabled=true")
    tokens, metrics = ingress_of_workers(objects).worker_ingress
    assert [port["port"] for port in tokens["ports"]] == ["grpc"]
    (router,) = tokens["from"]
    assert matches(router, objects, "argosy-router")
    assert not matches(router, objects, "argosy-operator")
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]
    assert matches(metrics["from"][0], objects, "argosy-operator")
    assert metrics["from"][1:] == [{"namespaceSelector": {}}]


def test_workers_go_to_valkey_and_where_downloads_come_from(render):
    assert ingress_of_workers(render()).worker_egress is None
    objects = render("networkPolicy.enabled=true")
    to = ingress_of_workers(objects).worker_egress
    (valkey,) = to.redis
    assert matches(valkey, objects, "argosy-valkey")
    assert to.dns == ()
    assert [peer["ipBlock"]["cidr"] for peer in to.downloads] == ["0.0.0.0/0", "::/0"]
    own = [
        "valkey.enabled=false",
        "redis.url=redis://:pw@h:6380/0",
        "networkPolicy.workersTo.redis[0].ipBlock.cidr=10.0.0.9/32",
    ]
    to = ingress_of_workers(
        render("networkPolicy.enabled=true", *own, "networkPolicy.workersTo.downloads=null")
    ).worker_egress
    assert to.redis == ({"ipBlock": {"cidr": "10.0.0.9/32"}},)
    assert to.downloads == ()


def test_metrics_can_be_kept_to_those_who_scrape(render):
    peer = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    path = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    for values, more in (((path,), [peer]), (("networkPolicy.metricsFrom=null",), [])):
        objects = render("networkPolicy.enabled=true", *values)
        found = [ingress_of_workers(objects).worker_ingress[1]["from"]]
        for component in ("operator", "router"):
            policy = one(objects, "NetworkPolicy", f"argosy-{component}")
            found.append(policy["spec"]["ingress"][-1]["from"])
        for peers in found:
            assert matches(peers[0], objects, "argosy-operator")
            assert peers[1:] == more


def allows(policies, objects, caller, callee, port):
    """Whether policies let a pod of the release talk to another one of it, and how a stranger from elsewhere fares."""
    pods = {i["metadata"]["labels"]["app.kubernetes.io/component"]: i.get("spec", {}).get("template", i)["metadata"]["labels"]
            for i in objects if i["kind"] in POD_KINDS | {"Pod"}}  # fmt: skip
    target = pods[callee]
    chosen = [p["spec"] for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= target.items()]
    assert chosen, callee

    def is_caller(peer):
        here = peer.get("namespaceSelector", {"matchLabels": {}})
        own = here in ({}, {"matchLabels": {}}) or here["matchLabels"] == {
            "kubernetes.io/metadata.name": "argosy-system"
        }
        if caller == "stranger":
            return "namespaceSelector" in peer and here == {} and not peer.get("podSelector")
        return own and peer.get("podSelector", {}).get("matchLabels", {}).items() <= pods[caller].items()

    return any(
        port in [p["port"] for p in rule["ports"]] and ("from" not in rule or any(map(is_caller, rule["from"])))
        for spec in chosen
        for rule in spec["ingress"]
    )


def test_who_must_talk_may_and_others_may_not(render):
    objects = render("network-policy-values.yaml")
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    may = lambda *way: allows(policies, objects, *way)  # noqa: E731
    calls = [("test", "router", 8000), ("operator", "router", 8002), ("operator", "valkey", 6379)]
    assert [call for call in [*calls, ("router", "valkey", 6379)] if not may(*call)] == []
    closed = [("stranger", "router", port) for port in (8000, 8001, 8002)]
    closed += [("stranger", "valkey", 6379), ("stranger", "operator", 8002), ("test", "valkey", 6379)]
    assert [call for call in [*closed, ("router", "operator", 8002), ("valkey", "router", 8000)] if may(*call)] == []
    everybody = render("networkPolicy.enabled=true")
    policies = [item for item in everybody if item["kind"] == "NetworkPolicy"]
    assert allows(policies, everybody, "stranger", "router", 8000)
    gateway = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}
    assert gateway in one(objects, "NetworkPolicy", "argosy-router")["spec"]["ingress"][0]["from"]


def test_policies_mean_the_pods_that_the_operator_makes(render):
    """Of any workload, role and track."""
    made = labels.workload_selector("m", labels.LEADER, "canary") | {"app.kubernetes.io/managed-by": "argosy-operator"}
    valkey = one(render("networkPolicy.enabled=true"), "NetworkPolicy", "argosy-valkey")["spec"]
    workers = valkey["ingress"][0]["from"][0]
    assert workers["namespaceSelector"] == {}
    assert workers["podSelector"]["matchLabels"].items() <= made.items()
