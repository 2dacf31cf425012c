"""How large the KV cache of a loaded model is, and how many evicted blocks host memory holds."""

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from argosy_api import limits, memory
from argosy_api.errors import ModelUnsupportedError
from argosy_worker.core.batch import CachedRunner, Runner
from argosy_worker.core.blocks import blocks_of_window, common_window
from argosy_worker.core.facts import ModelFacts
from argosy_worker.serve.settings import Settings

log = logging.getLogger(__name__)


class LoadedPart(Protocol):
    """A model in memory, or some of its layers, before its KV cache is made."""

    @property
    def facts(self) -> ModelFacts:
        """What it is."""
        ...

    @property
    def kernels(self) -> Mapping[str, str]:
        """Role -> chosen kernel and why."""
        ...

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes of KV cache that one block of `block_size` tokens takes."""
        ...

    def memory_for_kv(self, kept: int = 0, step: int | None = None) -> int:
        """A sensible automatic size of the KV cache, in bytes; `kept` is left free besides, and what a step takes."""
        ...

    def memory_left(self) -> int | None:
        """Bytes that a KV cache can take at most; None where it takes none."""
        ...


class LoadedModel(LoadedPart, Protocol):
    """A model, real or simulated; of a group's rank 0 with some of its layers only."""

    def host_memory_left(self) -> int | None:
        """Bytes that may still be taken of the host's memory; None where blocks take none."""
        ...

    def make_runner(
        self, num_blocks: int, block_size: int, *, touch: bool = False, host_blocks: int = 0
    ) -> CachedRunner:
        """Allocate the KV cache: `num_blocks` usable blocks, numbered from 1; block 0 is the null block.

        `touch`: take its memory now, not as blocks are first used. `host_blocks`: evicted blocks that host memory is
        taken for. Raises ModelUnsupportedError when there is not so much.
        """
        ...

    def step_bytes(self, block_size: int, *, tokens: int, sequences: int) -> int | None:
        """What a step takes beside weights and KV cache, where that can be measured.

        Raises ModelDoesNotFitError when there is not so much memory.
        """
        ...

    def warm(self, runner: Runner, block_size: int, tokens: int) -> None:
        """Have a runner compute steps that no request waits for, of at most so many tokens."""
        ...


def step_bytes(models: Iterable[LoadedModel], settings: Settings) -> int | None:
    """What a step of one of these models takes at most, where it matters for the size of the KV cache and is known.

    Raises:
        ModelDoesNotFitError: there is not so much memory.

    """
    engine = settings.engine
    if engine.kv_cache_bytes is not None:
        return None
    known = [
        model.step_bytes(engine.block_size, tokens=engine.max_batch_tokens, sequences=engine.max_running)
        for model in models
    ]
    return max((step for step in known if step is not None), default=None)  # they compute one after the other


def size_cache(
    model: LoadedPart,
    settings: Settings,
    draft: LoadedPart | None = None,
    *,
    most: int | None = None,
    step: int | None = None,
) -> tuple[int, int]:
    """Number of blocks, and the longest sequence that both the model and the blocks allow.

    A block has room for the keys and values of the draft model, too. `most`: no more blocks than that. `step`: as of
    `step_bytes`.

    Raises:
        ModelDoesNotFitError, ModelUnsupportedError: as `argosy_api.memory.size_cache` does; or several processes are
            to take the same memory.

    """
    if settings.local_ranks > 1 and model.facts.device == "cpu" and settings.engine.kv_cache_bytes is None:
        raise ModelUnsupportedError(
            f"{settings.local_ranks} processes of a pod are to compute on its CPUs (it has no GPUs), where none knows "
            "what the others take of the memory: engine.kvCacheMemory is needed, the cache of each"
        )
    block_size = settings.engine.block_size
    context = model.facts.context_length
    per_block = sum(m.kv_bytes_per_block(block_size) for m in (model, draft) if m is not None)
    left, kept = model.memory_left(), settings.engine.adapter_bytes
    cache = memory.size_cache(
        per_block=per_block,
        block_size=block_size,
        automatic=model.memory_for_kv(kept, step) if most is None else most * per_block,
        asked=settings.engine.kv_cache_bytes if most is None else None,
        left=None if left is None else max(0, left - kept),
        # where cache and host memory are of one memory
        host=settings.engine.kv_cache_host_bytes if model.facts.device == "cpu" else 0,
        kept=blocks_of_window(window(model, draft), block_size),
        context=context,
        wanted=settings.spec.model.max_model_len,
    )
    if cache.blocks == limits.MAX_WORKER_BLOCKS:
        log.warning("the KV cache has %d blocks, the most that a worker may have", cache.blocks)
    if cache.longest < context and settings.spec.model.max_model_len is None:
        log.warning("the KV cache holds %d tokens, less than the model's context of %d", cache.longest, context)
    return cache.blocks, cache.longest


def size_host(model: LoadedModel, settings: Settings, num_blocks: int) -> int:
    """Evicted blocks that host memory has room for, beside `num_blocks` on the device. (A draft model's part of a block
    stays on the device.)

    Raises:
        ModelUnsupportedError: so much host memory as was asked for cannot be taken, or holds no block, or too many.

    """
    asked, left = settings.engine.kv_cache_host_bytes, model.host_memory_left()
    if not asked:
        return 0
    told = f"engine.kvCacheHostMemory is {asked} bytes"
    if left is not None and asked > left:
        raise ModelUnsupportedError(f"{told}; beside the model this worker can take {left} bytes of host memory")
    per_block = model.kv_bytes_per_block(settings.engine.block_size)
    blocks, most = asked // per_block, limits.MAX_WORKER_BLOCKS - num_blocks
    if not blocks:
        raise ModelUnsupportedError(f"{told}, which hold no block; one block takes {per_block} bytes")
    if blocks > most:
        raise ModelUnsupportedError(
            f"{told}, {blocks} blocks; beside the {num_blocks} blocks of engine.kvCacheMemory at most "
            f"{most * per_block} bytes, {most} blocks"
        )
    return blocks


def window(model: LoadedPart, draft: LoadedPart | None) -> int:
    """Positions up to its own that a row sees in any layer of both; 0 for all."""
    return common_window([m.facts.window for m in (model, draft) if m is not None])
