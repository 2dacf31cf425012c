"""How the ranks of a worker lie in pods: one arithmetic for the rules, the operator, the worker and the plan. Pure.

`parallelism.tensor` x `parallelism.pipeline` ranks compute on a GPU each (`pipeline` counts them). A pod has as many of
them as it has GPUs, one after another: whole stages, or an equal part of one, so that as few exchanges as can be leave
it. One pod is a worker like any other; several are a group.
"""

from typing import NamedTuple

MESSAGE = (
    "is how many of the parts that parallelism makes a pod has: it must divide tensor, or be a multiple of tensor that "
    "divides tensor times pipeline (1 where the model is not cut)"
)


class Arrangement(NamedTuple):
    """Pods of a worker, and processes in each of them."""

    pods: int
    local: int
    """Ranks of a pod."""

    def ranks(self, pod: int) -> range:
        """Those of a pod, 0 to `pods` - 1."""
        return range(pod * self.local, (pod + 1) * self.local)


def possible(tensor: int, pipeline: int, per_pod: int) -> bool:
    """Whether pods of `per_pod` ranks can have whole stages, or equal parts of one."""
    return tensor % per_pod == 0 or (per_pod % tensor == 0 and tensor * pipeline % per_pod == 0)


def arrange(tensor: int, pipeline: int, per_pod: int = 1) -> Arrangement:
    """Pods for `tensor` x `pipeline` ranks, `per_pod` in each.

    Raises:
        ValueError: they cannot lie so; with MESSAGE.

    """
    if not possible(tensor, pipeline, per_pod):
        raise ValueError(MESSAGE)
    return Arrangement(tensor * pipeline // per_pod, per_pod)


def share(count: int, local: int, part: int) -> int:
    """What the process `part` of a pod's `local` ones has of `count` threads: as even as can be, and one at least."""
    return max(1, count // local + (part < count % local))
