"""Labels, ports and names that the operator writes in a cluster, and that the router and embedded mode read."""

from argosy_api.resource import GROUP

NAME = f"{GROUP}/name"
"""On every child of a resource and on its EndpointSlices: the name of the resource."""
REVISION = f"{GROUP}/revision"
"""On the Deployment and on worker pods: the hash of what the pods are made of."""
COMPONENT = "app.kubernetes.io/component"
WORKER = "worker"
"""Value of COMPONENT on a worker pod, and the name of its container."""
ROLE = f"{GROUP}/role"
"""On worker pods and in the selectors of their workloads: what a pod is for among those of a replica."""
GROUPED = "group"
"""Value of COMPONENT on the pods of groups."""
IN_GROUP = f"{GROUP}/group"
"""On the pods of a group: its name, which is that of their StatefulSet."""
GROUP_SIZE = f"{GROUP}/group-size"
"""On the pods of a group: how many they are."""
RANK = "apps.kubernetes.io/pod-index"
"""On the pods of a StatefulSet: their ordinal, which is their rank in the group."""
LEADER = "leader"
"""Role of a pod that takes requests of every kind; today each worker is one pod, and it leads itself. With
disaggregation pods have the roles of their workers, `prefill` and `decode`."""
TRACK = f"{GROUP}/track"
"""On worker pods and in the selectors of their workloads: which of a resource's versions they belong to."""
STABLE = "stable"
"""Track of the workers that are there when nothing is being changed."""
CANARY = "canary"
"""Track of workers of a new revision beside those, while it is not for all of them yet."""
STATE = f"{GROUP}/state"
"""On a ControllerRevision, what became of it (`argosy_operator.revisions`)."""
ROUTABLE = "argosy.dev/routable"
"""Readiness gate of worker pods: the routers reach the worker."""

ADAPTERS = "argosy.dev/adapters"
"""Annotation of worker pods: the list of adapters that its kubelet is to show it at once, as a digest."""

GRPC_PORT = 9000
METRICS_PORT = 9001
GROUP_PORT = 9002
"""Where rank 0 takes the others of its group in."""
ADAPTERS_PATH = "/etc/argosy/adapters"
"""Where worker pods see the list of adapters."""


def worker_selector(name: str) -> dict[str, str]:
    """Labels that select the worker pods of a resource, of any workload and revision."""
    return {NAME: name, COMPONENT: WORKER}


def group_selector(name: str) -> dict[str, str]:
    """Labels that select the pods of all groups of a resource."""
    return {NAME: name, COMPONENT: GROUPED}


def leader_selector(name: str) -> dict[str, str]:
    """Labels that select the pods of rank 0 of all groups of a resource."""
    return group_selector(name) | {RANK: "0"}


def workload_selector(name: str, role: str, track: str) -> dict[str, str]:
    """Labels that select the pods of one workload of a resource, of any revision. They can never be changed."""
    return worker_selector(name) | {ROLE: role, TRACK: track}
