"""Which groups of pods there must be, and when a group is restarted as a whole. Pure.

A group is a StatefulSet whose pods share one model. It is of one revision for as long as it lives: its pods are never
changed, since a part of them would be of no use. A change of the resource makes other groups, and ends the former ones
as those come to serve; so what `spec.rollout` says of workers holds for groups.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from argosy_api import labels
from argosy_api.spec.change import RolloutSpec

_REVISION_DIGITS = 6
"""Of a group's name, so that a resource's name of 40 characters leaves room: a StatefulSet's may have 52."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group that is there."""

    name: str
    revision: str
    track: str = labels.STABLE
    routable: bool = False
    cost: int = 0
    """What would be lost with it: those with the least go first."""
    created_at: float = 0.0


class Chosen(NamedTuple):
    """Groups of one track."""

    new: tuple[str, ...]
    """Names of those that there must be of the wanted revision."""
    stay: frozenset[str]
    """Names of former ones that serve until those can."""


def size_of(template: Mapping[str, Any]) -> int:
    """Pods of a group that a pod template is for; 0: it is for workers that are one pod each."""
    return int(template["metadata"]["labels"].get(labels.GROUP_SIZE, 0))


class Aim(NamedTuple):
    """What there is to be of a track."""

    owner: str
    """Name of the resource."""
    track: str
    revision: str
    wanted: int


def choose(aim: Aim, there: Iterable[Group], rollout: RolloutSpec, *, ending: bool) -> Chosen:
    """Which groups of a track there must be now, so that there come to be as many as are wanted, of that revision.

    `ending`: pods of former groups are still there, whether their groups are or not.
    """
    owner, track, revision, count = aim
    mine = [group for group in there if group.track == track]
    by_use = sorted(mine, key=lambda g: (g.routable, g.cost, -g.created_at, g.name), reverse=True)
    new = [group for group in by_use if group.revision == revision][:count]
    old = [group for group in by_use if group.revision != revision]
    if rollout.strategy == "Recreate":
        stay, room = list[Group](), 0 if old or ending else count
    else:
        able = sum(group.routable for group in new)
        stay = old[: max(0, count - rollout.max_unavailable - able)]
        room = count + rollout.max_surge - len(stay)
    names = [group.name for group in new]
    taken = {group.name for group in mine}
    free = (name for i in range(len(taken) + count) if (name := _name(owner, track, revision, i)) not in taken)
    names += [next(free) for _ in range(max(0, min(count, room) - len(names)))]
    return Chosen(tuple(sorted(names)), frozenset(group.name for group in stay))


def _name(owner: str, track: str, revision: str, index: int) -> str:
    side = "" if track == labels.STABLE else track[0]
    return f"{owner}-{revision[:_REVISION_DIGITS]}-{side}{index}"


class Member(Protocol):
    """A pod of a group."""

    @property
    def group(self) -> str:
        """Name of its group."""
        ...

    @property
    def created_at(self) -> float:
        """Seconds since the epoch."""
        ...

    @property
    def told_to_end_at(self) -> float:
        """Seconds since the epoch; 0: it was not."""
        ...


_M = TypeVar("_M", bound=Member)


def torn(pods: Sequence[_M]) -> list[_M]:
    """Pods to be deleted because another one of their group is: without it they are of no use, and the group begins
    anew with all of them. One that was made later, or in the same second, is of the new beginning.
    """
    ends: dict[str, float] = {}
    for pod in pods:
        if pod.group and pod.told_to_end_at:
            ends[pod.group] = max(ends.get(pod.group, 0.0), pod.told_to_end_at)
    return [pod for pod in pods if not pod.told_to_end_at and pod.created_at < ends.get(pod.group, 0.0)]
