"""The InferenceDeployment resource (serving.argosy.dev/v1alpha1): types, defaults and limits of what a user writes.

These types are the one source: `argosy_api.crd` generates the CustomResourceDefinition from them, the operator and
embedded mode read resources with them. What concerns one field is declared here; what concerns several is in `rules`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from argosy_api import limits, model_uri, quantity, rules
from argosy_api.checking import first_problem
from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri

GROUP = "serving.argosy.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceDeployment"
PLURAL = "inferencedeployments"
SHORT_NAME = "infd"

PREFILL, DECODE = "prefill", "decode"
"""Roles of workers, with disaggregation."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

_QUANTITY_SCHEMA = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": quantity.PATTERN,
    "maxLength": 32,
}
Quantity = Annotated[str | int, WithJsonSchema(_QUANTITY_SCHEMA)]


def _model_uri(text: str) -> str:
    try:
        ModelUri.parse(text)
    except InvalidArgumentError as error:
        raise ValueError(error.problem) from None
    return text


class Strict(BaseModel):
    """A type that refuses what it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


class SecretKeyRef(Strict):
    """A key of a Secret in the resource's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"
    """Key in the Secret."""


Uri = Annotated[
    str,
    Field(max_length=model_uri.MAX_LENGTH, json_schema_extra={"pattern": model_uri.PATTERN}),
    AfterValidator(_model_uri),
]


class ModelSpec(Strict):
    """Which model is served, and under which name."""

    uri: Uri
    """Where the model is: hf://org/repo@revision, pvc://claim/path, package://python_package/file, file:///path, or
    sim://name?options for the simulated model. A .gguf file, or a folder with safetensors."""
    served_name: (
        Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$")]
        | None
    ) = None
    """Name that requests use in `model`. Default: the name of the resource."""
    max_model_len: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Longest prompt and answer together, in tokens. Default: the context length of the model."""
    token_secret_ref: SecretKeyRef | None = None
    """Access token for hf:// repositories that need one."""


class SpeculativeSpec(Strict):
    """Tokens that are guessed ahead and checked by the model in one step. No answer changes by it."""

    method: Literal["auto", "draft", "ngram", "off"] = "auto"
    """ngram looks up what followed the last tokens before; draft asks a smaller model; auto does either (draft only
    with a model). All of them guess less, down to nothing, where it does not pay."""
    model: Uri | None = None
    """The smaller model, for draft and auto: where it is, as in model.uri. Its vocabulary must be the same."""
    max_draft: Annotated[int, Field(ge=1, le=limits.MAX_DRAFT)] = 8
    """Tokens guessed for one request in one step at most."""


class EngineSpec(Strict):
    """How the engine of each worker runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA when the worker has a GPU."""
    compute: Literal["auto", "int8", "fp32", "bf16"] = "auto"
    """Arithmetic of the linear layers. auto: what fits quantization.weights; where that is auto, too, int8 on CPUs with
    VNNI (exact integer sums), else fp32; bf16 on GPUs."""
    block_size: Annotated[int, Field(ge=8, le=128, json_schema_extra={"enum": [8, 16, 32, 64, 128]})] = 16
    """Tokens in a block of the KV cache: the grain of prefix caching."""
    max_batch_tokens: Annotated[int, Field(ge=8, le=65_536)] = 256
    """Tokens that one step of the engine computes at most; longer prompts are computed in chunks of it."""
    max_running: Annotated[int, Field(ge=1, le=4096)] = 64
    """Requests that one worker runs at the same time at most; others wait."""
    batching: Literal["continuous", "dynamic", "static"] = "continuous"
    """When requests join the running ones. continuous: in any step, as there is room. The others compute a batch to its
    end before the next one begins: dynamic, when batchSize requests wait or the first has waited batchWaitSeconds;
    static, when batchSize requests wait, or none has come for batchWaitSeconds."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """For dynamic and static: requests of a batch. Default: 8, or maxRunning where that is less."""
    batch_wait_seconds: Annotated[float, Field(ge=0, le=60)] | None = None
    """For dynamic and static: how long a batch that is not full is waited with. Default: 0.1."""
    kv_cache_memory: Quantity | None = None
    """Memory of a worker's KV cache, as 512Mi; taken at start, or refused where it does not fit. Default: half of what
    a memory limit leaves beside the model; without one up to a quarter of the free memory."""
    prefix_caching: bool = True
    """Keep the blocks of ended requests for requests that begin alike."""
    queue_order: Literal["leastWork", "fcfs"] = "leastWork"
    """Order of the waiting line: least remaining uncached work first, aged by the time waited; or first come, first
    served."""
    queue_ageing: Annotated[float, Field(ge=0, le=100)] = 0.25
    """For leastWork: seconds of work that one second of waiting outweighs. More favours the tail, less the median."""
    step_trace: Literal["off", "memory", "file"] = "off"
    """Whether a worker notes what its steps compute and for how long, for `argosy trace`. memory: the latest 8192.
    file: also on a file in its ~/.cache/argosy, 128 MiB at most. No text and no token is in it."""
    max_prompt_share: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    """Part of a step that one prompt may have while other prompts have tokens to compute, too. Less lets short prompts
    pass beside long ones, whatever the order of the line."""
    target_step_ms: Annotated[int, Field(ge=5, le=10_000)] | None = None
    """Time that a step should take: it holds fewer tokens, from blockSize to maxBatchTokens, as far as measured steps
    were slower. Bounds the pauses that a long prompt makes in others' streams. Default: always maxBatchTokens."""
    threads: Annotated[int, Field(ge=1, le=512)] | None = None
    """CPU threads of the engine. Default: the cores that the worker may use."""
    speculative: SpeculativeSpec = SpeculativeSpec()
    """Tokens that are guessed ahead and checked by the model in one step. No answer changes by it."""

    @property
    def kv_cache_bytes(self) -> int | None:
        """`kv_cache_memory` as bytes."""
        return None if self.kv_cache_memory is None else quantity.parse_bytes(self.kv_cache_memory)


