"""The InferenceDeployment resource (serving.argosy.dev/v1alpha1): types, defaults and limits of what a user writes.

These types are the one source: `argosy_api.crd` generates the CustomResourceDefinition from them, the operator and
embedded mode read resources with them. The sections of `spec` are declared in the modules of `argosy_api.spec`. What
concerns one field is declared with it; what concerns several is in `rules`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_api import limits, quantity, rules
from argosy_api.arrangement import Arrangement, arrange
from argosy_api.checking import all_problems
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_api.spec.adapters import AdapterSpec
from argosy_api.spec.autoscaling import (
    AutoscalingSpec,
    MetricSpec,
    ScaleDownSpec,
    ScaleToZeroSpec,
    ScaleUpSpec,
    ScheduleSpec,
)
from argosy_api.spec.change import DisruptionSpec, DrainSpec, RolloutSpec
from argosy_api.spec.engine import EngineSpec, QuantizationSpec, SpeculativeSpec
from argosy_api.spec.model import ModelCacheSpec, ModelSpec, SecretKeyRef
from argosy_api.spec.parallel import ParallelismSpec
from argosy_api.spec.pods import GpuSpec, PlacementSpec, ResourcesSpec, Toleration
from argosy_api.spec.strict import Strict
from argosy_api.spec.traffic import DisaggregationSpec, RoleSpec, RoutingSpec

__all__ = [
    "API_VERSION",
    "DECODE",
    "GROUP",
    "KIND",
    "NAME_PATTERN",
    "PLURAL",
    "PREFILL",
    "SHORT_NAME",
    "VERSION",
    "AdapterSpec",
    "AutoscalingSpec",
    "DisaggregationSpec",
    "DisruptionSpec",
    "DrainSpec",
    "EngineSpec",
    "GpuSpec",
    "InferenceDeployment",
    "InferenceDeploymentSpec",
    "Metadata",
    "MetricSpec",
    "ModelCacheSpec",
    "ModelSpec",
    "ParallelismSpec",
    "PlacementSpec",
    "QuantizationSpec",
    "ResourcesSpec",
    "RoleSpec",
    "RolloutSpec",
    "RoutingSpec",
    "ScaleDownSpec",
    "ScaleToZeroSpec",
    "ScaleUpSpec",
    "ScheduleSpec",
    "SecretKeyRef",
    "SpeculativeSpec",
    "Strict",
    "Toleration",
    "parse",
]

GROUP = "serving.argosy.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceDeployment"
PLURAL = "inferencedeployments"
SHORT_NAME = "infd"

PREFILL, DECODE = "prefill", "decode"
"""Roles of workers, with disaggregation."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class InferenceDeploymentSpec(Strict):
    """What the user wants."""

    model: ModelSpec
    """Which model is served, and under which name."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers that serve the model, each of which computes prompts and generates. Left out with autoscaling."""
    autoscaling: AutoscalingSpec | None = None
    """Decides how many workers there are, in place of `replicas` (docs/autoscaling.md)."""
    disaggregation: DisaggregationSpec | None = None
    """Workers of two roles instead of `replicas` equal ones (docs/disaggregation.md says when that helps)."""
    adapters: Annotated[list[AdapterSpec], Field(max_length=limits.MAX_ADAPTERS)] = []
    """LoRA adapters that are served beside the model. A change reaches running workers; none is restarted for it
    (docs/adapters.md)."""
    engine: EngineSpec = EngineSpec()
    """How the engine of each worker runs."""
    quantization: QuantizationSpec = QuantizationSpec()
    """In what numbers a worker holds weights and KV cache."""
    parallelism: ParallelismSpec = ParallelismSpec()
    """Into how many parts the model is cut, for several GPUs of a pod (docs/gpu.md) or several pods: a worker is a
    group of these then, and `replicas` counts groups (docs/several-nodes.md)."""
    resources: ResourcesSpec = ResourcesSpec()
    """What one worker asks its node for; of a group each pod."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the workers. Default: the one that the operator was installed with."""
    placement: PlacementSpec = PlacementSpec()
    """Where workers may run."""
    model_cache: ModelCacheSpec | None = None
    """Where workers keep what they download. Default for hf://: an emptyDir."""
    routing: RoutingSpec = RoutingSpec()
    """How requests are spread over the replicas."""
    rollout: RolloutSpec = RolloutSpec()
    """How a change of the resource reaches its workers."""
    disruption: DisruptionSpec = DisruptionSpec()
    """How many workers may be away at once."""
    drain: DrainSpec = DrainSpec()
    """How a worker that must go ends."""

    @property
    def arrangement(self) -> Arrangement:
        """Pods of a worker, and processes in each. Raises ValueError for what `rules` refuses."""
        per_pod = 1 if self.resources.gpu is None else self.resources.gpu.count
        return arrange(self.parallelism.tensor, self.parallelism.pipeline, per_pod)

    @property
    def workers(self) -> int:
        """Workers of all roles together."""
        return sum(self.by_role.values())

    @property
    def most_workers(self) -> int:
        """Workers that there may ever be."""
        return self.workers if self.autoscaling is None else self.autoscaling.max_replicas

    @property
    def hold_seconds(self) -> float:
        """How long a request without a worker waits in a router; 0: not at all."""
        scaled = 0.0 if self.autoscaling is None else self.autoscaling.hold_seconds
        return scaled or float(self.routing.hold_seconds)

    @property
    def by_role(self) -> dict[str, int]:
        """Role -> workers; the role of workers that do everything is empty."""
        if self.disaggregation is None:
            return {"": self.replicas}
        return {PREFILL: self.disaggregation.prefill.replicas, DECODE: self.disaggregation.decode.replicas}


