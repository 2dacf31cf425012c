"""What a worker asks its node for, and which nodes it may run on."""

from typing import Annotated, Literal

from pydantic import Field

from argosy_api import limits
from argosy_api.spec.strict import Quantity, Strict


class GpuSpec(Strict):
    """GPUs of one worker; of a group those of each pod."""

    count: Annotated[int, Field(ge=1, le=limits.MAX_PIPELINE)] = 1
    """GPUs of a pod, each of which computes one of the parts that parallelism makes: with as many as tensor times
    pipeline a worker is one pod, with fewer a group of pods."""
    resource_name: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource."""


class ResourcesSpec(Strict):
    """What one worker asks its node for. Memory is also its limit."""

    cpu: Quantity = "1"
    """Requested CPU cores (no limit is set: throttled cores make slow tokens)."""
    memory: Quantity = "2Gi"
    """Requested memory, and the limit."""
    gpu: GpuSpec | None = None
    """GPUs; none for a CPU worker."""


class Toleration(Strict):
    """As in a Pod."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """Taint key; empty matches all keys with operator Exists."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Exists matches any value."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; empty matches all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """For NoExecute: how long."""


class PlacementSpec(Strict):
    """Where workers may run."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that workers tolerate."""
    prefetch: bool = False
    """Have every node where workers may run pull their image, and that of an oci:// model, before one comes there: by a
    Job for each node."""
    spread_over: Annotated[str, Field(max_length=316)] = "kubernetes.io/hostname"
    """Topology key that workers are spread over, as evenly as the cluster allows."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Priority class of the worker pods."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Runtime class of the worker pods."""
