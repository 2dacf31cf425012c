"""The NetworkPolicy of workers: what they may reach is what they need."""

from dataclasses import replace

import pytest
from operator_kit import document

from argosy_api.errors import InvalidArgumentError
from argosy_api.resource import parse
from argosy_operator.manifests import PlanSettings
from argosy_operator.network import Egress
from argosy_operator.plan import Observed, plan
from argosy_operator.settings import from_environment

REDIS = {"podSelector": {"matchLabels": {"app": "valkey"}}}
HUB = {"ipBlock": {"cidr": "10.0.0.7/32"}}
INSTALLED = PlanSettings(
    redis_url="redis://:pw@valkey:6380/0", worker_ingress=(), worker_egress=Egress(redis=(REDIS,), downloads=(HUB,))
)
GROUP = {"uri": "pvc://models/m.gguf", "parallelism": {"pipeline": 2}}


def policy(installed=INSTALLED, **spec):
    made = plan(parse(document(**spec)), Observed(), installed).apply
    return next(m for m in made if m["kind"] == "NetworkPolicy")["spec"]


def reached(rules):
    """Ports by peer; of what may be reached anywhere, under None."""
    found = {}
    for rule in rules:
        ports = {port["port"] for port in rule.get("ports", ())} or "any"
        for peer in rule.get("to", [None]):
            found[str(peer) if peer else None] = ports
    return found


def test_without_a_word_of_the_installation_workers_go_anywhere():
    made = policy(replace(INSTALLED, worker_egress=None))
    assert made["policyTypes"] == ["Ingress"]
    assert "egress" not in made


def test_workers_reach_names_redis_and_each_other():
    made = policy()
    assert made["policyTypes"] == ["Ingress", "Egress"]
    assert reached(made["egress"]) == {
        None: {53},
        str({"podSelector": made["podSelector"]}): {9000},
        str(REDIS): {6380},
    }
    (names,) = [rule for rule in made["egress"] if "to" not in rule]
    assert {port["protocol"] for port in names["ports"]} == {"UDP", "TCP"}


def test_workers_of_a_group_reach_each_other_on_any_port():
    made = policy(**GROUP)
    assert reached(made["egress"])[str({"podSelector": made["podSelector"]})] == "any"


@pytest.mark.parametrize(
    ("spec", "env", "ports"),
    [
        ({"uri": "hf://org/repo"}, {}, {443}),
        ({"uri": "sim://m", "engine": {"speculative": {"model": "hf://org/draft"}}}, {}, {443}),
        ({"uri": "hf://org/repo"}, {"HF_ENDPOINT": "http://hub.example"}, {80, 443}),
        ({"uri": "hf://org/repo"}, {"HF_ENDPOINT": "https://hub.example:8443/x"}, {443, 8443}),
        ({"uri": "hf://org/repo"}, {"https_proxy": "http://proxy.example:3128"}, {443, 3128}),
        ({"uri": "hf://org/repo"}, {"HTTPS_PROXY": "http://proxy:none"}, {443}),
        ({"uri": "pvc://claim/m.gguf"}, {"HF_ENDPOINT": "http://hub.example"}, None),
        ({"uri": "oci://registry.example/m:v1"}, {}, None),
    ],
)
def test_only_workers_that_download_reach_the_hub(spec, env, ports):
    made = policy(replace(INSTALLED, worker_env=tuple(env.items())), **spec)
    assert reached(made["egress"]).get(str(HUB)) == ports


def test_without_redis_nobody_reaches_it():
    assert str(REDIS) not in reached(policy(replace(INSTALLED, redis_url=""))["egress"])


def test_a_policy_replaces_no_pod():
    revisions = {
        plan(parse(document()), Observed(), replace(INSTALLED, worker_egress=chosen)).revision
        for chosen in (None, Egress(), INSTALLED.worker_egress)
    }
    assert len(revisions) == 1


@pytest.mark.parametrize("text", ["[", "[]", '{"ports": []}', '{"dns": {}}', '{"dns": ["x"]}'])
def test_what_is_no_list_of_peers_is_refused(text):
    with pytest.raises(InvalidArgumentError) as refusal:
        from_environment({"ARGOSY_WORKER_EGRESS": text})
    assert refusal.value.field == "ARGOSY_WORKER_EGRESS"


def test_sentinels_may_be_reached_beside_the_redis_that_they_name():
    def ports(url):
        return reached(policy(replace(INSTALLED, redis_url=url))["egress"])[str(REDIS)]

    assert ports("redis://:pw@mymaster/0?sentinels=a:26379,b:26380") == {6379, 26379, 26380}
    assert ports("redis://:pw@mymaster:6380/0?sentinels=a") == {6380, 26379}
