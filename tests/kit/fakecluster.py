"""What makes the fake API server a cluster: controllers of Deployments and StatefulSets, a scheduler and kubelets in a few lines.

A Deployment has one pod above its replicas while it rolls, and an old one goes for each new one that is ready. Pods do at once what `fate` says: it takes a pod and returns its status. Deleted pods end at once.
"""

import asyncio
import contextlib
import itertools
import time

from fakeapi import FakeApi, Gvr, Key
from fakeapi_objects import clone

DEPLOYMENTS = Gvr("apps", "v1", "deployments")
SETS = Gvr("apps", "v1", "statefulsets")
PODS = Gvr("", "v1", "pods")
SERVICES = Gvr("", "v1", "services")
SECRETS = Gvr("", "v1", "secrets")
CONFIGS = Gvr("", "v1", "configmaps")
ACCOUNTS = Gvr("", "v1", "serviceaccounts")
BUDGETS = Gvr("policy", "v1", "poddisruptionbudgets")
POLICIES = Gvr("networking.k8s.io", "v1", "networkpolicies")
REVISIONS = Gvr("apps", "v1", "controllerrevisions")
SLICES = Gvr("discovery.k8s.io", "v1", "endpointslices")
LEASES = Gvr("coordination.k8s.io", "v1", "leases")
JOBS = Gvr("batch", "v1", "jobs")
NODES = Gvr("", "v1", "nodes")
EVENTS = Gvr("", "v1", "events")
RESOURCES = Gvr("serving.argosy.dev", "v1alpha1", "inferencedeployments")
CHILDREN = (DEPLOYMENTS, SETS, SERVICES, SECRETS, CONFIGS, ACCOUNTS, BUDGETS, POLICIES, REVISIONS)


def api() -> FakeApi:
    """A server that knows every kind that Argosy uses."""
    server = FakeApi()
    kinds = {
        DEPLOYMENTS: "Deployment", SETS: "StatefulSet", PODS: "Pod", SERVICES: "Service", SECRETS: "Secret", ACCOUNTS: "ServiceAccount",
        BUDGETS: "PodDisruptionBudget", SLICES: "EndpointSlice", EVENTS: "Event", RESOURCES: "InferenceDeployment",
        CONFIGS: "ConfigMap", POLICIES: "NetworkPolicy", LEASES: "Lease", REVISIONS: "ControllerRevision", JOBS: "Job",
    }  # fmt: skip
    for gvr, kind in kinds.items():
        subresources = {"status", "scale"} if gvr in (DEPLOYMENTS, SETS, RESOURCES) else {"status"}
        server.add(*gvr, kind, subresources=subresources)
    server.add(*NODES, "Node", namespaced=False)
    return server


def ready(pod: dict) -> dict:
    """The status of a pod that runs well."""
    return {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "worker", "restartCount": 0, "state": {"running": {}}}],
    }


def unschedulable(words: str) -> dict:
    """The status of a pod for which the scheduler finds no place."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    return {"phase": "Pending", "conditions": [condition]}


def waiting(reason: str, message: str, *, ended: dict | None = None, restarts: int = 0) -> dict:
    """The status of a pod whose container does not come to life."""
    container = {
        "name": "worker",
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    if ended is not None:
        container["lastState"] = {"terminated": ended}
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    return {"phase": "Pending", "conditions": conditions, "containerStatuses": [container]}


def _gated(pod: dict, status: dict) -> dict:
    """As a kubelet does: what others said of the pod's gates stays, and without it the pod is not ready."""
    gates = {gate["conditionType"] for gate in pod.get("spec", {}).get("readinessGates", ())}
    kept = [c for c in pod.get("status", {}).get("conditions", ()) if c["type"] in gates]
    is_open = gates <= {c["type"] for c in kept if c["status"] == "True"}
    conditions = [dict(c) for c in status.get("conditions", ())]
    for condition in [c for c in conditions if c["type"] == "Ready"]:
        conditions.append({"type": "ContainersReady", "status": condition["status"]})
        if not is_open:
            condition["status"] = "False"
    return {**status, "conditions": [*conditions, *kept]}


