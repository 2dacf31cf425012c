"""Uninstalling leaves nothing but what it says, and both Helms can install, test, upgrade and uninstall."""

import shutil
from pathlib import Path

import pytest
from e2e_installed import only
from e2e_kit import CHART, RELEASE, SYSTEM, Kubectl, helm, make_namespace, resource, wait_for, wait_ready

CRD = "customresourcedefinition/inferencedeployments.serving.argosy.dev"
CLUSTER_KINDS = "clusterroles,clusterrolebindings,apiservices"
KINDS = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies"


def left(kubectl):
    """What is in a namespace and was not there before anything was installed."""
    own = {"kube-root-ca.crt", "default"}
    return sorted(
        f"{i['kind']}/{i['metadata']['name']}" for i in kubectl.get(KINDS) if i["metadata"]["name"] not in own
    )


def helms():
    return [pytest.param(path, id=Path(path).name) for path in map(shutil.which, ("helm", "helm3")) if path]


@pytest.mark.alone
def test_uninstall_leaves_only_the_definition(system, cluster):
    helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    wait_for("nothing is left", lambda: not left(system), 90)
    of_release = ("app.kubernetes.io/instance", RELEASE)
    theirs = [item["metadata"] for item in cluster.get(CLUSTER_KINDS)]
    theirs = [m for m in theirs if m["name"].startswith(SYSTEM) or of_release in m.get("labels", {}).items()]
    assert [m["name"] for m in theirs] == []
    assert cluster.get(CRD)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.apart
@pytest.mark.parametrize("binary", helms())
def test_each_helm_installs_tests_upgrades_and_uninstalls(nobody_else, cluster, binary):
    """In a namespace of its own, with rights in no other: Roles in place of ClusterRoles."""
    made = make_namespace(cluster)
    name = made.namespace
    values = ["--namespace", name, *only(made)]
    try:
        helm("install", "harbour", str(CHART), *values, binary=binary)
        for component in ("operator", "router", "valkey"):
            made("rollout", "status", f"deployment/harbour-argosy-{component}", "--timeout=120s", timeout=130)
        made.apply(resource("small"))
        wait_ready(made, "small")
        # Helm 3 looks for the logs of a test after it has deleted its pod
        logs = [] if helm("version", "--short", binary=binary).startswith("v3") else ["--logs"]
        said = helm("test", "harbour", "--namespace", name, *logs, binary=binary)
        words = ["Succeeded", "the router is ready", "small"] if logs else ["Succeeded"]
        assert [word for word in words if word not in said] == [], said
        helm("upgrade", "harbour", str(CHART), *values, "--set", "router.replicas=2", binary=binary)
        made("rollout", "status", "deployment/harbour-argosy-router", "--timeout=120s", timeout=130)
        assert made.get("pdb", "harbour-argosy-router")
        wait_ready(made, "small")
        made("delete", "infd", "small", "--timeout=60s", timeout=70)
        helm("uninstall", "harbour", "--namespace", name, "--wait", binary=binary)
        wait_for("nothing is left", lambda: not left(Kubectl(name)), 90)
    finally:
        made("delete", "infd", "--all", "--ignore-not-found", "--wait=false")
        cluster("delete", "namespace", name, "--wait=false")
