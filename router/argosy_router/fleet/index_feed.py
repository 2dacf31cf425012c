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
from itertools import islice
from typing import Any

import grpc
import redis.asyncio as redis
from redis.exceptions import RedisError

from argosy_api.backoff import Backoff
from argosy_api.ending import end
from argosy_api.keys import Keys
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.clock import now
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fleet.index_source import Source, parse, parse_lease, parse_load
from argosy_router.fleet.redis_bounds import ReplyTooLargeError
from argosy_router.fleet.redis_link import CALL_S, READ_S, RedisLink
from argosy_router.metrics import Metrics
from argosy_router.routing.index import Outcome
from argosy_router.tasks import keep_running

log = logging.getLogger(__name__)

TICK_S = 0.25
"""How often leases, loads and new workers are looked at."""
SWEPT_A_TICK = 64
"""Slices of what workers held that have left: leases are looked at in between."""
READ_BLOCK_MS = 500
READ_COUNT = 256
MISSED_LEASES = 3
"""Looks without a lease before a worker is asked directly: one may fall just between two beats."""
REDIS_BACKOFF = Backoff(first=0.1, cap=1.0)
WORKER_BACKOFF = Backoff(first=0.1, cap=2.0)
DISTRUST_S = 60.0
"""How long a deployment's keys are left alone after an answer that was too large to be ours."""


