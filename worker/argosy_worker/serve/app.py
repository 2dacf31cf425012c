"""The process: binds first, loads then, serves, drains, and says clearly why it ends."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc

from argosy_api import net, process
from argosy_api.ending import end
from argosy_api.errors import ModelError, ModelInvalidError
from argosy_api.faults import is_fault
from argosy_api.keys import Keys
from argosy_api.process import EXIT_CONFIG, EXIT_FAULT, EXIT_OK, Termination
from argosy_api.worker_status import Phase
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.kv_events.log import KvEventLog
from argosy_worker.kv_events.publish import RedisPublisher
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.messages import model_info, served_model
from argosy_worker.serve.pages import MetricsServer
from argosy_worker.serve.server import Serving, make_server
from argosy_worker.serve.settings import Settings
from argosy_worker.serve.startup import Loaded, load

_T = TypeVar("_T")

log = logging.getLogger(__name__)

_GRACE_S = 2.0  # for the last chunks of aborted streams to go out


class StartError(Exception):
    """The process cannot start, and why."""


def run(settings: Settings) -> int:
    """Serve until told to stop; returns the exit code."""
    state = Lifecycle()
    metrics = WorkerMetrics(model=settings.served_name, worker=settings.worker_id)
    try:
        pages = MetricsServer(settings.host, settings.metrics_port, metrics=metrics, state=state)
    except OSError as error:
        return _refuse(state, "CannotListen", f"metrics port {settings.metrics_port}: {error.strerror}")
    try:
        return asyncio.run(_serve(settings, state, metrics, pages))
    except StartError as error:
        return _refuse(state, "CannotListen", str(error))
    except ModelError as error:
        return _refuse(state, error.reason, error.message)
    except Exception:
        log.exception("the worker failed")
        _refuse(state, "InternalError", "the worker failed; its log has the cause")
        return EXIT_FAULT  # starting again may help
    finally:
        pages.close()


async def _serve(settings: Settings, state: Lifecycle, metrics: WorkerMetrics, pages: MetricsServer) -> int:
    loop = asyncio.get_running_loop()
    epoch = time.time_ns() // 1_000_000  # a restart has a larger one, unless the clock was set back
    events = KvEventLog(epoch)
    serving = Serving(worker_id=settings.worker_id, epoch=epoch, state=state, events=events, metrics=metrics)
    server = await make_server(serving)
    port = _bind(server, settings)
    await server.start()
    stop = _stop_signals(loop)
    log.info("listening on %s:%d (gRPC) and %d (metrics); loading", settings.host, port, pages.port)
    try:
        thread = _EngineThread(settings, state, metrics, events, loop)
        engine = await _first(thread.engine, stop)
        if engine is None:
            log.info("told to stop while loading")
            return EXIT_OK
        pages.attach(engine)
        info = model_info(
            engine,
            worker_id=settings.worker_id,
            epoch=epoch,
            served_name=settings.served_name,
            revision=settings.spec.revision,
            role=settings.spec.role,
            kernels=thread.kernels,
        )
        async with _publishing(settings, serving, engine, metrics):
            await serving.open(engine, info)
            state.ready(served_model(info, engine.facts.weights_bytes))
            log.info("ready: %s as %r", settings.model_uri, settings.served_name)
            await _first(thread.ended, stop)
            await serving.set_health(serving=False)
            if not engine.alive:
                _refuse(state, "EngineFailed", f"the engine has died ({engine.failure}); the log has the cause")
                return EXIT_FAULT
            state.enter(Phase.DRAINING)
            seconds = settings.spec.drain.timeout_seconds
            log.info("draining, at most %g s", seconds)
            finished, aborted = await engine.drain(seconds)
            log.info("drained: %d finished, %d aborted", finished, aborted)
        events.close()  # else the server would wait for its subscribers
        engine.stop()
        await asyncio.wait({thread.ended}, timeout=_GRACE_S)
        return EXIT_OK
    finally:
        await server.stop(_GRACE_S if state.now.phase is Phase.DRAINING else 0)


class _EngineThread:
    """Loads the model, then is the engine: one thread, since compute libraries keep a pool for each calling thread."""

    def __init__(
        self,
        settings: Settings,
        state: Lifecycle,
        metrics: WorkerMetrics,
        events: KvEventLog,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.engine: asyncio.Future[Engine | None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.kernels: dict[str, str] = {}

        def make(loaded: Loaded) -> Engine:
            self.kernels = loaded.kernels
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
                engine = make(load(settings, state))
            except BaseException as error:  # noqa: BLE001 - handed to the event loop
                panic = is_fault(error) and not isinstance(error, Exception)
                told = ModelInvalidError(f"a library failed on the model's files: {error}") if panic else error
                _tell(loop, self.engine, None, told)
                return
            _tell(loop, self.engine, engine)
            try:
                engine.run()
            finally:
                _tell(loop, self.ended, None)

        threading.Thread(target=work, name="engine", daemon=True).start()


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[_T], value: _T, error: BaseException | None = None
) -> None:
    """Settle a future from another thread, unless nobody waits any more."""

    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
        loop.call_soon_threadsafe(settle)


async def _first(future: asyncio.Future[_T], stop: asyncio.Event) -> _T | None:
    """The future's result, or None when told to stop before."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        waits: set[asyncio.Future[Any]] = {future, stopping}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    return future.result() if future.done() else None


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    address = net.address(settings.host, settings.grpc_port)
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        why = net.why_not(settings.host, settings.grpc_port)
        raise StartError(f"gRPC port {settings.grpc_port}: cannot listen on {address}: {why}") from error


def _stop_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("told to stop twice: ending at once")
            logging.shutdown()
            os._exit(EXIT_FAULT)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


@contextlib.asynccontextmanager
async def _publishing(
    settings: Settings, serving: Serving, engine: Engine, metrics: WorkerMetrics
) -> AsyncIterator[None]:
    """Publish to Redis meanwhile, if there is one, and take everything back at the end."""
    if not settings.redis_url:
        log.info("no Redis is configured: KV events only by subscription")
        yield
        return
    publisher = RedisPublisher(
        settings.redis_url,
        keys=Keys(settings.namespace, settings.deployment),
        worker_id=settings.worker_id,
        events=serving.events,
        load=lambda: engine.load(worker_id=settings.worker_id, epoch=serving.epoch),
        metrics=metrics,
    )
    task = asyncio.create_task(publisher.run(), name="redis")
    try:
        yield
    finally:
        await end(task)
        await publisher.forget()


def _refuse(state: Lifecycle, reason: str, message: str) -> int:
    """Say why nothing can be served: in the log, in `/state`, and where Kubernetes shows it."""
    state.enter(Phase.FAILED, message, reason=reason)
    refuse(Termination(reason, message), os.environ)
    return EXIT_CONFIG


def refuse(why: Termination, environment: Mapping[str, str]) -> None:
    """Log a last word, and leave it where Kubernetes shows it."""
    log.error("%s: %s", why.reason, why.message)
    if path := environment.get(process.TERMINATION_LOG):
        try:
            Path(path).write_text(why.to_json())
        except OSError as error:
            log.warning("cannot write the termination log: %s", error.strerror)
