"""How the memory of a worker divides: one arithmetic for `argosy plan`, the worker and the operator. Pure; in bytes.

    total = process + weights + KV cache + what is left for activations

A token's keys and values take `layers * 2 * kv_heads * (head_dim * element + scale)` bytes (Pope et al., "Efficiently
Scaling Transformer Inference", arXiv 2211.05102, section 3.3, with grouped-query attention).
"""

from dataclasses import dataclass, replace

from argosy_api import limits
from argosy_api.errors import ModelDoesNotFitError, ModelError, ModelUnsupportedError

MIB, GIB = 1 << 20, 1 << 30
_SHARED_KV_BYTES = 512 * MIB
_SHARED_SHARE, _OWN_SHARE, _CUDA_SHARE = 0.25, 0.5, 0.85
"""Parts of the free memory for the KV cache when nobody says: of a shared machine, of our own limit, of a GPU."""
_CUDA_RESERVE = 0.05
"""Part of a GPU's free memory that graphs and gaps between tensors may take, where it was measured what steps take."""
_KV = {"fp32": (4, 0), "fp16": (2, 0), "bf16": (2, 0), "int8": (1, 4), "fp8": (1, 4)}
"""Type of the KV cache -> bytes of an element, and of a row's scale."""
LEAN_PROCESS, CPU_PROCESS, CUDA_CONTEXT = 160 * MIB, 288 * MIB, 512 * MIB
"""What a process takes beside its model: Python and a tokenizer; torch, too (docs/plan.md has the measurements); and a
CUDA context with the libraries' workspaces."""
TENSOR_PARALLEL = (1, 2, 4, 8, 16)


def kv_row_bytes(kind: str, head_dim: int) -> int:
    """Bytes of the keys, or the values, of one token and head, with their scale."""
    element, scale = _KV[kind]
    return head_dim * element + scale


def kv_token_bytes(*, layers: int, kv_heads: int, head_dim: int, kind: str) -> int:
    """Bytes of the keys and values of one token over all layers."""
    return layers * 2 * kv_heads * kv_row_bytes(kind, head_dim)


def automatic_cache(left: int, *, device: str, limited: bool, one_sequence: int, step: int | None = None) -> int:
    """Bytes of the KV cache when nobody says: a share of what is `left` beside the model.

    With a memory limit of our own (a container's) that is half of it; on a GPU 85 %, or where `step`, the most that a
    step takes, was measured there, 95 % less that. Else it is a quarter, but no more than 512 MiB or `one_sequence`,
    the bytes of one request of the model's full context.
    """
    if device == "cuda":
        return int(left * _CUDA_SHARE) if step is None else max(0, int(left * (1 - _CUDA_RESERVE)) - step)
    if limited:
        return int(left * _OWN_SHARE)
    return min(max(_SHARED_KV_BYTES, one_sequence), int(left * _SHARED_SHARE))


@dataclass(frozen=True, slots=True)
class Cache:
    """A KV cache: `memory` is what it was given, of which it takes `blocks` of `per_block` bytes."""

    memory: int
    blocks: int
    per_block: int
    longest: int
    """Longest prompt and answer together, in tokens."""

    @property
    def nbytes(self) -> int:
        """What the blocks take."""
        return self.blocks * self.per_block


