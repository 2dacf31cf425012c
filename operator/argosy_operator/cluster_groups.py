"""Groups as they are in the cluster: what is known of each, and its restart as a whole."""

from collections.abc import Callable, Collection

from argosy_operator.errors import ApiError
from argosy_operator.group_manifests import STATEFUL_SET
from argosy_operator.groups import Group, torn
from argosy_operator.kube import KubeApi
from argosy_operator.observe import Children, PodView
from argosy_operator.plan import ChildRef


def groups_of(
    children: Children, is_routable: Callable[[PodView], bool], going: Collection[str] = ()
) -> tuple[Group, ...]:
    """What is there. `going`: pods that an autoscaler has chosen to go first."""
    leaders = {pod.group: pod for pod in children.pods if pod.group}
    found = list[Group]()
    for ref, child in children.children.items():
        if ref.kind != STATEFUL_SET:
            continue
        leader = leaders.get(ref.name)
        there = leader is not None and leader.active
        found.append(
            Group(
                name=ref.name,
                revision=child.made_of,
                track=child.track,
                routable=leader is not None and there and is_routable(leader),
                cost=0 if leader is None else leader.cost - (leader.name in going) * _FIRST,
                created_at=child.created_at,
            )
        )
    return tuple(found)


_FIRST = 1 << 40
"""More than any deletion cost."""


async def restart(api: KubeApi, namespace: str, children: Children) -> ApiError | None:
    """Delete the pods whose group has lost one; the first refusal is returned."""
    ours = {child.uid for ref, child in children.children.items() if ref.kind == STATEFUL_SET}
    first: ApiError | None = None
    for pod in torn([pod for pod in children.everybody if pod.owner in ours]):
        try:
            await api.delete(ChildRef("v1", "Pod", pod.name), namespace, pod.uid, None)
        except ApiError as error:
            if error.status != 409:  # another pod has its name by now
                first = first or error
    return first
