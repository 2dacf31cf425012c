"""The mini-kubelet: what a Deployment's pods become as local processes."""

import pytest

from argosy_api import resource as api
from argosy_api.errors import InternalError
from argosy_api.worker_spec import WorkerSpec
from argosy_cli.embedded import pods
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed, plan


def make(**env_sources):
    """A Deployment with one container whose variables have these sources (a string is a plain value)."""
    env = [
        {"name": n, "value": v} if isinstance(v, str) else {"name": n, "valueFrom": v} for n, v in env_sources.items()
    ]
    return {
        "metadata": {"name": "m-worker", "namespace": "team"},
        "spec": {
            "replicas": 3,
            "template": {
                "metadata": {"labels": {"serving.argosy.dev/revision": "r1", "a/b": "c"}, "annotations": {"x": "y"}},
                "spec": {
                    "serviceAccountName": "m-worker",
                    "terminationGracePeriodSeconds": 42,
                    "containers": [
                        {"name": "sidecar", "command": ["nothing"]},
                        {
                            "name": "worker",
                            "command": ["python", "-m", "argosy_worker"],
                            "args": ["--served-name=$(NAME)", "--cost=$$(NAME)", "--other=$(UNKNOWN)"],
                            "env": env,
                            "startupProbe": {"periodSeconds": 2, "failureThreshold": 30},
                            "livenessProbe": {"periodSeconds": 7},
                        },
                    ],
                },
            },
        },
    }


def start(deployment, overrides=None, secret=None, index=0):
    pod = pods.pods(deployment)[index]
    return pods.start(pod, python="/bin/python", overrides=overrides or {}, secret=secret or (lambda *_: "never"))


def field(path):
    return {"fieldRef": {"fieldPath": path}}


def test_pods_have_distinct_names_that_stay_the_same():
    names = [p.name for p in pods.pods(make())]
    assert len(set(names)) == 3
    assert all(name.startswith("m-worker-") and len(name) <= 63 for name in names)
    assert names == [p.name for p in pods.pods(make())]
    assert set(names).isdisjoint(p.name for p in pods.pods(make(CHANGED="1")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.namespace", "team"),
        ("status.podIP", "127.0.0.1"),
        ("status.hostIP", "127.0.0.1"),
        ("metadata.labels['serving.argosy.dev/revision']", "r1"),
        ("metadata.labels['a/b']", "c"),
        ("metadata.annotations['x']", "y"),
        ("spec.serviceAccountName", "m-worker"),
        ("spec.nodeName", "localhost"),
    ],
)
def test_fields_are_resolved(path, value):
    assert start(make(V=field(path))).env == {"V": value}


def test_each_pod_gets_its_own_name_and_uid():
    names = [start(make(V=field("metadata.name")), index=i).env["V"] for i in range(3)]
    assert names == [p.name for p in pods.pods(make(V=field("metadata.name")))]
    assert len({start(make(V=field("metadata.uid")), index=i).env["V"] for i in range(3)}) == 3


def test_secrets_are_asked_for_by_name_and_key():
    asked = []

    def secret(name, key):
        asked.append((name, key))
        return "s3cret"

    assert start(make(T={"secretKeyRef": {"name": "hub", "key": "token"}}), secret=secret).env == {"T": "s3cret"}
    assert asked == [("hub", "token")]


def test_overrides_win_and_spare_the_secret():
    def secret(name, key):
        raise AssertionError("not needed")

    deployment = make(ARGOSY_REDIS_URL={"secretKeyRef": {"name": "r", "key": "url"}}, PORT="9000")
    env = start(
        deployment, overrides={"ARGOSY_REDIS_URL": "redis://here", "PORT": "1", "NEW": "$(PORT)"}, secret=secret
    ).env
    assert env == {"ARGOSY_REDIS_URL": "redis://here", "PORT": "1", "NEW": "$(PORT)"}


def test_references_are_expanded_as_kubernetes_does():
    started = start(make(NAME="n", BOTH="$(NAME)-$(LATER)-$$(NAME)", LATER="l"))
    assert started.env == {"NAME": "n", "BOTH": "n-$(LATER)-$(NAME)", "LATER": "l"}
    assert started.argv[3:] == ("--served-name=n", "--cost=$(NAME)", "--other=$(UNKNOWN)")


def test_python_is_this_one():
    assert start(make()).argv[:3] == ("/bin/python", "-m", "argosy_worker")


@pytest.mark.parametrize("source", [field("status.phase"), {"configMapKeyRef": {"name": "a", "key": "b"}}])
def test_what_is_unknown_is_refused_by_the_variables_name(source):
    with pytest.raises(InternalError, match="VARIABLE"):
        start(make(VARIABLE=source))


def test_limits_come_from_the_probes():
    assert pods.limits(pods.pods(make())[0]) == pods.Limits(
        startup_s=60, liveness_period_s=7, liveness_failures=3, grace_s=42
    )


def test_the_real_plan_is_understood():
    """Whatever the operator plans for a worker, embedded mode can run."""
    document = {
        "apiVersion": api.API_VERSION,
        "kind": api.KIND,
        "metadata": {"name": "m", "namespace": "team"},
        "spec": {
            "model": {"uri": "hf://org/repo", "tokenSecretRef": {"name": "hub"}, "servedName": "served"},
            "replicas": 2,
        },
    }
    settings = PlanSettings(redis_url="redis://:password@redis:6379/0", worker_env=(("HF_ENDPOINT", "http://mirror"),))
    deployment = next(m for m in plan(api.parse(document), Observed(), settings).apply if m["kind"] == "Deployment")
    first, second = pods.pods(deployment)
    started = start(deployment, overrides={"ARGOSY_REDIS_URL": "redis://here"}, secret=lambda *_: "token")
    assert started.argv[:3] == ("/bin/python", "-m", "argosy_worker")
    spec = WorkerSpec.parse(started.argv[3].removeprefix("--spec="))
    assert (spec.model.uri, spec.model.served_name, spec.revision) == ("hf://org/repo", "served", first.revision)
    assert first.revision == second.revision != ""
    assert {k: started.env[k] for k in ("ARGOSY_WORKER_ID", "ARGOSY_NAMESPACE", "ARGOSY_DEPLOYMENT", "HF_TOKEN")} == {
        "ARGOSY_WORKER_ID": first.name,
        "ARGOSY_NAMESPACE": "team",
        "ARGOSY_DEPLOYMENT": "m",
        "HF_TOKEN": "token",
    }
    assert started.env["ARGOSY_REDIS_URL"] == "redis://here"
    assert started.env["HF_ENDPOINT"] == "http://mirror"
    limits = pods.limits(first)
    assert limits.grace_s > 30
    assert limits.startup_s > 0
