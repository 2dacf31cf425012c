"""Notices a worker that hangs while requests are there, and sends them elsewhere.

A process that was stopped, or a cut that no packet tells of, leaves connections as they are: gRPC notices after seconds
to a minute. Here a worker is asked as soon as none of its streams has had a token for longer than its own steps take
(`routing/hangs.py`); one task for each worker, and nothing to do for each token.
"""

import asyncio
import contextlib
import logging

import grpc

from argosy_router.clock import now
from argosy_router.fleet.asking import load_of
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.metrics import Metrics
from argosy_router.routing.hangs import FLOOR_S, answer_within, hangs, patience

log = logging.getLogger(__name__)


async def watch(state: DeploymentState, worker: Peer, metrics: Metrics) -> None:
    """Runs until it is cancelled."""
    while True:
        patient = patience(_slow_step(worker), map(_slow_step, state.workers.values()))
        left = worker.heard_at + patient - now()
        if not len(worker.books):
            await asyncio.sleep(FLOOR_S)
        elif left > 0:
            await asyncio.sleep(left)
        elif await _hangs(worker):
            worker.eject(now())
            count = worker.abandon()
            log.warning(
                "%s: worker %s hangs with %d requests: no token for %.1f s, suspected after %.1f s",
                state.name, worker.worker_id, count, now() - worker.heard_at, patient,
            )  # fmt: skip
            metrics.hung.labels(state.name).inc(count)
            await asyncio.sleep(FLOOR_S)  # those that nobody else can take are still there: ask again
        else:
            worker.heard_at = now()


async def watch_to_the_end(state: DeploymentState, worker: Peer, metrics: Metrics) -> None:
    """Of a worker that has left: until its last request has ended."""
    watching = asyncio.ensure_future(watch(state, worker, metrics))
    try:
        while len(worker.books):  # noqa: ASYNC110 - of few workers, and free of cost for requests
            await asyncio.sleep(FLOOR_S)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _slow_step(worker: Peer) -> float:
    return 0.0 if worker.load is None else worker.load.slow_step_seconds


async def _hangs(worker: Peer) -> bool:
    try:
        load = await load_of(worker, answer_within(_slow_step(worker)))
    except TimeoutError:
        return True
    except grpc.aio.AioRpcError:  # whoever refuses answers; a connection that breaks ends the calls on it by itself
        return False
    worker.take_load(load, now())
    return hangs(_slow_step(worker), load.last_step_age_seconds)
