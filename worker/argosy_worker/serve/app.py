"""The process: binds first, loads then, serves, drains, and says clearly why it ends."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from argosy_api.ending import end
from argosy_api.errors import ModelError, ModelInvalidError, UnavailableError
from argosy_api.faults import is_fault
from argosy_api.keys import Keys
from argosy_api.process import EXIT_FAULT, EXIT_OK
from argosy_api.tracing import Tracing
from argosy_api.worker_status import Phase
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.kv_events.log import KvEventLog
from argosy_worker.serve.adapters import NO_SOURCE, Adapters
from argosy_worker.serve.hosting import Loss, StartError, bind, first, give_up, lose, stop_signals, tell
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.messages import model_info, served_model
from argosy_worker.serve.pages import MetricsServer
from argosy_worker.serve.pod import LocalRanks
from argosy_worker.serve.server import make_server
from argosy_worker.serve.serving import Serving
from argosy_worker.serve.settings import Settings
from argosy_worker.serve.startup import Loaded, load

if TYPE_CHECKING:
    from argosy_worker.group.leader import Leader

log = logging.getLogger(__name__)

_GRACE_S = 2.0  # for the last chunks of aborted streams to go out


def run(settings: Settings, tracing: Tracing | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    state = Lifecycle()
    metrics = WorkerMetrics(model=settings.served_name, worker=settings.worker_id)
    try:
        pages = MetricsServer(settings.served_host, settings.metrics_port, metrics=metrics, state=state)
    except OSError as error:
        return give_up(state, "CannotListen", f"metrics port {settings.metrics_port}: {error.strerror}")
    try:
        if settings.rank:
            from argosy_worker.serve import member  # noqa: PLC0415  # what only groups need

            return asyncio.run(member.serve(settings, state, metrics, pages))
        return asyncio.run(_serve(settings, state, metrics, pages, tracing=tracing))
    except StartError as error:
        return give_up(state, "CannotListen", str(error))
    except ModelError as error:
        return give_up(state, error.reason, error.message)
    except Exception:
        log.exception("the worker failed")
        give_up(state, "InternalError", "the worker failed; its log has the cause")
        return EXIT_FAULT  # starting again may help
    finally:
        pages.close()


async def _serve(
    settings: Settings, state: Lifecycle, metrics: WorkerMetrics, pages: MetricsServer, *, tracing: Tracing | None
) -> int:
    loop = asyncio.get_running_loop()
    epoch = time.time_ns() // 1_000_000  # a restart has a larger one, unless the clock was set back
    events = KvEventLog(epoch)
    serving = Serving(worker_id=settings.worker_id, epoch=epoch, state=state, events=events, metrics=metrics)
    serving.tracing = tracing
    server = await make_server(serving)
    port = bind(server, settings)
    await server.start()
    stop = stop_signals(loop)
    lost: asyncio.Future[Loss] = loop.create_future()
    group = _lead(settings, loop, lost, stop)
    host, group_port = settings.group_leader
    ranks = LocalRanks(
        settings,
        (host, group_port or (group.port if group is not None else 0)),
        loop=loop,
        lost=partial(tell, loop, lost),
        left=partial(loop.call_soon_threadsafe, stop.set),
    )
    log.info("listening on %s:%d (gRPC) and %d (metrics); loading", settings.served_host, port, pages.port)
    try:
        thread = _EngineThread(settings, state, metrics, events, loop=loop, group=group)
        await first((thread.engine, lost), stop)
        if not thread.engine.done():
            if lost.done():
                return await _lose_group(state, ranks, lost.result())
            log.info("told to stop while loading")
            return EXIT_OK
        engine = thread.engine.result()
        lost.add_done_callback(lambda _: engine.give_up(UnavailableError("this worker's group has lost a process")))
        pages.attach(engine, block_size=engine.config.block_size)
        info = model_info(
            engine,
            worker_id=settings.worker_id,
            epoch=epoch,
            served_name=settings.served_name,
            revision=settings.spec.revision,
            role=settings.spec.role,
            kernels=thread.kernels,
        )
        adapters = Adapters(thread.adapters, settings.adapters, state.adapters)
        state.enter(Phase.LOADING, "loading adapters")
        await first((looked := asyncio.ensure_future(adapters.look()), thread.ended, lost), stop)
        async with _publishing(settings, serving), _kept(adapters.follow(), looked):
            await serving.open(engine, info, adapters)
            state.ready(served_model(info, engine.facts.weights_bytes))
            log.info("ready: %s as %r", settings.model_uri, settings.served_name)
            await first((thread.ended, lost), stop)
            await serving.set_health(serving=False)
            if lost.done() or not engine.alive:
                serving.end_streams()
                await server.stop(_GRACE_S)  # for the last words of the streams
            if lost.done():
                return await _lose_group(state, ranks, lost.result())
            if not engine.alive:
                if (loss := await ranks.cause(None)) is not None:
                    return lose(state, loss)
                give_up(state, "EngineFailed", f"the engine has died ({engine.failure}); the log has the cause")
                return EXIT_FAULT
            state.enter(Phase.DRAINING)
            seconds = settings.spec.drain.timeout_seconds
            log.info("draining, at most %g s", seconds)
            finished, aborted = await engine.drain(seconds)
            log.info("drained: %d finished, %d aborted", finished, aborted)
        serving.end_streams()
        engine.stop()
        await asyncio.wait({thread.ended}, timeout=_GRACE_S)
        if group is not None:
            group.end()
            ranks.wait(_GRACE_S)
        return EXIT_OK
    finally:
        ranks.close()
        await server.stop(_GRACE_S if state.now.phase is Phase.DRAINING else 0)
        if tracing is not None:
            await tracing.close()


def _lead(
    settings: Settings, loop: asyncio.AbstractEventLoop, lost: asyncio.Future[Loss], stop: asyncio.Event
) -> "Leader | None":
    """Rank 0 of a group takes the others in; None where the worker is one process."""
    if settings.ranks == 1:
        return None
    from argosy_worker.group.leader import Leader  # noqa: PLC0415  # what only groups need

    def leaving() -> None:
        log.info("another rank of the group has to end: all of it does")
        loop.call_soon_threadsafe(stop.set)

    _, port = settings.group_leader
    try:
        return Leader(
            settings.group_host,
            port,
            ranks=settings.ranks,
            parts=settings.place.parts,
            spec=settings.spec.argument(),
            lost=lambda why: tell(loop, lost, Loss(why)),
            leaving=leaving,
        )
    except OSError as error:
        raise StartError(f"group port {port}: {error.strerror}") from error


async def _lose_group(state: Lifecycle, ranks: LocalRanks, loss: Loss) -> int:
    return lose(state, await ranks.cause(loss) or loss)


class _EngineThread:
    """Loads the model, then is the engine: one thread, since compute libraries keep a pool for each calling thread."""

    def __init__(
        self,
        settings: Settings,
        state: Lifecycle,
        metrics: WorkerMetrics,
        events: KvEventLog,
        *,
        loop: asyncio.AbstractEventLoop,
        group: "Leader | None",
    ) -> None:
        self.engine: asyncio.Future[Engine] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.kernels: dict[str, str] = {}
        self.adapters = NO_SOURCE

        def make(loaded: Loaded) -> Engine:
            self.kernels, self.adapters = loaded.kernels, loaded.adapters
            return Engine(
                facts=loaded.facts,
                runner=loaded.runner,
                draft=loaded.draft,
                trace=loaded.trace,
                store=loaded.store,
                config=loaded.config,
                metrics=metrics,
                on_cache_change=events.append,
                loop=loop,
            )

        def work() -> None:
            try:
                engine = make(load(settings, state, group))
            except BaseException as error:  # noqa: BLE001 - handed to the event loop
                panic = is_fault(error) and not isinstance(error, Exception)
                told = ModelInvalidError(f"a library failed on the model's files: {error}") if panic else error
                tell(loop, self.engine, error=told)
                return
            tell(loop, self.engine, engine)
            try:
                engine.run()
            finally:
                tell(loop, self.ended, None)

        threading.Thread(target=work, name="engine", daemon=True).start()


@contextlib.asynccontextmanager
async def _kept(work: Coroutine[Any, Any, None], *others: asyncio.Task[None]) -> AsyncIterator[None]:
    """Have `work` done meanwhile, and end it and the others then."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        await end(task, *others)


@contextlib.asynccontextmanager
async def _publishing(settings: Settings, serving: Serving) -> AsyncIterator[None]:
    """Publish to Redis meanwhile, if there is one, and take everything back at the end."""
    if not settings.redis_url:
        log.info("no Redis is configured: KV events only by subscription")
        yield
        return
    from argosy_worker.kv_events.publish import RedisPublisher  # noqa: PLC0415  # its client takes a while to load

    publisher = RedisPublisher(
        settings.redis_url,
        keys=Keys(settings.namespace, settings.deployment),
        worker_id=settings.worker_id,
        events=serving.events,
        load=serving.load,
        metrics=serving.metrics,
    )
    task = asyncio.create_task(publisher.run(), name="redis")
    try:
        yield
    finally:
        await end(task)
        await publisher.forget()
