"""From a model's address to a runner: which loader, and how large the KV cache is. Runs in the engine's thread."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from argosy_api import limits, memory
from argosy_api.errors import ModelUnsupportedError
from argosy_api.model_uri import ModelUri
from argosy_api.order import Order
from argosy_api.resource import EngineSpec
from argosy_api.worker_status import Phase
from argosy_worker import sim
from argosy_worker.core.batch import BlockStore, CachedRunner, Runner
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.blocks import blocks_of_window, common_window
from argosy_worker.core.config import SchedulerConfig
from argosy_worker.core.facts import ModelFacts
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.trace import StepTrace
from argosy_worker.machine import usable_cores
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import Settings
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.vocabulary import check_vocabulary

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


class LoadedModel(Protocol):
    """A model in memory, real or simulated, before its KV cache is made."""

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

    def memory_for_kv(self) -> int:
        """A sensible automatic size of the KV cache, in bytes."""
        ...

    def memory_left(self) -> int | None:
        """Bytes that a KV cache can take at most; None where it takes none."""
        ...

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that an engine is made of."""

    facts: ModelFacts
    kernels: dict[str, str]
    runner: Runner
    store: BlockStore
    config: EngineConfig
    draft: DraftModel | None = None
    trace: StepTrace | None = None


def load(settings: Settings, state: Lifecycle) -> Loaded:
    """Fetch the model, load it, and allocate its KV cache.

    Raises:
        ModelError: the model cannot be served; the message says why.

    """
    engine, speculative = settings.engine, settings.engine.speculative
    trace = step_trace(settings, Path.home() / ".cache" / "argosy")
    model = _load_model(settings.model_uri, settings, state)
    draft = None
    if speculative.model is not None:
        draft = _load_model(ModelUri.parse(speculative.model), settings, state, what="the draft model")
        check_vocabulary(model.facts, draft.facts)
    num_blocks, max_model_len = size_cache(model, settings, draft)
    host_blocks = size_host(model, settings, num_blocks)
    # what was asked for in so many bytes is taken now, so that it cannot be missing in the middle of an answer
    touch = engine.kv_cache_bytes is not None
    runner = model.make_runner(num_blocks, engine.block_size, touch=touch, host_blocks=host_blocks)
    kernels = dict(model.kernels)
    guesses = None
    if draft is not None:
        facts = draft.facts
        guesses = DraftModel(
            draft.make_runner(num_blocks, engine.block_size, touch=touch),
            facts=facts,
            target=model.facts,
            num_blocks=num_blocks,
            block_size=engine.block_size,
        )
        guesses.measure(runner)
        kernels["draft_model"] = f"{facts.architecture}, {facts.quantization}, computed in {facts.compute}"
    log.info(
        "KV cache: %d blocks of %d tokens; longest sequence %d tokens", num_blocks, engine.block_size, max_model_len
    )
    if host_blocks:
        log.info("host memory for %d evicted blocks", host_blocks)
    config = EngineConfig(
        num_blocks=num_blocks,
        host_blocks=host_blocks,
        block_size=engine.block_size,
        max_model_len=max_model_len,
        prefix_caching=engine.prefix_caching,
        window=_window(model, draft),
        target_step_s=None if engine.target_step_ms is None else engine.target_step_ms / 1e3,
        scheduler=SchedulerConfig(
            max_batch_tokens=engine.max_batch_tokens,
            max_running=engine.max_running,
            order=Order(engine.queue_order),
            ageing=engine.queue_ageing,
            max_prompt_share=engine.max_prompt_share,
            least_prompt_tokens=engine.block_size,
            forming=forming(engine),
        ),
        speculation=SpeculationConfig(method=Method(speculative.method), max_draft=speculative.max_draft),
    )
    return Loaded(model.facts, kernels, runner, runner.store, config, guesses, trace)


def step_trace(settings: Settings, folder: Path) -> StepTrace | None:
    """The step trace that is asked for; one on a file lies in `folder`, under the worker's name.

    Raises:
        ModelUnsupportedError: the file cannot be written.

    """
    wanted = settings.engine.step_trace
    if wanted == "off":
        return None
    if wanted == "memory":
        return StepTrace()
    file = folder / f"steps-{re.sub(r'[^A-Za-z0-9._-]', '_', settings.worker_id)}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trace = StepTrace(file)
    except OSError as error:
        problem = f"engine.stepTrace is file, but none can be written in ~/.cache/argosy: {error.strerror}"
        raise ModelUnsupportedError(problem) from None
    log.info("the step trace is in %s", file)
    return trace


def forming(engine: EngineSpec) -> Forming:
    """How batches form, with the defaults of what is not set."""
    usual = Forming()
    size, wait_s = engine.batch_size, engine.batch_wait_seconds
    return Forming(
        mode=Batching(engine.batching),
        size=min(usual.size, engine.max_running) if size is None else size,
        wait_s=usual.wait_s if wait_s is None else wait_s,
    )


def size_cache(model: LoadedModel, settings: Settings, draft: LoadedModel | None = None) -> tuple[int, int]:
    """Number of blocks, and the longest sequence that both the model and the blocks allow.

    A block has room for the keys and values of the draft model, too.

    Raises:
        ModelDoesNotFitError, ModelUnsupportedError: as `argosy_api.memory.size_cache` does.

    """
    block_size = settings.engine.block_size
    context = model.facts.context_length
    cache = memory.size_cache(
        per_block=sum(m.kv_bytes_per_block(block_size) for m in (model, draft) if m is not None),
        block_size=block_size,
        automatic=model.memory_for_kv(),
        asked=settings.engine.kv_cache_bytes,
        left=model.memory_left(),
        # where cache and host memory are of one memory
        host=settings.engine.kv_cache_host_bytes if model.facts.device == "cpu" else 0,
        kept=blocks_of_window(_window(model, draft), block_size),
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


def _window(model: LoadedModel, draft: LoadedModel | None) -> int:
    return common_window([m.facts.window for m in (model, draft) if m is not None])


def _load_model(uri: ModelUri, settings: Settings, state: Lifecycle, what: str = "the model") -> LoadedModel:
    engine = settings.engine
    if uri.scheme == "sim":
        state.enter(Phase.LOADING, f"loading {what}, which is simulated")
        return sim.load(uri, state.progress)
    # Imported only here: a simulated worker needs neither torch nor the hub's client, and starts much faster.
    from argosy_worker.fetch.uri import resolve  # noqa: PLC0415
    from argosy_worker.models import load_model  # noqa: PLC0415

    state.enter(Phase.DOWNLOADING, f"fetching {what}")
    path = resolve(uri, cache_dir=settings.model_cache, progress=state.progress)
    state.enter(Phase.LOADING, f"loading {what}")
    threads = engine.threads or usable_cores()
    model: LoadedModel = load_model(
        path,
        weights=settings.spec.quantization.weights,
        group_size=settings.spec.quantization.group_size,
        kv_cache=settings.spec.quantization.kv_cache,
        compute=engine.compute,
        device=engine.device,
        threads=threads,
        block_size=engine.block_size,
        max_model_len=settings.spec.model.max_model_len,
        progress=state.progress,
    )
    return model
