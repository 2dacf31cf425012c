"""Which workers go when there are to be fewer: those with the least to lose."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from argosy_operator.observe import PodView


class Worth(NamedTuple):
    """What would be lost with a worker, compared in this order."""

    requests: int = 0
    """Running and waiting: they would have to be waited for."""
    blocks: int = 0
    """Of its prefix cache: other workers would have to compute them anew."""


def victims(pods: Sequence[PodView], worth: Mapping[str, Worth], count: int) -> list[PodView]:
    """The ready ones to go, by the workers' names. Whoever is not ready goes before all of them by itself."""
    ready = [pod for pod in pods if pod.active and pod.ready]
    waiting = sum(pod.active and not pod.ready for pod in pods)
    # of equals the youngest: it has had the least time to be needed
    ready.sort(key=lambda pod: (worth.get(pod.name, Worth()), -pod.created_at, pod.name))
    return ready[: max(0, count - waiting)]