class IndexFeed:
    """Feeds `state.index`. `run` until it is cancelled."""

    def __init__(self, state: DeploymentState, metrics: Metrics, redis_link: RedisLink) -> None:
        self._state = state
        self._metrics = metrics
        self._redis = redis_link
        self._sources: dict[str, Source] = {}
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
                for _ in islice(self._state.index.sweep(), SWEPT_A_TICK):
                    await asyncio.sleep(0)
                await self._look_at_leases()
                for source in self._sources.values():
                    self._ensure(source)
                self._metrics.index_blocks.labels(self._state.name).set(len(self._state.index))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._state.changed.wait()
        finally:
            tasks = [reader, *(source.direct for source in self._sources.values() if source.direct)]
            await end(*tasks)

    # --- modes

    def _follow_workers(self) -> None:
        covered = {w.worker_id: w for w in self._state.workers.values() if self._state.indexed(w)}
        for worker_id, source in list(self._sources.items()):
            if covered.get(worker_id) is not source.worker:
                self._stop_direct(source)
                del self._sources[worker_id]
        for worker_id, worker in covered.items():
            if worker_id not in self._sources:
                self._sources[worker_id] = Source(worker)

    def _ensure(self, source: Source) -> None:
        if source.stream_id is None and (source.direct is None or source.direct.done()):
            source.direct = asyncio.create_task(self._subscribe(source))

    @staticmethod
    def _stop_direct(source: Source) -> None:
        if source.direct is not None:
            source.direct.cancel()
            source.direct = None

    def _repair(self, source: Source, why: str) -> None:
        """What the stream brings does not suffice: ask the worker."""
        source.stream_id, source.why = None, why
        self._ensure(source)

    def _without(self, error: Exception) -> None:
        """Redis can't be used: ask all workers. Where it holds what no worker writes, leave these keys for a while."""
        if isinstance(error, ReplyTooLargeError):
            log.warning("%s: Redis gave %s; its workers are asked for %.0f s", self._state.name, error, DISTRUST_S)
            self._distrusted_until = now() + DISTRUST_S
        else:
            self._redis.failed(error)
        for source in self._sources.values():
            if source.stream_id is not None:
                self._repair(source, "reconnect")

    # --- Redis: leases and loads

    async def _look_at_leases(self) -> None:
        if self._redis.client is None or not self._sources or now() < self._distrusted_until:
            return
        names = list(self._sources)
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
            source = self._sources.get(worker_id)
            if source is None:
                continue
            if load is not None and (report := parse_load(load)) is not None:
                source.worker.take_load(report, time, age=TICK_S / 2)
            await self._look_at_lease(source, lease, time)

    async def _look_at_lease(self, source: Source, lease: bytes | None, time: float) -> None:
        worker_id = source.worker.worker_id
        epoch = parse_lease(lease)
        if epoch is None:
            source.missed += 1
            if source.stream_id is not None and source.missed >= MISSED_LEASES:
                self._repair(source, "reconnect")
            return
        source.missed = 0
        if not self._same_epoch(source, epoch):
            return
        if source.stream_id is not None:
            source.worker.index_heard_at = time
        elif self._state.index.position(worker_id)[2]:
            await self._try_stream(source)

    def _same_epoch(self, source: Source, epoch: int) -> bool:
        """Whether this is the process that the worker itself told us of; only its own word starts a new epoch."""
        facts = source.worker.facts
        if facts is None or epoch == facts.epoch:
            return facts is not None
        if epoch > facts.epoch:
            source.worker.suspected.set()  # restarted in place, as it seems: have it asked
        return False

    async def _try_stream(self, source: Source) -> None:
        """Go over to the stream, if the subscription has brought all that the stream's last entry contains."""
        if self._redis.client is None:
            return
        worker_id = source.worker.worker_id
        try:
            async with asyncio.timeout(CALL_S):
                entries: Any = await self._redis.client.xrevrange(self._keys.events(worker_id), count=1)
        except (RedisError, OSError) as error:
            self._without(error)
            return
        stream_id = b"0-0"
        if entries:
            stream_id = entries[0][0]
            batch = parse(entries[0][1])
            epoch, seq, synced = self._state.index.position(worker_id)
            if batch is None or not synced or batch.epoch > epoch or (batch.epoch == epoch and batch.seq > seq):
                return
        if self._sources.get(worker_id) is source:
            source.stream_id = stream_id
            self._stop_direct(source)
            source.worker.index_heard_at = now()

    # --- Redis: streams

    async def _read_streams(self) -> None:
        failures = 0
        while True:
            client = self._redis.reader()
            if client is None:
                return
            try:
                while True:
                    await self._read_once(client)
                    failures = 0
            except (RedisError, OSError) as error:
                self._without(error)
            finally:
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()
            failures += 1
            await asyncio.sleep(REDIS_BACKOFF.jittered(failures))

    async def _read_once(self, client: "redis.Redis") -> None:
        streams = {
            self._keys.events(w).encode(): source.stream_id
            for w, source in self._sources.items()
            if source.stream_id is not None
        }
        if not streams:
            await asyncio.sleep(TICK_S)
            return
        async with asyncio.timeout(READ_S):
            answer: Any = await client.xread(streams, count=READ_COUNT, block=READ_BLOCK_MS)  # type: ignore[arg-type]
        workers = {self._keys.events(w).encode(): source for w, source in self._sources.items()}
        for key, entries in answer or ():
            source = workers.get(key)
            if source is None:
                continue
            for entry_id, fields in entries:
                if source.stream_id is None:
                    break
                source.stream_id = entry_id
                await self._take(source, parse(fields), streams[key])

    async def _take(self, source: Source, batch: "pb.KvEventBatch | None", since: bytes) -> None:
        if batch is None:
            outcome = Outcome.GAP
        elif not self._same_epoch(source, batch.epoch):
            facts = source.worker.facts
            outcome = Outcome.EPOCH if facts is not None and batch.epoch > facts.epoch else Outcome.STALE
        else:
            outcome = await self._apply(source.worker.worker_id, batch)
        if self._sources.get(source.worker.worker_id) is not source or source.stream_id is None:
            return  # it left, or is asked already: others had their turn meanwhile
        if outcome in (Outcome.GAP, Outcome.EPOCH, Outcome.OVERFLOW):
            # read from its very beginning, a stream that does not begin with what we want was cut there
            self._repair(source, "epoch" if outcome is Outcome.EPOCH else "trimmed" if since == b"0-0" else "gap")

    async def _apply(self, worker_id: str, batch: pb.KvEventBatch) -> Outcome:
        """A snapshot of a million blocks takes a second in all: others have their turn in between, and after each."""
        steps = self._state.index.applying(worker_id, batch)
        outcome: Outcome | None = None
        while outcome is None:
            try:
                next(steps)
            except StopIteration as end:
                outcome = end.value
            await asyncio.sleep(0)
        return outcome

    # --- the worker itself

    async def _subscribe(self, source: Source) -> None:
        """Direct mode: until cancelled, as long as the worker is there."""
        worker_id = source.worker.worker_id
        failures = 0
        # spread, so that a lost Redis does not make all workers write their snapshots at one moment
        await asyncio.sleep(random.random() * min(1.0, len(self._sources) / 50))
        while True:
            self._metrics.repairs.labels(self._state.name, source.why).inc()
            epoch, seq, synced = self._state.index.position(worker_id)
            start = seq + 1 if synced else 0
            call = source.worker.stub.SubscribeKvEvents(pb.SubscribeKvEventsRequest(start_sequence=start, epoch=epoch))
            fresh = asyncio.create_task(self._keep_fresh(source))
            try:
                async for batch in call:
                    failures = 0
                    if await self._apply(worker_id, batch) in (Outcome.GAP, Outcome.EPOCH, Outcome.OVERFLOW):
                        source.why = "gap"
                        break
            except grpc.aio.AioRpcError as error:
                log.debug("%s: events of %s: %s", self._state.name, worker_id, error.code().name)
                source.why = "reconnect"
            finally:
                fresh.cancel()
                call.cancel()
            failures += 1
            await asyncio.sleep(WORKER_BACKOFF.jittered(failures))

    async def _keep_fresh(self, source: Source) -> None:
        """An open subscription is as good as a lease: keepalive ends it when the worker is gone."""
        while True:
            if self._state.index.position(source.worker.worker_id)[2]:
                source.worker.index_heard_at = now()
            await asyncio.sleep(TICK_S)
