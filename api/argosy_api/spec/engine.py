"""How the engine of a worker runs, and in what numbers it computes."""

from typing import Annotated, Literal

from pydantic import Field

from argosy_api import limits, quantity
from argosy_api.spec.strict import Quantity, Strict, Uri


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
    """Arithmetic of the linear layers. auto: what fits quantization.weights; where that is auto, too, int8 on CPUs
    (exact integer sums) and bf16 on GPUs."""
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
    """Memory of a worker's KV cache, as 512Mi, or of each part of one that parallelism cuts; taken at start, or refused
    where it does not fit. Default: half of what a memory limit leaves beside the model; without one up to a quarter of
    the free memory."""
    kv_cache_host_memory: Quantity | None = None
    """Host memory, as 8Gi, for blocks that the KV cache evicts: a prompt that begins like them gets them back by a copy
    instead of computing. Taken at start, within resources.memory. For GPUs; on a CPU raise kvCacheMemory instead."""
    adapter_memory: Quantity | None = None
    """Memory of a worker's LoRA adapters, as 512Mi, kept free of the KV cache. More may be listed than fit: the one
    used least lately, and that no request uses, makes room. Default: a quarter of what the KV cache leaves, at most
    512Mi, and not kept free."""
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

    @property
    def adapter_bytes(self) -> int:
        """`adapter_memory` as bytes; 0 where none is set."""
        return 0 if self.adapter_memory is None else quantity.parse_bytes(self.adapter_memory)

    @property
    def kv_cache_host_bytes(self) -> int:
        """`kv_cache_host_memory` as bytes; 0 for none."""
        return 0 if self.kv_cache_host_memory is None else quantity.parse_bytes(self.kv_cache_host_memory)


class QuantizationSpec(Strict):
    """In what numbers a worker holds weights and KV cache."""

    weights: Literal["auto", "none", "fp16", "bf16", "int8", "int4", "fp8"] = "auto"
    """How the weights of the linear layers are held, whatever the checkpoint stores. auto: on CPUs the checkpoint's own
    4 or 8 bits, else 8 (docs/cpu.md); on GPUs none. none: the checkpoint's own values, in the type that is computed in.
    What a device cannot run is refused."""
    group_size: Annotated[int, Field(ge=32, le=256, json_schema_extra={"enum": [32, 64, 128, 256]})] | None = None
    """Weights that share one scale, for int4 and int8. Default: 32 for int4; for int8 one scale for each output."""
    kv_cache: Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"] = "auto"
    """Type of the numbers in the KV cache. auto: fp16 on a CPU (fp32 where weights are not auto), bf16 on a GPU."""
