"""From a model's address to a runner: which loader, and how large the KV cache is. Runs in the engine's thread."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from argosy_api.errors import ModelUnsupportedError
from argosy_api.model_uri import ModelUri
from argosy_api.order import Order
from argosy_api.spec.engine import EngineSpec
from argosy_api.worker_status import Phase
from argosy_worker.core.batch import BlockStore, Runner
from argosy_worker.core.batching import Batching, Forming
from argosy_worker.core.config import SchedulerConfig
from argosy_worker.core.facts import ModelFacts
from argosy_worker.engine.config import EngineConfig
from argosy_worker.engine.trace import StepTrace
from argosy_worker.serve.adapter_source import adapter_source
from argosy_worker.serve.adapters import NO_SOURCE, Source
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import Settings
from argosy_worker.serve.sizes import LoadedModel, size_cache, size_host, step_bytes, window
from argosy_worker.speculation.config import Method, SpeculationConfig
from argosy_worker.speculation.draft_model import DraftModel
from argosy_worker.speculation.vocabulary import check_vocabulary

if TYPE_CHECKING:
    from argosy_worker.compute.shared import Sharing
    from argosy_worker.group.leader import Leader
    from argosy_worker.group.remote import RemoteLayers

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


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
    adapters: Source = NO_SOURCE
    """How adapters of the model are read."""


def load(settings: Settings, state: Lifecycle, group: "Leader | None" = None) -> Loaded:
    """Fetch the model, load it, and allocate its KV cache; with a group wait for the others.

    Raises:
        ModelError: the model cannot be served; the message says why.

    """
    engine, speculative = settings.engine, settings.engine.speculative
    trace = step_trace(settings, Path.home() / ".cache" / "argosy")
    others, sharing = (None, None) if group is None else _others(settings)
    model = _load_model(settings.model_uri, settings, state, rest=others, sharing=sharing)
    draft = None
    if speculative.model is not None:
        draft = _load_model(ModelUri.parse(speculative.model), settings, state, what="the draft model")
        check_vocabulary(model.facts, draft.facts)
    # the steps of a group want all its ranks, which want to know how many blocks they have
    step = step_bytes([m for m in (model, draft) if m is not None], settings) if group is None else None
    num_blocks, max_model_len = size_cache(model, settings, draft, step=step)
    members = [] if group is None else group.wait(state.progress)
    if members:
        num_blocks = min(num_blocks, *(member.blocks for member in members))
        num_blocks, max_model_len = size_cache(model, settings, most=num_blocks)
    host_blocks = size_host(model, settings, num_blocks)
    # what was asked for in so many bytes is taken now, so that it cannot be missing in the middle of an answer
    touch = engine.kv_cache_bytes is not None
    runner = model.make_runner(num_blocks, engine.block_size, touch=touch, host_blocks=host_blocks)
    facts, store, kernels, guesses = model.facts, runner.store, dict(model.kernels), None
    if group is not None:
        from argosy_worker.group.backend import choose, offer  # noqa: PLC0415  # what only groups need
        from argosy_worker.group.leader import joint  # noqa: PLC0415
        from argosy_worker.group.unmoved import Unmoved  # noqa: PLC0415

        backend = choose([offer(model.facts.device), *(member.offer for member in members)])
        ring = group.begin(num_blocks, backend, model.facts.device)
        for one in (others, sharing):
            if one is not None:
                one.connect(ring)
        log.info("rows of the group go by %s", backend)
        facts, store = joint(facts, members), Unmoved(store)
    # of a group every rank computes these steps, and has its kernels compiled
    model.warm(runner, engine.block_size, engine.max_batch_tokens)
    if draft is not None:
        guessing = draft.make_runner(num_blocks, engine.block_size, touch=touch)
        draft.warm(guessing, engine.block_size, engine.max_batch_tokens)
        guesses = DraftModel(
            guessing,
            facts=draft.facts,
            target=model.facts,
            num_blocks=num_blocks,
            block_size=engine.block_size,
        )
        guesses.measure(runner)
        kernels["draft_model"] = (
            f"{draft.facts.architecture}, {draft.facts.quantization}, computed in {draft.facts.compute}"
        )
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
        window=window(model, draft),
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
    adapters = NO_SOURCE if group is not None else adapter_source(model, settings)
    return Loaded(facts, kernels, runner, store, config, guesses, trace, adapters)


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


def _others(settings: Settings) -> "tuple[RemoteLayers | None, Sharing | None]":
    """The layers of a group's other stages, and who shares those of this one. Raises ModelUnsupportedError where they
    cannot be elsewhere.
    """
    check_group(settings)
    from argosy_worker.compute.shared import Sharing  # noqa: PLC0415
    from argosy_worker.group.remote import RemoteLayers  # noqa: PLC0415  # torch

    place = settings.place
    return RemoteLayers() if place.stages > 1 else None, Sharing() if place.parts > 1 else None


def _load_model(
    uri: ModelUri,
    settings: Settings,
    state: Lifecycle,
    *,
    what: str = "the model",
    rest: "RemoteLayers | None" = None,
    sharing: "Sharing | None" = None,
) -> LoadedModel:
    if uri.scheme == "sim":
        from argosy_worker import sim  # noqa: PLC0415

        state.enter(Phase.LOADING, f"loading {what}, which is simulated")
        return sim.load(uri, state.progress)
    # Imported only here: a simulated worker needs neither torch nor the hub's client, and starts much faster.
    from argosy_worker.fetch.uri import resolve  # noqa: PLC0415
    from argosy_worker.models import load_model  # noqa: PLC0415

    state.enter(Phase.DOWNLOADING, f"fetching {what}")
    path = resolve(uri, cache_dir=settings.model_cache, progress=state.progress)
    state.enter(Phase.LOADING, f"loading {what}")
    model: LoadedModel = load_model(
        path, place=settings.place, rest=rest, sharing=sharing, progress=state.progress, **options(settings)
    )
    return model


def options(settings: Settings) -> dict[str, Any]:
    """How a model is to be loaded, by `load_model`'s names."""
    numbers, engine = settings.spec.quantization, settings.engine
    return {
        "weights": numbers.weights,
        "group_size": numbers.group_size,
        "kv_cache": numbers.kv_cache,
        "compute": engine.compute,
        "device": engine.device,
        "threads": settings.threads,
        "block_size": engine.block_size,
        "max_model_len": settings.spec.model.max_model_len,
    }


def check_group(settings: Settings) -> None:
    """Refuse what is not built for a model that several processes share. (`argosy_api.rules` refuses it before.)"""
    lacks = {
        "sim:// models": settings.model_uri.scheme == "sim",
        "engine.speculative.model": settings.engine.speculative.model is not None,
        "engine.kvCacheHostMemory": bool(settings.engine.kv_cache_host_bytes),
    }
    for what, asked in lacks.items():
        if asked:
            raise ModelUnsupportedError(f"{what} and a group of {settings.ranks} do not go together")
