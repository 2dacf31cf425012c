"""The cluster that KUBECONFIG names, Argosy installed in it, and namespaces to work in.

Most tests need a namespace of their own and a running installation, and mostly wait: `make test-cluster` runs some of their files
side by side. Those marked `alone` take away or replace what others need; they run afterwards, one after another. Those marked
`apart` bring an installation of their own and run last, again side by side, when the one for all namespaces has gone.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for e2e_kit, a name that no other folder has

from e2e_installed import apart, install, wait_rolled_out
from e2e_kit import CHART, RELEASE, SYSTEM, Kubectl, helm, make_namespace, reach, wait_for
from e2e_volumes import prepare

# Files in this order: the longest of those that run side by side first, and what takes the installation away last.
ORDER = [
    "pages", "rollouts", "groups", "external", "canaries", "lifecycle", "status", "autoscaling", "adapters", "top", "images", "fields", "validation",
    "rights", "nodes", "next_version", "restarts", "upgrade", "operator_killed", "api_away", "uninstall",
]  # fmt: skip


@functools.cache
def why_not() -> str:
    """Why the tests of this folder cannot run here; empty if they can."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            return f"there is no {program} on the PATH"
    command = ["kubectl", "get", "--raw", "/readyz"]
    probe = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return "" if probe.returncode == 0 else f"the cluster does not answer: {probe.stderr.strip()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    here = [item for item in items if folder in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.cluster)
    place = {f"test_{name}": number for number, name in enumerate(ORDER)}
    slots = [number for number, item in enumerate(items) if folder in item.path.parents]
    for slot, item in zip(slots, sorted(here, key=lambda item: place[item.path.stem]), strict=True):
        items[slot] = item
    # What is only a hint on a laptop is an error where the cluster is what is to be tested.
    if here and os.environ.get("ARGOSY_REQUIRE_CLUSTER") != "1" and why_not():
        left_out = pytest.mark.skip(reason=f"LEFT OUT: {why_not()}; see docs/install.md and `make test-cluster`")
        for item in here:
            item.add_marker(left_out)


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """kubectl for what has no namespace."""
    assert not why_not(), why_not()
    return Kubectl("default")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AbstractContextManager[bool]]:
    """`with once("this") as first`: one process at a time, whatever its name; `first` is said to one process of this run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    @contextlib.contextmanager
    def enter(name: str) -> Iterator[bool]:
        with (folder / "once.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = folder / f"{name}.done"
            yield not done.exists()
            done.touch()

    return enter


@pytest.fixture(scope="session")
def definition(cluster: Kubectl, once: Callable[[str], AbstractContextManager[bool]]) -> None:
    """The CustomResourceDefinition of this tree is served."""
    with once("definition") as first:
        if first:
            define(cluster)


def define(cluster: Kubectl) -> None:
    name = "crd/inferencedeployments.serving.argosy.dev"
    path = CHART / "files/crds/inferencedeployments.yaml"
    cluster("apply", "--server-side", "--force-conflicts", "--filename", str(path))
    # Helm takes over only what says that it belongs to the release
    cluster("label", "--overwrite", name, "app.kubernetes.io/managed-by=Helm")
    owner = [f"meta.helm.sh/release-name={RELEASE}", f"meta.helm.sh/release-namespace={SYSTEM}"]
    cluster("annotate", "--overwrite", name, *owner)
    cluster("wait", "--for=condition=Established", name, "--timeout=30s")
    wait_for("the API is served", lambda: cluster.run("get", "infd").returncode == 0)


@pytest.fixture(scope="session")
def system(cluster: Kubectl, once: Callable[[str], AbstractContextManager[bool]]) -> Kubectl:
    """Argosy for all namespaces, installed in one where `restricted` is enforced."""
    with once("system") as first:
        made = make_namespace(cluster, SYSTEM)
        if first:
            install()
    wait_rolled_out(made)
    return made


@pytest.fixture(scope="session")
def nobody_else(cluster: Kubectl, definition: None, once: Callable[[str], AbstractContextManager[bool]]) -> None:
    """Nobody serves all namespaces: who serves one of them would not be alone there."""
    with once("nobody else") as first:
        if first:
            helm("uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait")


@pytest.fixture
def own(cluster: Kubectl, nobody_else: None) -> Iterator[tuple[Kubectl, Kubectl]]:
    """(system, namespace): an installation for one test, and the namespace that it serves."""
    with apart(cluster) as both:
        yield both


@pytest.fixture
def namespace(cluster: Kubectl) -> Iterator[Kubectl]:
    """A namespace for one test; its InferenceDeployments are deleted first, then all of it."""
    made = make_namespace(cluster)
    yield made
    made("delete", "infd", "--all", "--ignore-not-found", "--timeout=60s", timeout=70)
    cluster("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture
def http(system: Kubectl) -> Iterator[str]:
    """host:port of the router's HTTP front."""
    with reach(system, f"service/{RELEASE}-router", 8000) as address:
        yield address


@pytest.fixture
def grpc_address(system: Kubectl) -> Iterator[str]:
    """host:port of the router's gRPC front."""
    with reach(system, f"service/{RELEASE}-router", 8001) as address:
        yield address


@pytest.fixture
def volume(cluster, namespace):
    """A folder of one node as a PersistentVolume, made by hand because not every cluster has a provisioner."""
    name = namespace.namespace
    node = cluster.get("nodes")[0]["metadata"]["name"]
    folder = f"/var/tmp/{name}"
    prepare(cluster, name, node, f"import os; os.makedirs('{folder}', exist_ok=True); os.chmod('{folder}', 0o777)")
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "hostPath": {"path": folder},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            },
        }
    )
    yield name
    namespace("delete", "infd", "--all", "--timeout=60s", timeout=70)
    cluster("delete", "pv", name, "--wait=false")
    prepare(cluster, name, node, f"import shutil; shutil.rmtree('{folder}')")
