"""The router's connections to Redis, and whether they work. Redis is a hint: no request ever waits for it.

The clients have no socket_timeout: with one they send through asyncio.wait_for, which before Python 3.12 loses a cancel
that comes as the sending ends, and whoever waits for the end of that task waits for ever. Each call has its own limit.
"""

import logging

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from argosy_api.sentinel import through
from argosy_router.fleet.redis_bounds import BoundedParser
from argosy_router.metrics import Metrics

log = logging.getLogger(__name__)

CALL_S = 0.5
"""Limit of a background call (leases, loads)."""
READ_S = 2.0
"""Limit of a blocking read; longer than it blocks."""


class RedisLink:
    """Shared by all feeds. Without a URL `client` is None, and events come from the workers."""

    def __init__(self, url: str | None, metrics: Metrics) -> None:
        self._url, self._way = ("", {}) if url is None else through(url)
        self._metrics = metrics
        self._up: bool | None = None
        self.client: redis.Redis | None = None
        if url is not None:
            pool = redis.BlockingConnectionPool.from_url(
                self._url, **self._way, max_connections=16, timeout=CALL_S, socket_timeout=None,
                socket_connect_timeout=CALL_S,
                retry=Retry(NoBackoff(), 0), decode_responses=False,
                parser_class=BoundedParser, client_name="argosy-router", health_check_interval=15,
            )  # fmt: skip
            self.client = redis.Redis(connection_pool=pool)
        metrics.redis_up.set(0)

    def reader(self) -> "redis.Redis | None":
        """A client with a connection of its own, for blocking reads; the caller closes it."""
        if self.client is None:
            return None
        return redis.Redis.from_url(
            self._url, **self._way, single_connection_client=True, socket_timeout=None, socket_connect_timeout=CALL_S,
            retry=Retry(NoBackoff(), 0), decode_responses=False,
            parser_class=BoundedParser, client_name="argosy-router-events",
        )  # fmt: skip

    def worked(self) -> None:
        """A call succeeded."""
        if self._up is not True:
            if self._up is False:
                log.info("Redis answers again")
            self._up = True
            self._metrics.redis_up.set(1)

    def failed(self, error: Exception) -> None:
        """A call failed."""
        if self._up is not False:
            self._up = False
            log.warning("Redis does not answer (%s); KV events and load come from the workers", type(error).__name__)
            self._metrics.redis_up.set(0)

    async def close(self) -> None:
        """Closes the shared connections."""
        if self.client is not None:
            await self.client.aclose()
