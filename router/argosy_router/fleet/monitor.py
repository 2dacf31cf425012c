"""Watches one worker: learns its model, notices at once when its connection breaks, and when it is well again.

A worker that failed is ejected by the relay; only a probe that succeeds brings it back before its time. The load is
asked for here only while Redis does not bring it.
"""

import asyncio
import logging

import grpc

from argosy_api.backoff import Backoff
from argosy_api.errors import ArgosyError
from argosy_api.keys import BEAT_S
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet import silence
from argosy_router.fleet.asking import load_of
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.metrics import Metrics
from argosy_router.text.models import ModelLibrary

log = logging.getLogger(__name__)

GET_MODEL_S = 10.0
GET_LOAD_S = 1.0
BACKOFF = Backoff(first=0.05, cap=1.0)


async def watch(state: DeploymentState, worker: Peer, library: ModelLibrary, metrics: Metrics) -> None:
    """Runs until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(silence.watch(state, worker, metrics))
        group.create_task(_watch_connection(worker))
        group.create_task(_probe_forever(state, worker, library))


async def _probe_forever(state: DeploymentState, worker: Peer, library: ModelLibrary) -> None:
    failures, complained = 0, ""
    while True:
        suspected = worker.suspected.is_set()
        worker.suspected.clear()
        try:
            await _probe(state, worker, library, suspected=suspected)
        except (grpc.aio.AioRpcError, ArgosyError, TimeoutError) as error:
            worker.ejected_until = now() + 2 * BACKOFF.cap
            text = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
            if text != complained:
                complained = text
                log.warning("%s: worker %s: %s", state.name, worker.worker_id, text)
            failures += 1
            await asyncio.sleep(BACKOFF.jittered(failures))
            continue
        if complained:
            log.info("%s: worker %s is well again", state.name, worker.worker_id)
        failures, complained = 0, ""
        worker.ejected_until = 0.0
        try:
            async with asyncio.timeout(BEAT_S):
                await worker.suspected.wait()
        except TimeoutError:
            continue


async def _probe(state: DeploymentState, worker: Peer, library: ModelLibrary, *, suspected: bool) -> None:
    """Asks what is not known; returns only if the worker answered or was heard of a moment ago."""
    well = not suspected and now() >= worker.ejected_until
    if worker.facts is not None and well and now() - worker.load_at < BEAT_S:
        return
    load = None
    if worker.facts is not None:
        load = await load_of(worker, GET_LOAD_S)
        worker.take_load(load, now())
    if worker.facts is None or (load is not None and load.epoch != worker.facts.epoch):
        info = await worker.stub.GetModel(pb.GetModelRequest(), timeout=GET_MODEL_S)
        worker.take_facts(await library.facts(info))
        log.info(
            "%s: worker %s has %s %s (%s), fingerprint %s, context %d",
            state.name, worker.worker_id, info.architecture, info.quantization, info.compute, info.fingerprint[:12],
            info.max_model_len,
        )  # fmt: skip
        state.refresh(library)


async def _watch_connection(worker: Peer) -> None:
    """Ejects the worker the moment its connection breaks (its process died), not at the next request's cost."""
    channel = worker.channel
    was_ready = False
    while True:
        present = channel.get_state(try_to_connect=True)
        if present is grpc.ChannelConnectivity.SHUTDOWN:
            return
        if present is grpc.ChannelConnectivity.READY:
            was_ready = True
        elif was_ready:
            was_ready = False
            worker.eject(now())
        await channel.wait_for_state_change(present)
