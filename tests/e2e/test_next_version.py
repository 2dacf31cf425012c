"""The way to the API's next version (docs/adr/0004): both are served, storage changes and changes back, workers stay."""

import copy
import json

import pytest
from e2e_kit import resource, wait_for, wait_ready

from argosy_api.crd import crd
from argosy_api.resource import GROUP, PLURAL, VERSION

pytestmark = pytest.mark.alone
NEXT = "v1beta1"
NAME = f"{PLURAL}.{GROUP}"


def definition_of(*, stored, also_next=True):
    made = crd()
    (first,) = made["spec"]["versions"]
    versions = [first, {**copy.deepcopy(first), "name": NEXT}] if also_next else [first]
    made["spec"]["versions"] = [{**version, "storage": version["name"] == stored} for version in versions]
    return made


def define(cluster, made):
    return cluster.run("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=made)


def stored(cluster):
    return cluster.get("crd", NAME)["status"]["storedVersions"]


def store_all_as(cluster, version):
    """Each object is written once, as it is; then the definition may forget the other version."""
    for item in cluster.get(PLURAL, "--all-namespaces"):
        meta = item["metadata"]
        cluster(
            "annotate",
            PLURAL,
            meta["name"],
            f"--namespace={meta['namespace']}",
            "--overwrite",
            f"{GROUP}/stored={version}",
        )
    patch = json.dumps({"status": {"storedVersions": [version]}})
    cluster("patch", "crd", NAME, "--subresource=status", "--type=merge", f"--patch={patch}")


@pytest.fixture
def as_before(cluster):
    """The definition is again what it was, whatever came of the test."""
    yield
    define(cluster, definition_of(stored=VERSION))
    wait_for("both are served", lambda: cluster.run("get", f"{PLURAL}.{VERSION}.{GROUP}", "-A").returncode == 0)
    store_all_as(cluster, VERSION)
    assert define(cluster, definition_of(stored=VERSION, also_next=False)).returncode == 0
    cluster("api-resources", f"--api-group={GROUP}")  # else kubectl goes on asking for the version that it remembers


def test_resources_and_workers_stay_while_the_stored_version_changes(system, cluster, namespace, as_before):
    namespace.apply(resource("kept"))
    wait_ready(namespace, "kept")
    pods = {pod["metadata"]["uid"] for pod in namespace.workers("kept")}
    next_of = f"{PLURAL}.{NEXT}.{GROUP}"

    assert define(cluster, definition_of(stored=NEXT)).returncode == 0
    wait_for("the next version is served", lambda: namespace.run("get", next_of, "kept").returncode == 0)
    seen = namespace.get(next_of, "kept")
    assert seen["apiVersion"] == f"{GROUP}/{NEXT}"
    assert seen["spec"] == namespace.get(f"{PLURAL}.{VERSION}.{GROUP}", "kept")["spec"]

    namespace("patch", next_of, "kept", "--type=merge", '--patch={"spec": {"replicas": 2}}')
    wait_for("what was asked for as the next version", lambda: len(namespace.workers("kept")) == 2)
    namespace.apply({**resource("new"), "apiVersion": f"{GROUP}/{NEXT}"})
    wait_ready(namespace, "new")
    wait_ready(namespace, "kept")
    assert pods < {pod["metadata"]["uid"] for pod in namespace.workers("kept")}
    assert stored(cluster) == [VERSION, NEXT]

    refused = define(cluster, definition_of(stored=VERSION, also_next=False))
    assert refused.returncode != 0  # objects are stored as what it would no longer know
    assert "status.storedVersions" in refused.stderr, refused.stderr
    store_all_as(cluster, NEXT)
    assert stored(cluster) == [NEXT]
    wait_ready(namespace, "kept")
    assert pods < {pod["metadata"]["uid"] for pod in namespace.workers("kept")}
