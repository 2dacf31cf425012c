"""Has kubelets show workers a changed list of adapters at once, and not at their next look, a minute later or so.

A kubelet updates the volumes of a pod whenever the pod changes: an annotation suffices. It is no more than a hint; the
list is the ConfigMap.
"""

from collections.abc import Mapping, Sequence

from argosy_api import labels
from argosy_api.spec.adapters import AdapterSpec
from argosy_api.worker_status import AdapterState
from argosy_operator.adapters import digest_of, follows
from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi
from argosy_operator.observe import PodView


async def nudge(
    api: KubeApi,
    namespace: str,
    pods: tuple[PodView, ...],
    wanted: Sequence[AdapterSpec],
    said: Mapping[str, Sequence[AdapterState]],
) -> None:
    """Touch each pod once for each list that its worker does not follow. `said`: by workers that were asked."""
    digest = digest_of(wanted)
    for pod in pods:
        if pod.name in said and not follows(said[pod.name], wanted) and pod.adapters != digest:
            try:
                await api.annotate_pod(namespace, pod.name, pod.uid, labels.ADAPTERS, digest)
            except ApiError:  # the pod is gone, or the kubelet finds out by itself
                continue
