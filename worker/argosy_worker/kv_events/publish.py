"""Tells Redis what this worker holds and how loaded it is. A hint for routers: nothing here is ever waited for.

One task follows the KV event log and beats once a second. Whenever it cannot know what Redis has (a new connection, a
lease or stream that is gone because Redis was wiped, a log that ran ahead) it publishes a snapshot, so routers heal by
themselves. It reconnects for ever.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from argosy_api import limits
from argosy_api.backoff import Backoff
from argosy_api.keys import BATCH_FIELD, BEAT_S, LEASE_TTL_S, LOAD_TTL_S, Keys
from argosy_api.sentinel import through
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.kv_events.log import NOTHING, KvEventLog

log = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_BACKOFF = Backoff(first=0.1, cap=2.0)  # routers must find us within 5 s after Redis is back
_AT_ONCE = 256  # batches in one pipeline
_Failure = (RedisError, OSError, TimeoutError)


class RedisPublisher:
    """The task. `run` it, cancel it, then `forget`."""

    def __init__(
        self,
        url: str,
        *,
        keys: Keys,
        worker_id: str,
        events: KvEventLog,
        load: Callable[[], pb.Load],
        metrics: WorkerMetrics,
    ) -> None:
        url, way = through(url)
        self._redis = Redis.from_url(
            url,
            **way,
            retry=Retry(NoBackoff(), 0),  # the defaults would hide an outage for seconds, and with it the wipe
            # With a socket_timeout the client sends through asyncio.wait_for, which before Python 3.12 loses a cancel
            # that comes as the sending ends: the task would never end. `_execute` has the limit instead.
            socket_timeout=None,
            socket_connect_timeout=_TIMEOUT_S,
            client_name=f"argosy-worker-{worker_id}"[:64],
            max_connections=2,
        )
        self._keys = keys
        self._worker = worker_id
        self._events = events
        self._load = load
        self._metrics = metrics
        self._cursor = NOTHING

    async def run(self) -> None:
        """Publish until cancelled."""
        failures = 0
        up: bool | None = None
        while True:
            began = time.monotonic()
            try:
                self._cursor = NOTHING  # whatever this server has of us, from before or from a replica's past, is void
                await self._beat()
                if up is not True:
                    log.info("publishing KV events to Redis")
                up = True
                self._metrics.redis_up.set(1)
                await self._follow()
            except _Failure as error:
                if up is not False:
                    log.warning("Redis is away (%s); serving goes on without it", type(error).__name__)
                up = False
                self._metrics.redis_up.set(0)
                await self._redis.connection_pool.disconnect()
            except Exception:
                log.exception("publishing KV events failed; it begins anew")
                up = None
                self._metrics.redis_up.set(0)
                await self._redis.connection_pool.disconnect()
            failures = 1 if time.monotonic() - began > _BACKOFF.cap else failures + 1
            await asyncio.sleep(_BACKOFF.jittered(failures))

    async def forget(self) -> None:
        """On a clean end: take back all that was said. At most a moment; what stays expires or is void by its epoch."""
        keys = self._keys
        with contextlib.suppress(*_Failure):
            pipe = self._redis.pipeline(transaction=True)
            pipe.delete(keys.lease(self._worker), keys.load(self._worker), keys.events(self._worker))
            await _execute(pipe)
        with contextlib.suppress(*_Failure):
            await self._redis.aclose()

    async def _follow(self) -> None:
        """Send what comes, and beat in between. Returns only by an exception."""
        next_beat = time.monotonic() + BEAT_S
        while True:
            await self._send()
            wait = next_beat - time.monotonic()
            if wait > 0:
                # not wait_for: before Python 3.12 it loses a cancel that comes together with what it waits for
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._events.wait_beyond(self._cursor)
            if time.monotonic() >= next_beat:
                await self._beat()
                next_beat = time.monotonic() + BEAT_S

    async def _send(self) -> None:
        """Publish what the log has after the cursor."""
        stream = self._keys.events(self._worker)
        for batches in _groups(self._events.after(self._cursor)):
            pipe = self._redis.pipeline(transaction=False)
            for batch in batches:
                pipe.xadd(
                    stream,
                    {BATCH_FIELD: batch.SerializeToString()},
                    maxlen=limits.EVENT_STREAM_LENGTH,
                    approximate=True,
                )
            await _execute(pipe)
            skipped = batches[-1].seq - self._cursor - len(batches)
            if self._cursor != NOTHING and skipped > 0:
                self._metrics.events_dropped.inc(skipped)
            self._cursor = batches[-1].seq

    async def _beat(self) -> None:
        """Renew lease and load, and notice when Redis has lost what it was told."""
        keys, pipe = self._keys, self._redis.pipeline(transaction=False)
        pipe.set(keys.lease(self._worker), str(self._events.epoch), px=int(LEASE_TTL_S * 1000), get=True)
        pipe.set(keys.load(self._worker), self._load().SerializeToString(), px=int(LOAD_TTL_S * 1000))
        pipe.exists(keys.events(self._worker))
        lease, _, stream = await _execute(pipe)
        if self._cursor != NOTHING and (lease is None or not stream):
            log.warning("Redis has lost our keys; publishing a snapshot")
            self._cursor = NOTHING


async def _execute(pipe: Pipeline) -> list[Any]:
    async with asyncio.timeout(_TIMEOUT_S):
        answers: list[Any] = await pipe.execute()
        return answers


def _groups(batches: list[pb.KvEventBatch]) -> list[list[pb.KvEventBatch]]:
    return [batches[i : i + _AT_ONCE] for i in range(0, len(batches), _AT_ONCE)]
