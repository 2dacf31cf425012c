"""What a process of any rank is made of: its ports, its signals, its last word."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from argosy_api import net, process
from argosy_api.process import EXIT_CONFIG, EXIT_FAULT, Termination
from argosy_api.worker_status import Phase
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import Settings

log = logging.getLogger(__name__)


class StartError(Exception):
    """The process cannot start, and why."""


GROUP_LOST = "GroupLost"
_ANEW = "; the whole group begins anew"


class Loss(NamedTuple):
    """What ends a process because of another one that shares its model."""

    why: str
    reason: str = GROUP_LOST
    code: int = EXIT_FAULT


def tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    value: object = None,
    error: BaseException | None = None,
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


async def first(futures: Collection[asyncio.Future[Any]], stop: asyncio.Event) -> None:
    """Wait until one of them is done, or the process is told to stop. Raises what one of them failed with."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({*futures, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for future in futures:
        if future.done():
            future.result()


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """Take the gRPC port. Raises StartError."""
    address = net.address(settings.served_host, settings.grpc_port)
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        why = net.why_not(settings.served_host, settings.grpc_port)
        raise StartError(f"gRPC port {settings.grpc_port}: cannot listen on {address}: {why}") from error


def stop_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second one ends the process at once."""
    stop, signalled = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if signalled.is_set():
            log.warning("told to stop twice: ending at once")
            logging.shutdown()
            os._exit(EXIT_FAULT)
        signalled.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def give_up(state: Lifecycle, reason: str, message: str) -> int:
    """Say why nothing can be served: in the log, in `/state`, and where Kubernetes shows it."""
    state.enter(Phase.FAILED, message, reason=reason)
    refuse(Termination(reason, message), os.environ)
    return EXIT_CONFIG


def lose(state: Lifecycle, loss: Loss) -> int:
    """Say that another process is lost; returns the exit code."""
    give_up(state, loss.reason, loss.why if loss.code == EXIT_CONFIG else loss.why.removesuffix(_ANEW) + _ANEW)
    return loss.code


def refuse(why: Termination, environment: Mapping[str, str]) -> None:
    """Log a last word, and leave it where Kubernetes shows it."""
    log.error("%s: %s", why.reason, why.message)
    if path := environment.get(process.TERMINATION_LOG):
        try:
            Path(path).write_text(why.to_json())
        except OSError as error:
            log.warning("cannot write the termination log: %s", error.strerror)
