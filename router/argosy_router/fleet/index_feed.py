"""Keeps one deployment's index fed: from the workers' Redis streams, or, where that fails, from the workers themselves.

Each worker is in one of two modes:

    stream   its lease in Redis is alive; its events come with the one XREAD of the deployment
    direct   a subscription to the worker (`SubscribeKvEvents`) is open: at the start, without Redis, without a lease,
             and to repair a gap, a trimmed stream or a new epoch (the worker sends what is missing, or a snapshot)

A worker moves from direct to stream only when the subscription has brought all that the stream's last entry contains;
whatever the stream brings afterwards follows without a gap, and what it brings twice is ignored by its number. So one
mechanism covers start, gap, trim, epoch, a lost and a returned Redis. No request waits for anything here.
"""

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import Any

import grpc
import redis.asyncio as redis
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from argosy_api.ending import end
from argosy_api.keys import BATCH_FIELD, LEASE_TTL_S, Keys
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.fleet import DeploymentState
from argosy_router.fleet.peer import Peer
from argosy_router.fleet.redis_bounds import ReplyTooLargeError
from argosy_router.fleet.redis_link import CALL_S, READ_S, RedisLink
from argosy_router.metrics import Metrics
from argosy_router.routing.index import Outcome
from argosy_router.tasks import keep_running

log = logging.getLogger(__name__)

TICK_S = 0.25
"""How often leases, loads and new workers are looked at."""
READ_BLOCK_MS = 500
READ_COUNT = 256
MISSED_LEASES = 3
"""Looks without a lease before a worker is asked directly: one may fall just between two beats."""
BACKOFF_S = (0.1, 2.0)
DISTRUST_S = 60.0
"""How long a deployment's keys are left alone after an answer that was too large to be ours."""


@dataclass(slots=True)
class _Link:
    """How one worker's events come. `stream_id` is set in stream mode."""

    worker: Peer
    why: str = "start"
    stream_id: bytes | None = None
    direct: "asyncio.Task[None] | None" = None
    missed: int = 0


