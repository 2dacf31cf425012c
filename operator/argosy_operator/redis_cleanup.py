"""Removes what workers of a deleted resource left in Redis."""

import asyncio
import logging
from collections.abc import Callable

import redis.asyncio as redis
from redis.exceptions import RedisError

from argosy_api.keys import Keys
from argosy_api.sentinel import through

log = logging.getLogger(__name__)
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\*?[]^-"})


class RedisCleanup:
    """Removes keys, while this process may change anything."""

    def __init__(self, url: str, may_write: Callable[[], bool], *, limit_s: float = 5.0) -> None:
        """`url` is empty where there is no Redis."""
        self._url, self._may_write, self._limit_s = url, may_write, limit_s

    async def remove_keys(self, namespace: str, name: str) -> bool:
        """Delete all keys of a deployment, within `limit_s`.

        Returns whether it was done. It never raises for Redis: what is there is a hint that nobody depends on, and a
        deletion must not wait for a Redis that is gone.
        """
        if not self._url:
            return True
        try:
            async with asyncio.timeout(self._limit_s):
                removed = await self._remove(Keys(namespace, name).prefix)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            log.warning("%s/%s: its keys stay in Redis: %s", namespace, name, str(error) or type(error).__name__)
            return False
        log.info("%s/%s: %d keys removed from Redis", namespace, name, removed)
        return True

    async def _remove(self, prefix: str) -> int:
        # no socket_timeout: with one the client sends through asyncio.wait_for, which before Python 3.12 loses the
        # cancel that the caller's limit is made of
        url, way = through(self._url)
        client = redis.Redis.from_url(url, **way, socket_connect_timeout=2.0, socket_timeout=None)
        removed = 0
        try:
            pattern = prefix.translate(_SPECIAL) + "*"
            keys = [key async for key in client.scan_iter(match=pattern, count=1000)]
            for start in range(0, len(keys), 500):
                if not self._may_write():
                    raise ConnectionRefusedError("another process may be the one that writes")
                removed += int(await client.unlink(*keys[start : start + 500]))
        finally:
            await client.aclose()
        return removed