class Metadata(BaseModel):
    """The part of a Kubernetes object's metadata that Argosy reads."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: Annotated[str, Field(min_length=1)]
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)] = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class InferenceDeployment(Strict):
    """Serves a language model: replicas of a quantized, continuously batching engine behind the Argosy router."""

    api_version: Literal["serving.argosy.dev/v1alpha1"]
    kind: Literal["InferenceDeployment"]
    metadata: Metadata
    spec: InferenceDeploymentSpec

    @property
    def model_uris(self) -> tuple[ModelUri, ...]:
        """Where the models that a worker loads are: the one that is served, and the one that guesses ahead, if any."""
        texts = (self.spec.model.uri, self.spec.engine.speculative.model)
        return tuple(ModelUri.parse(text) for text in texts if text is not None)

    @property
    def served_name(self) -> str:
        """Name that requests use."""
        return self.spec.model.served_name or self.metadata.name


def parse(document: Any) -> InferenceDeployment:
    """Read a resource as the API server would accept it.

    Raises:
        InvalidArgumentError: with the path of the first wrong field and what would be right.

    """
    found = examine(document)
    if isinstance(found, InferenceDeployment):
        return found
    raise found[0]


def examine(document: Any) -> InferenceDeployment | list[InvalidArgumentError]:
    """The same, or all that is wrong: fields first, and rules about several once each alone is right."""
    if not isinstance(document, dict):
        what = f"is {type(document).__name__}; must be a mapping with apiVersion, kind, metadata and spec"
        return [InvalidArgumentError("resource", what)]
    known = {k: v for k, v in document.items() if k != "status"}
    try:
        resource = InferenceDeployment.model_validate(known)
    except ValidationError as error:
        return all_problems(error, InferenceDeployment, "resource")
    spec = resource.spec
    quantities = {
        "spec.engine.kvCacheMemory": spec.engine.kv_cache_memory,
        "spec.engine.kvCacheHostMemory": spec.engine.kv_cache_host_memory,
        "spec.engine.adapterMemory": spec.engine.adapter_memory,
        "spec.resources.cpu": spec.resources.cpu,
        "spec.resources.memory": spec.resources.memory,
        "spec.modelCache.size": spec.model_cache.size if spec.model_cache else None,
    }
    wrong = list(quantity.faults(quantities))
    # rules reckon with quantities, which must be right for that
    return wrong or list(rules.violations(resource.model_dump(by_alias=True, exclude_none=True))) or resource
