"""The status of an InferenceDeployment: written by the operator, and part of the CRD like the types in `resource`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Condition(BaseModel):
    """As in Kubernetes (metav1.Condition)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    """CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32_768)] = ""
    """Sentence for people: what is the case, and what to do about it."""
    observed_generation: int = 0
    last_transition_time: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class ModelStatus(BaseModel):
    """What the workers found in the model's files."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    architecture: str = ""
    quantization: str = ""
    compute: str = ""
    device: str = ""
    max_model_len: int = 0
    kv_blocks_per_replica: int = 0


class MemoryStatus(BaseModel):
    """How the memory of one worker divides, as the workers found it; `argosy plan` says it before anything is there."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    of: Annotated[str, Field(max_length=4096)] = ""
    """What it was counted for: the model, and in what numbers it is held."""
    weights_bytes: int = 0
    kv_cache_bytes: int = 0
    kv_bytes_per_token: int = 0
    kv_tokens: int = 0
    """Tokens that the KV cache holds."""


class RoleStatus(BaseModel):
    """Workers of one role of a disaggregated resource."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    role: str
    """prefill or decode."""
    replicas: int = 0
    """Workers that are wanted."""
    ready_replicas: int = 0
    """Workers that are ready, of any revision."""
    routable_replicas: int = 0
    """Workers of the current revision that the router can reach."""


class AdapterStatus(BaseModel):
    """A LoRA adapter of the list, as the ready workers of the current revision say."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    name: str
    state: Literal["Ready", "Loading", "Failed"]
    """Ready: all of them serve it. Failed: at least one cannot, and says why."""
    ready_replicas: int = 0
    """Workers that serve it."""
    reason: str = ""
    """CamelCase word for programs, of Failed."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What is wrong with it."""


class ScalingDecision(BaseModel):
    """A change of the number of workers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    time: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    before: int
    after: int
    reason: Annotated[str, Field(max_length=64)]
    """CamelCase word for programs: Load, LessLoad, Bounds."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What was measured."""


class AutoscalingStatus(BaseModel):
    """What autoscaling decides."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    desired_replicas: int = 0
    """Workers that it wants now."""
    decisions: list[ScalingDecision] = []
    """The last changes, the newest one first."""


class CanaryStatus(BaseModel):
    """The canary that is under way; routers send it its part of the requests."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    revision: str
    weight: int = 0
    """Percent of the requests."""
    step: int = 0
    """Which of `spec.rollout.canary.steps`, from 1."""
    message: str = ""
    """What was measured, and what is waited for."""


class PrefetchStatus(BaseModel):
    """How far nodes are with pulling what workers need, with `spec.placement.prefetch`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    nodes: int = 0
    """Where workers may run."""
    done: int = 0
    """That have it."""
    failed: int = 0
    """Whose Job has failed."""


class InferenceDeploymentStatus(BaseModel):
    """What is the case, written by the operator."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)

    observed_generation: int = 0
    """Generation of the spec that this status is about."""
    replicas: int = 0
    """Worker pods that exist and are not terminating."""
    ready_replicas: int = 0
    """Workers that are ready, of any revision."""
    updated_replicas: int = 0
    """Workers of `revision`."""
    routable_replicas: int = 0
    """Workers of the revision in force that the router can reach."""
    ready: str = ""
    """Routable and wanted replicas, as 1/2."""
    selector: str = ""
    """Label selector of the worker pods, for the scale subresource."""
    revision: str = ""
    """Hash of what the worker pods are to be made of, by the spec."""
    current_revision: str = ""
    """The last revision of which all workers could be routed to; what a failed change is taken back to."""
    failed_revision: str = ""
    """`revision`, when it was taken back."""
    reason: str = ""
    """Reason of the Ready condition."""
    canary: CanaryStatus | None = None
    """The canary that is under way."""
    endpoint: str = ""
    """Where to send requests, inside the cluster."""
    roles: list[RoleStatus] = []
    """The same by role, with disaggregation."""
    autoscaling: AutoscalingStatus | None = None
    """What autoscaling decides, where the resource has it."""
    prefetch: PrefetchStatus | None = None
    """How far nodes are with pulling what workers need, where the resource asks for it."""
    adapters: list[AdapterStatus] = []
    """The adapters of the list, where there are any."""
    model: ModelStatus | None = None
    """What the workers found in the model's files."""
    plan: MemoryStatus | None = None
    """How the memory of one worker divides."""
    conditions: list[Condition] = []
    """Ready, Progressing, Degraded, Scheduled, ModelLoaded, RouterSynced, KVIndexHealthy, Uniform, NameTaken;
    AutoscalingActive with autoscaling, Prefetched with placement.prefetch, AdaptersLoaded with adapters."""