def _is_ready(pod: dict) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Controllers:
    """Makes pods for Deployments; `fate` gives each its status."""

    def __init__(self, server: FakeApi, fate=ready) -> None:
        self.server, self.fate = server, fate
        self._count = itertools.count()

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        queue = self.server.listen()
        self.settle()
        took = 0.0
        while True:
            await queue.get()
            # settling looks at everything: once for all that came, and for no more than half of the time
            await asyncio.sleep(took)
            while not queue.empty():
                queue.get_nowait()
            began = time.monotonic()
            self.settle()
            took = time.monotonic() - began

    def pods(self, name: str | None = None) -> dict[str, dict]:
        """Pods by name, of one resource or of all."""
        return {
            key.name: pod
            for key, pod in self.server.objects.items()
            if key.gvr == PODS and (name is None or pod["metadata"]["labels"]["serving.argosy.dev/name"] == name)
        }

    def _cost(self, key: Key) -> int:
        annotations = self.server.objects[key]["metadata"].get("annotations") or {}
        return int(annotations.get("controller.kubernetes.io/pod-deletion-cost", 0))

    def settle(self) -> None:
        """Do all that is to be done now."""
        pods = self._pods_by_owner()
        for key, deployment in list(self.server.objects.items()):
            if key.gvr == DEPLOYMENTS:
                self._deployment(key, deployment, pods.get(deployment["metadata"]["uid"], []))
            if key.gvr == SETS:
                self._set(key, deployment, pods.get(deployment["metadata"]["uid"], []))
        for key, pod in list(self.server.objects.items()):
            if key.gvr == PODS and key in self.server.objects:
                status = _gated(pod, self.fate(pod))
                if pod.get("status") != status:
                    self.server.update(key, {**pod, "status": status}, "status")

    def _pods_by_owner(self) -> dict[str, list[tuple[Key, dict]]]:
        found: dict[str, list[tuple[Key, dict]]] = {}
        for key, pod in self.server.objects.items():
            if key.gvr == PODS:
                for owner in pod["metadata"].get("ownerReferences", ()):
                    found.setdefault(owner["uid"], []).append((key, pod))
        return found

    def _deployment(self, key: Key, deployment: dict, mine: list[tuple[Key, dict]]) -> None:
        template = deployment["spec"]["template"]
        revision = template["metadata"]["labels"]["serving.argosy.dev/revision"]
        new, old = list[tuple[Key, dict]](), list[tuple[Key, dict]]()
        for k, p in mine:
            (new if p["metadata"]["labels"]["serving.argosy.dev/revision"] == revision else old).append((k, p))
        current = [k for k, _ in new]
        wanted = deployment["spec"]["replicas"]
        stay = max(0, wanted - sum(_is_ready(p) for _, p in new))
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            stay = 0
        old.sort(key=lambda one: not _is_ready(one[1]))
        for surplus, _ in old[stay:]:
            self.server.delete(surplus)
        current.sort(key=lambda k: -self._cost(k))  # stable: of equals the youngest go
        for extra in current[wanted:]:
            self.server.delete(extra)
        room = wanted + bool(old[:stay]) - len(old[:stay]) - len(current)
        for _ in range(min(wanted - len(current), room)):
            self._pod(key, "Deployment", deployment, f"{key.name}-{next(self._count)}")

    def _set(self, key: Key, made: dict, mine: list[tuple[Key, dict]]) -> None:
        """Pods by ordinal, all at once; OnDelete: a changed template changes none that is there."""
        there = {k.name for k, _ in mine}
        for i in range(made["spec"]["replicas"]):
            name = f"{key.name}-{i}"
            if name not in there and Key(PODS, key.namespace, name) not in self.server.objects:
                self._pod(key, "StatefulSet", made, name, {"apps.kubernetes.io/pod-index": str(i)})

    def _pod(self, key: Key, kind: str, made: dict, name: str, more: dict | None = None) -> None:
        template, uid = made["spec"]["template"], made["metadata"]["uid"]
        owner = {"apiVersion": "apps/v1", "kind": kind, "name": key.name, "uid": uid, "controller": True}
        metadata = {"labels": clone(template["metadata"]["labels"]) | (more or {}), "ownerReferences": [owner]}
        pod = {"metadata": metadata, "spec": {**clone(template["spec"]), "nodeName": "node-1"}}
        if "conditions" in (status := self.fate({"metadata": metadata})) and status["phase"] == "Pending":
            scheduled = next(c for c in status["conditions"] if c["type"] == "PodScheduled")
            if scheduled["status"] == "False":
                del pod["spec"]["nodeName"]
        self.server.create(Key(PODS, key.namespace, name), pod)