class IndexFeed:
    """Feeds `state.index`. `run` until it is cancelled."""

    def __init__(self, state: DeploymentState, metrics: Metrics, link: RedisLink) -> None:
        self._state = state
        self._metrics = metrics
        self._redis = link
        self._links: dict[str, _Link] = {}
        self._keys = Keys(state.spec.namespace, state.spec.name)
        self._distrusted_until = float("-inf")

    async def run(self) -> None:
        """The feed's whole life."""
        reader = asyncio.create_task(
            keep_running(f"reading the event streams of {self._state.name}", self._read_streams)
        )
        try:
            while True:
                self._state.changed.clear()
                self._follow_workers()
                await self._look_at_leases()
                for link in self._links.values():
                    self._ensure(link)
                self._metrics.index_blocks.labels(self._state.name).set(len(self._state.index))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._state.changed.wait()
        finally:
            tasks = [reader, *(link.direct for link in self._links.values() if link.direct)]
            await end(*tasks)

    # --- modes

    def _follow_workers(self) -> None:
        covered = {w.worker_id: w for w in self._state.workers.values() if self._state.indexed(w)}
        for worker_id, link in list(self._links.items()):
            if covered.get(worker_id) is not link.worker:
                self._stop_direct(link)
                del self._links[worker_id]
        for worker_id, worker in covered.items():
            if worker_id not in self._links:
                self._links[worker_id] = _Link(worker)

    def _ensure(self, link: _Link) -> None:
        if link.stream_id is None and (link.direct is None or link.direct.done()):
            link.direct = asyncio.create_task(self._subscribe(link))

    @staticmethod
    def _stop_direct(link: _Link) -> None:
        if link.direct is not None:
            link.direct.cancel()
            link.direct = None

    def _repair(self, link: _Link, why: str) -> None:
        """What the stream brings does not suffice: ask the worker."""
        link.stream_id, link.why = None, why
        self._ensure(link)

    def _without(self, error: Exception) -> None:
        """Redis can't be used: ask all workers. Where it holds what no worker writes, leave these keys for a while."""
        if isinstance(error, ReplyTooLargeError):
            log.warning("%s: Redis gave %s; its workers are asked for %.0f s", self._state.name, error, DISTRUST_S)
            self._distrusted_until = now() + DISTRUST_S
        else:
            self._redis.failed(error)
        for link in self._links.values():
            if link.stream_id is not None:
                self._repair(link, "reconnect")

    # --- Redis: leases and loads

    async def _look_at_leases(self) -> None:
        if self._redis.client is None or not self._links or now() < self._distrusted_until:
            return
        names = list(self._links)
        keys = [self._keys.lease(w) for w in names] + [self._keys.load(w) for w in names]
        try:
            async with asyncio.timeout(CALL_S):
                values: Any = await self._redis.client.mget(keys)
        except (RedisError, OSError) as error:
            self._without(error)
            return
        self._redis.worked()
        time = now()
        for worker_id, lease, load in zip(names, values[: len(names)], values[len(names) :], strict=True):
            link = self._links.get(worker_id)
            if link is None:
                continue
            if load is not None:
                with contextlib.suppress(DecodeError):
                    link.worker.take_load(pb.Load.FromString(load), time, age=TICK_S / 2)
            await self._look_at_lease(link, lease, time)

    async def _look_at_lease(self, link: _Link, lease: bytes | None, time: float) -> None:
        worker_id = link.worker.worker_id
        if lease is None or not lease.isdigit():
            link.missed += 1
            if link.stream_id is not None and link.missed >= MISSED_LEASES:
                self._repair(link, "reconnect")
            return
        link.missed = 0
        if not self._same_epoch(link, int(lease)):
            return
        if link.stream_id is not None:
            link.worker.index_fresh_until = time + LEASE_TTL_S
        elif self._state.index.position(worker_id)[2]:
            await self._try_stream(link)

    def _same_epoch(self, link: _Link, epoch: int) -> bool:
        """Whether this is the process that the worker itself told us of; only its own word starts a new epoch."""
        facts = link.worker.facts
        if facts is None or epoch == facts.epoch:
            return facts is not None
        if epoch > facts.epoch:
            link.worker.suspected.set()  # restarted in place, as it seems: have it asked
        return False

    async def _try_stream(self, link: _Link) -> None:
        """Go over to the stream, if the subscription has brought all that the stream's last entry contains."""
        if self._redis.client is None:
            return
        worker_id = link.worker.worker_id
        try:
            async with asyncio.timeout(CALL_S):
                entries: Any = await self._redis.client.xrevrange(self._keys.events(worker_id), count=1)
        except (RedisError, OSError) as error:
            self._without(error)
            return
        stream_id = b"0-0"
        if entries:
            stream_id = entries[0][0]
            batch = _parse(entries[0][1])
            epoch, seq, synced = self._state.index.position(worker_id)
            if batch is None or not synced or batch.epoch > epoch or (batch.epoch == epoch and batch.seq > seq):
                return
        if self._links.get(worker_id) is link:
            link.stream_id = stream_id
            self._stop_direct(link)
            link.worker.index_fresh_until = now() + LEASE_TTL_S

    # --- Redis: streams

    async def _read_streams(self) -> None:
        backoff = BACKOFF_S[0]
        while True:
            client = self._redis.reader()
            if client is None:
                return
            try:
                while True:
                    await self._read_once(client)
                    backoff = BACKOFF_S[0]
            except (RedisError, OSError) as error:
                self._without(error)
            finally:
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()
            await asyncio.sleep(backoff * (0.5 + random.random()))
            backoff = min(2 * backoff, 1.0)

    async def _read_once(self, client: "redis.Redis") -> None:
        streams = {
            self._keys.events(w).encode(): link.stream_id
            for w, link in self._links.items()
            if link.stream_id is not None
        }
        if not streams:
            await asyncio.sleep(TICK_S)
            return
        async with asyncio.timeout(READ_S):
            answer: Any = await client.xread(streams, count=READ_COUNT, block=READ_BLOCK_MS)  # type: ignore[arg-type]
        workers = {self._keys.events(w).encode(): link for w, link in self._links.items()}
        for key, entries in answer or ():
            link = workers.get(key)
            if link is None:
                continue
            for entry_id, fields in entries:
                if link.stream_id is None:
                    break
                link.stream_id = entry_id
                batch = _parse(fields)
                self._take(link, batch, streams[key])

    def _take(self, link: _Link, batch: "pb.KvEventBatch | None", since: bytes) -> None:
        if batch is None:
            outcome = Outcome.GAP
        elif not self._same_epoch(link, batch.epoch):
            facts = link.worker.facts
            outcome = Outcome.EPOCH if facts is not None and batch.epoch > facts.epoch else Outcome.STALE
        else:
            outcome = self._state.index.apply(link.worker.worker_id, batch)
        if outcome in (Outcome.GAP, Outcome.EPOCH, Outcome.OVERFLOW):
            # read from its very beginning, a stream that does not begin with what we want was cut there
            self._repair(link, "epoch" if outcome is Outcome.EPOCH else "trimmed" if since == b"0-0" else "gap")

    # --- the worker itself

    async def _subscribe(self, link: _Link) -> None:
        """Direct mode: until cancelled, as long as the worker is there."""
        worker_id = link.worker.worker_id
        backoff = BACKOFF_S[0]
        # spread, so that a lost Redis does not make all workers write their snapshots at one moment
        await asyncio.sleep(random.random() * min(1.0, len(self._links) / 50))
        while True:
            self._metrics.repairs.labels(self._state.name, link.why).inc()
            epoch, seq, synced = self._state.index.position(worker_id)
            start = seq + 1 if synced else 0
            call = link.worker.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest(start_sequence=start, epoch=epoch))
            fresh = asyncio.create_task(self._keep_fresh(link))
            try:
                async for batch in call:
                    backoff = BACKOFF_S[0]
                    if self._state.index.apply(worker_id, batch) in (Outcome.GAP, Outcome.EPOCH, Outcome.OVERFLOW):
                        link.why = "gap"
                        break
            except grpc.aio.AioRpcError as error:
                log.debug("%s: events of %s: %s", self._state.name, worker_id, error.code().name)
                link.why = "reconnect"
            finally:
                fresh.cancel()
                call.cancel()
            await asyncio.sleep(backoff * (0.5 + random.random()))
            backoff = min(2 * backoff, BACKOFF_S[1])

    async def _keep_fresh(self, link: _Link) -> None:
        """An open subscription is as good as a lease: keepalive ends it when the worker is gone."""
        while True:
            if self._state.index.position(link.worker.worker_id)[2]:
                link.worker.index_fresh_until = now() + LEASE_TTL_S
            await asyncio.sleep(TICK_S)


def _parse(fields: dict[bytes, bytes]) -> pb.KvEventBatch | None:
    """None for anything that is not a batch: what stands in Redis is not trusted."""
    try:
        return pb.KvEventBatch.FromString(fields[BATCH_FIELD])
    except (KeyError, DecodeError):
        return None
