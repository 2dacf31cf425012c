"""The plan: particular decisions, what a kubelet makes of them, and who takes whose place."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_kit import document
from plan_kit import INSTALLED, container_of, env_of, make_resource, manifests_of, pod_of

from argosy_api.resource import parse
from argosy_api.worker_spec import WorkerSpec
from argosy_cli.embedded import pods as embedded
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import ChildRef, Observed, plan
from argosy_operator.pods import literal
from argosy_operator.rollout import Worker


@pytest.mark.parametrize(
    ("model", "draft", "mounts"),
    [
        ("sim://m", "sim://d", []),
        ("pvc://a/m.gguf", "pvc://b/d.gguf", ["/models/a", "/models/b"]),
        ("pvc://a/m.gguf", "pvc://a/d.gguf", ["/models/a"]),
        (
            "oci://r.io/m:v1/m.gguf",
            "oci://d@sha256:" + "0" * 64,
            ["/images/r.io%2Fm%3Av1", "/images/d%40sha256%3A" + "0" * 64],
        ),
        ("oci://m:v1/m.gguf", "oci://m:v1/d.gguf", ["/images/m%3Av1"]),
        ("pvc://a/m.gguf", "hf://o/r", ["/models/a", "/var/cache/argosy"]),
        ("file:///m.gguf", "hf://o/r", ["/var/cache/argosy"]),
        ("hf://o/m", "hf://o/d", ["/var/cache/argosy"]),
    ],
)
def test_the_model_that_guesses_ahead_is_where_the_worker_looks_for_it(model, draft, mounts):
    resource = make_resource(model={"uri": model}, engine={"speculative": {"model": draft}})
    container, pod = container_of(resource), pod_of(resource)
    assert [m["mountPath"] for m in container["volumeMounts"]] == ["/tmp", "/etc/argosy/adapters", *mounts]
    assert [m["name"] for m in container["volumeMounts"]] == [v["name"] for v in pod["volumes"]]
    assert ("ARGOSY_MODEL_CACHE" in env_of(resource)) == ("/var/cache/argosy" in mounts)
    told = WorkerSpec.parse(container["args"][0].partition("=")[2])
    assert told.engine.speculative.model == draft


def test_what_belongs_to_a_resource():
    assert [m["kind"] for m in plan(make_resource(), Observed(), INSTALLED).apply] == [
        "ServiceAccount", "Secret", "Service", "PodDisruptionBudget", "ControllerRevision",
        "Deployment",
    ]  # fmt: skip


def test_without_an_api_server_nobody_owns_the_children():
    assert all("ownerReferences" not in m["metadata"] for m in plan(make_resource(uid=""), Observed(), INSTALLED).apply)


def test_only_a_url_with_a_password_needs_a_secret():
    secret = ChildRef("v1", "Secret", "m-argosy-redis")
    plain = replace(INSTALLED, redis_url="redis://valkey:6379/0", redis_access="shared")
    assert "Secret" not in manifests_of(make_resource(), plain)
    assert env_of(make_resource(), plain)["ARGOSY_REDIS_URL"] == "redis://valkey:6379/0"
    assert plan(make_resource(), Observed(frozenset({secret})), plain).delete == (secret,)
    assert env_of(make_resource())["ARGOSY_REDIS_URL"] == {"secretKeyRef": {"name": "m-argosy-redis", "key": "url"}}
    assert "pw" not in str(pod_of(make_resource()))
    assert "ARGOSY_REDIS_URL" not in env_of(make_resource(), PlanSettings())


def test_who_may_reach_workers_is_what_the_installation_says():
    rules = ({"ports": [{"port": "grpc"}], "from": [{"podSelector": {}}]},)
    assert "NetworkPolicy" not in manifests_of(make_resource())
    policy = manifests_of(make_resource(), replace(INSTALLED, worker_ingress=rules))["NetworkPolicy"]
    assert policy["metadata"]["namespace"] == make_resource().metadata.namespace
    labels = manifests_of(make_resource())["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"][:-1] == list(rules)
    peers = policy["spec"]["ingress"][-1]  # and workers fetch blocks of the cache from each other
    assert peers["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert peers["ports"] == [{"port": 9000, "protocol": "TCP"}]
    nobody = manifests_of(make_resource(), replace(INSTALLED, worker_ingress=()))["NetworkPolicy"]
    assert nobody["spec"]["ingress"] == [peers]
    closed = plan(make_resource(), Observed(), replace(INSTALLED, worker_ingress=rules)).revision
    assert closed == plan(make_resource(), Observed(), INSTALLED).revision  # no pod is replaced for it


def test_a_new_password_replaces_the_pods():
    other = replace(INSTALLED, redis_url="redis://:new@valkey:6379/0")
    assert plan(make_resource(), Observed(), INSTALLED).revision != plan(make_resource(), Observed(), other).revision


def test_the_worker_is_told_who_it_is():
    env = env_of(make_resource())
    assert env["ARGOSY_WORKER_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["ARGOSY_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert (env["ARGOSY_GRPC_PORT"], env["ARGOSY_METRICS_PORT"]) == ("9000", "9001")


def test_an_installation_cannot_override_a_workers_identity():
    installed = PlanSettings(worker_env=(("ARGOSY_WORKER_ID", "x"), ("HF_ENDPOINT", "http://mirror")))
    env = env_of(make_resource(), installed)
    assert env["ARGOSY_WORKER_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env["HF_ENDPOINT"] == "http://mirror"


def test_a_claim_is_mounted_read_only():
    resource = make_resource(uri="pvc://models/llama/model.gguf")
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod_of(resource)[
        "volumes"
    ]
    assert {"name": "model", "mountPath": "/models/models", "readOnly": True} in container_of(resource)["volumeMounts"]


def test_downloads_have_a_cache_with_a_limit():
    resource = make_resource(uri="hf://org/repo")
    assert {"name": "cache", "emptyDir": {"sizeLimit": "20Gi"}} in pod_of(resource)["volumes"]
    assert env_of(resource)["ARGOSY_MODEL_CACHE"] == "/var/cache/argosy"
    shared = make_resource(uri="hf://org/repo", modelCache={"type": "pvc", "claimName": "c"})
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "c"}} in pod_of(shared)["volumes"]


def test_a_gpu_is_a_limit_and_a_request():
    found = container_of(make_resource(uri="hf://o/r", resources={"gpu": {}}))["resources"]
    assert found["limits"]["nvidia.com/gpu"] == found["requests"]["nvidia.com/gpu"] == "1"


def test_the_cpu_has_no_limit():
    assert container_of(make_resource())["resources"] == {
        "requests": {"cpu": "1", "memory": "2Gi"},
        "limits": {"memory": "2Gi"},
    }


def test_the_kubelet_waits_longer_than_the_drain():
    pod = pod_of(make_resource(drain={"timeoutSeconds": 100}))
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > 100 + pause


def test_a_value_is_never_an_option():
    args = container_of(make_resource(uri="sim://x?a=--help"))["args"]
    [argument] = args
    assert WorkerSpec.parse(argument.removeprefix("--spec=")).model.uri == "sim://x?a=--help"


# ------------------------------------------------------------------ what a kubelet makes of it

_awkward = st.text(alphabet="$()ABC_x.\\ {}", max_size=30)


@settings(max_examples=300, deadline=None)
@given(_awkward, st.dictionaries(st.sampled_from(["A", "ABC", "HF_TOKEN"]), st.just("secret")))
def test_a_kubelet_gives_back_what_was_written(text, environment):
    assert embedded.expand(literal(text), environment) == text


def test_nothing_that_a_user_writes_is_expanded():
    made = document()
    made["spec"]["model"] = {"uri": "file:///$(ARGOSY_REDIS_URL)/$$(HOME)/m"}
    installed = replace(INSTALLED, worker_env=(("HTTP_PROXY", "http://$(ARGOSY_REDIS_URL)"),))
    (pod,) = embedded.pods(manifests_of(parse(made), installed)["Deployment"])
    started = embedded.start(pod, python="python", overrides={}, secret=lambda *_: "hunter2")
    assert started.env["ARGOSY_REDIS_URL"] == "hunter2"
    assert WorkerSpec.parse(started.argv[-1].removeprefix("--spec=")).model.uri == made["spec"]["model"]["uri"]
    assert started.env["HTTP_PROXY"] == "http://$(ARGOSY_REDIS_URL)"
    assert (
        env_of(make_resource(), PlanSettings(redis_url="redis://v/$(X)", redis_access="shared"))["ARGOSY_REDIS_URL"]
        == "redis://v/$$(X)"
    )


# ------------------------------------------------------------------ a workload that takes another one's place

FORMER = ChildRef("apps/v1", "Deployment", "m-worker")


@pytest.mark.parametrize(
    ("routable", "replicas", "goes"),
    [({}, 2, False), ({"this": 1}, 2, False), ({"former": 2}, 2, False), ({"this": 2}, 2, True), ({}, 0, True)],
)
def test_a_workload_that_is_not_wanted_serves_until_those_that_are_can(routable, replicas, goes):
    resource = make_resource(replicas=replicas)
    this = plan(resource, Observed(), INSTALLED).revision
    workers = tuple(
        Worker(revision=this if name == "this" else name, routable=True)
        for name, number in routable.items()
        for _ in range(number)
    )
    stray = ChildRef("v1", "Service", "m-old")
    made = plan(resource, Observed(frozenset({FORMER, stray}), workers=workers), INSTALLED)
    assert made.delete == ((FORMER, stray) if goes else (stray,))