def size_cache(
    *, per_block: int, block_size: int, automatic: int, asked: int | None, left: int | None, context: int,
    wanted: int | None, host: int = 0, kept: int | None = None,
) -> Cache:  # fmt: skip
    """How many blocks of `per_block` bytes there are, and the longest request that they and the model allow.

    `asked` and `wanted` are engine.kvCacheMemory and model.maxModelLen, `left` is what is free beside the model (None:
    the cache takes no memory), `automatic` what is taken where nothing is asked for, and `host` what of that memory
    evicted blocks may have (engine.kvCacheHostMemory). A sequence never needs more than `kept` blocks at once, where no
    layer sees more than a window.

    Raises:
        ModelDoesNotFitError: there is not so much memory.
        ModelUnsupportedError: a size or length that was asked for is not possible anywhere.

    """
    if left is not None and host:
        automatic = int(automatic * max(0.0, 1 - host / left)) if left > 0 else 0
        left = max(0, left - host)
    memory = automatic if asked is None else asked
    if asked is not None and left is not None and asked > left:
        beside = "the model and engine.kvCacheHostMemory" if host else "the model"
        raise ModelDoesNotFitError(
            f"engine.kvCacheMemory is {asked} bytes; beside {beside} this worker can take {left} bytes"
        )
    blocks = memory // per_block
    if blocks < 1:
        raise ModelDoesNotFitError(
            f"a KV cache of {max(0, memory)} bytes holds no block; one block takes {per_block} bytes"
        )
    if blocks > limits.MAX_WORKER_BLOCKS:
        if asked is not None:
            raise ModelUnsupportedError(
                f"engine.kvCacheMemory is {asked} bytes, {blocks} blocks; "
                f"at most {limits.MAX_WORKER_BLOCKS * per_block} bytes, {limits.MAX_WORKER_BLOCKS} blocks"
            )
        blocks = limits.MAX_WORKER_BLOCKS
    room = context if kept is not None and kept < blocks else blocks * block_size
    if wanted is not None and wanted > context:
        raise ModelUnsupportedError(f"model.maxModelLen is {wanted}; the model's context is {context} tokens")
    if wanted is not None and wanted > room:
        raise ModelDoesNotFitError(f"model.maxModelLen is {wanted}; the KV cache of {memory} bytes holds {room} tokens")
    return Cache(memory, blocks, per_block, min(context, room) if wanted is None else wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a model takes, and how long its requests may be."""

    weights: int
    kv_token: int
    """Keys and values of one token."""
    context: int
    """Tokens."""
    step: int = 0
    """Activations of the largest step."""
    heads: int = 1
    kv_heads: int = 1
    kept: int | None = None
    """Blocks that a sequence needs at once, where no layer sees more than a window."""
    adapters: int = 0
    """Kept free for LoRA adapters (engine.adapterMemory)."""
    lean: bool = False
    """Whether a CPU worker reads and computes it without torch."""

    def with_draft(self, draft: "Needs") -> "Needs":
        """Together with a draft model, whose keys and values lie in the same blocks."""
        return replace(
            self,
            weights=self.weights + draft.weights,
            kv_token=self.kv_token + draft.kv_token,
            step=self.step + draft.step,
            kept=None if self.kept is None or draft.kept is None else max(self.kept, draft.kept),
            lean=self.lean and draft.lean,
        )

    def on(self, gpus: int) -> "Needs":
        """What each of several GPUs takes that share the work of every layer; heads cannot be cut."""
        shared = min(gpus, self.kv_heads)
        return replace(self, weights=-(-self.weights // gpus), kv_token=-(-self.kv_token // shared))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The memory that one worker may take."""

    total: int
    device: str
    """`cpu`, with a limit of the worker's own, or `cuda`."""

    def process(self, *, lean: bool) -> int:
        """What is taken before any weight; `lean` as in Needs."""
        if self.device == "cuda":
            return CUDA_CONTEXT
        return LEAN_PROCESS if lean else CPU_PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What goes where, on each device."""

    budget: Budget
    needs: Needs
    cache: Cache | None
    """None where the model does not fit."""
    host: int = 0
    """For evicted blocks, where it is of the same memory."""
    problem: str = ""
    """Why it does not fit; empty where it does."""

    @property
    def fits(self) -> bool:
        """Whether a worker would start."""
        return self.cache is not None

    @property
    def process(self) -> int:
        """What is taken before any weight."""
        return self.budget.process(lean=self.needs.lean)

    @property
    def kv(self) -> int:
        """Bytes of the KV cache."""
        return self.cache.nbytes if self.cache is not None else 0

    @property
    def rest(self) -> int:
        """What is left over: for activations, and as a reserve. Below 0: what is missing."""
        needs = self.needs
        return self.budget.total - self.process - needs.weights - needs.adapters - self.kv - self.host

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.kv // self.needs.kv_token

    def concurrency(self, context: int) -> float:
        """Requests of so many tokens that the cache holds at a time."""
        return self.tokens / context


def divide(
    needs: Needs,
    budget: Budget,
    *,
    block_size: int,
    asked: int | None = None,
    wanted: int | None = None,
    host: int = 0,
) -> MemoryPlan:
    """Give each its part, as a worker would: `asked`, `wanted` and `host` are engine.kvCacheMemory, model.maxModelLen
    and engine.kvCacheHostMemory, which is of a GPU worker's other memory.
    """
    host = host if budget.device == "cpu" else 0
    process = budget.process(lean=needs.lean)
    left = budget.total - process - needs.weights - needs.adapters
    if left < 0:
        missing = (
            f"weights of {size(needs.weights)} and {size(process)} for the process are more than {size(budget.total)}"
        )
        return MemoryPlan(budget=budget, needs=needs, cache=None, host=host, problem=missing)
    automatic = automatic_cache(left, device=budget.device, limited=True, one_sequence=needs.context * needs.kv_token)
    try:
        cache = size_cache(
            per_block=needs.kv_token * block_size, block_size=block_size, automatic=automatic, asked=asked, left=left,
            host=host, kept=needs.kept, context=needs.context, wanted=wanted,
        )  # fmt: skip
    except ModelError as error:
        return MemoryPlan(budget=budget, needs=needs, cache=None, host=host, problem=error.message)
    return MemoryPlan(budget=budget, needs=needs, cache=cache, host=host)


def size(nbytes: int) -> str:
    """Bytes for people: 14.9 GiB, 320 MiB, 36.0 KiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.1f} {name}"
    return f"{nbytes} bytes"
