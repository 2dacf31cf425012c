"""The process of a rank above 0: it loads its layers, joins its group and computes what comes. It takes no requests."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from argosy_api.errors import ModelInvalidError
from argosy_api.faults import is_fault
from argosy_api.process import EXIT_OK
from argosy_api.worker_status import Phase, ServedModel
from argosy_worker.core.batch import RunnerBrokenError
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.group.backend import offer
from argosy_worker.group.leader import Hello
from argosy_worker.group.member import Member
from argosy_worker.kv_events.log import KvEventLog
from argosy_worker.serve.hosting import Loss, bind, first, lose, stop_signals, tell
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.pages import MetricsServer
from argosy_worker.serve.pod import LocalRanks
from argosy_worker.serve.server import make_server
from argosy_worker.serve.serving import Serving
from argosy_worker.serve.settings import Settings
from argosy_worker.serve.sizes import size_cache
from argosy_worker.serve.startup import check_group, options

log = logging.getLogger(__name__)

_SLACK_S = 5.0
"""Beyond the drain: for rank 0 to let everybody go."""
_GRACE_S = 2.0
"""For others of this pod to go."""


async def serve(settings: Settings, state: Lifecycle, metrics: WorkerMetrics, pages: MetricsServer) -> int:
    """Serve rank 0 until it ends; returns the exit code."""
    loop = asyncio.get_running_loop()
    serving = Serving(
        worker_id=settings.worker_id,
        epoch=time.time_ns() // 1_000_000,
        state=state,
        events=KvEventLog(0),
        metrics=metrics,
    )
    server = await make_server(serving)  # for health alone: nothing else is ever opened
    port = bind(server, settings)
    await server.start()
    stop = stop_signals(loop)
    host, group_port = settings.group_leader
    log.info(
        "rank %d of %d, on %s:%d (health) and %d", settings.rank, settings.ranks, settings.served_host, port, pages.port
    )
    ended: asyncio.Future[Loss | None] = loop.create_future()
    joined: asyncio.Future[ServedModel] = loop.create_future()
    tell_end = partial(tell, loop, ended)
    member = Member(
        host, group_port, own_host=settings.group_host, ended=lambda why: tell_end(Loss(why) if why else None)
    )
    ranks = LocalRanks(
        settings,
        settings.group_leader,
        loop=loop,
        lost=tell_end,
        left=partial(loop.call_soon_threadsafe, stop.set),
    )

    def work() -> None:
        try:
            _compute(settings, state, member, lambda model: tell(loop, joined, model))
        except RunnerBrokenError as error:
            tell_end(Loss(str(error)))
        except BaseException as error:  # noqa: BLE001 - handed to the event loop
            panic = is_fault(error) and not isinstance(error, Exception)
            tell_end(error=ModelInvalidError(f"a library failed: {error}") if panic else error)

    threading.Thread(target=work, name="engine", daemon=True).start()
    try:
        await first((joined, ended), stop)
        if joined.done() and not stop.is_set():
            await serving.set_health(serving=True)
            state.ready(joined.result())
            await first((ended,), stop)
        if joined.done() and stop.is_set():
            state.enter(Phase.DRAINING)
            member.leave()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.spec.drain.timeout_seconds + _SLACK_S):
                    await asyncio.shield(ended)
        loss = ended.result() if ended.done() else None
        if loss is None:
            ranks.wait(_GRACE_S)
            return EXIT_OK
        return lose(state, await ranks.cause(loss) or loss)
    finally:
        ranks.close()
        await server.stop(0)


def _compute(settings: Settings, state: Lifecycle, member: Member, joined: Callable[[ServedModel], object]) -> None:
    from argosy_worker.compute.shared import Sharing  # noqa: PLC0415
    from argosy_worker.fetch.uri import resolve  # noqa: PLC0415  # torch
    from argosy_worker.group.remote import follow  # noqa: PLC0415
    from argosy_worker.models import load_part  # noqa: PLC0415

    check_group(settings)
    state.enter(Phase.DOWNLOADING, "fetching the model")
    path = resolve(settings.model_uri, cache_dir=settings.model_cache, progress=state.progress)
    state.enter(Phase.LOADING, "loading the model")
    rank, ranks, engine, place = settings.rank, settings.ranks, settings.engine, settings.place
    sharing = Sharing() if place.parts > 1 else None
    part = load_part(path, place=place, sharing=sharing, progress=state.progress, **options(settings))
    blocks, _ = size_cache(part, settings)
    hello = Hello(
        rank=rank, ranks=ranks, spec=settings.spec.argument(), blocks=blocks, fingerprint=part.facts.fingerprint,
        exactness=part.facts.exactness, weights_bytes=part.facts.weights_bytes, offer=offer(part.facts.device),
    )  # fmt: skip
    begin = member.wait(hello, state.progress)
    touch = engine.kv_cache_bytes is not None
    attention = part.make_attention(begin.blocks, engine.block_size, touch=touch)
    ring = member.ring(place, begin, part.facts.device)
    if sharing is not None:
        sharing.connect(ring)
    layers = len(part.stack.specs)
    log.info("rank %d of %d: %d layers, %d blocks", rank, ranks, layers, begin.blocks)
    joined(ServedModel(architecture=part.facts.architecture, fingerprint=hello.fingerprint, exactness=hello.exactness))
    follow(part, attention, ring, part.head)