class QuantizationSpec(Strict):
    """In what numbers a worker holds weights and KV cache."""

    weights: Literal["auto", "none", "fp16", "bf16", "int8", "int4", "fp8"] = "auto"
    """How the weights of the linear layers are held, whatever the checkpoint stores. auto: int8 on CPUs with VNNI, else
    none. none: the checkpoint's own values, in the type that is computed in. What a device cannot run is refused."""
    group_size: Annotated[int, Field(ge=32, le=256, json_schema_extra={"enum": [32, 64, 128, 256]})] | None = None
    """Weights that share one scale, for int4 and int8. Default: 32 for int4; for int8 one scale for each output."""
    kv_cache: Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"] = "auto"
    """Type of the numbers in the KV cache. auto: as the activations, fp32 on a CPU and bf16 on a GPU."""


class GpuSpec(Strict):
    """GPUs of one worker."""

    count: Annotated[int, Field(ge=1, le=1)] = 1
    """GPUs of one worker; this version runs a model on one."""
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
    spread_over: Annotated[str, Field(max_length=316)] = "kubernetes.io/hostname"
    """Topology key that workers are spread over, as evenly as the cluster allows."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Priority class of the worker pods."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Runtime class of the worker pods."""


class ModelCacheSpec(Strict):
    """Where a worker keeps what it downloads (hf://)."""

    type: Literal["emptyDir", "pvc"] = "emptyDir"
    """emptyDir: each pod downloads for itself; pvc: pods share a claim."""
    size: Quantity | None = None
    """Limit of the emptyDir. Default: 20Gi."""
    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of an existing PersistentVolumeClaim, for type pvc."""


class RoutingSpec(Strict):
    """How requests are spread over the replicas."""

    policy: Literal["kvAware", "prefixHash", "roundRobin"] = "kvAware"
    """kvAware: least seconds to the first token, counting what each replica holds of the prompt and has still to do.
    prefixHash: by the first blocks of the prompt. roundRobin: in turn."""


class RoleSpec(Strict):
    """Workers of one role."""

    replicas: Annotated[int, Field(ge=1, le=500)] = 1
    """How many."""


class DisaggregationSpec(Strict):
    """Prompts are computed by some workers, answers generated by others."""

    prefill: RoleSpec = RoleSpec()
    """Workers that compute long prompts; their blocks of the KV cache go to those that generate."""
    decode: RoleSpec = RoleSpec()
    """Workers that generate; they also compute short prompts, and what is left of one that they nearly know."""


class RolloutSpec(Strict):
    """How a change of the resource reaches its workers."""

    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers above `replicas` while rolling."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that may be missing while rolling."""
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """After this long without progress the resource says so (Progressing=False)."""


class DisruptionSpec(Strict):
    """How many workers may be away at once for reasons of the cluster (drained nodes)."""

    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 1
    """Of the PodDisruptionBudget."""


class DrainSpec(Strict):
    """How a worker that must go ends."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Time for running requests to finish; then they are aborted."""


class InferenceDeploymentSpec(Strict):
    """What the user wants."""

    model: ModelSpec
    """Which model is served, and under which name."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers that serve the model, each of which computes prompts and generates."""
    disaggregation: DisaggregationSpec | None = None
    """Workers of two roles instead of `replicas` equal ones (docs/disaggregation.md says when that helps)."""
    engine: EngineSpec = EngineSpec()
    """How the engine of each worker runs."""
    quantization: QuantizationSpec = QuantizationSpec()
    """In what numbers a worker holds weights and KV cache."""
    resources: ResourcesSpec = ResourcesSpec()
    """What one worker asks its node for."""
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
    def workers(self) -> int:
        """Workers of all roles together."""
        return sum(self.by_role.values())

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
    if not isinstance(document, dict):
        raise InvalidArgumentError(
            "resource", f"is {type(document).__name__}; must be a mapping with apiVersion, kind, metadata and spec"
        )
    known = {k: v for k, v in document.items() if k != "status"}
    try:
        resource = InferenceDeployment.model_validate(known)
    except ValidationError as error:
        raise first_problem(error, InferenceDeployment, "resource") from None
    spec = resource.spec
    quantity.check(
        {
            "spec.engine.kvCacheMemory": spec.engine.kv_cache_memory,
            "spec.resources.cpu": spec.resources.cpu,
            "spec.resources.memory": spec.resources.memory,
            "spec.modelCache.size": spec.model_cache.size if spec.model_cache else None,
        }
    )
    rules.check(resource.model_dump(by_alias=True, exclude_none=True))
    return resource
