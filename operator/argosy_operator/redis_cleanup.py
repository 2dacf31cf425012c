"""Removes what workers of a deleted resource left in Redis."""

import asyncio
import logging

import redis.asyncio as redis
from redis.exceptions import RedisError

from argosy_api.keys import Keys

log = logging.getLogger(__name__)
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\*?[]^-"})


async def remove_keys(url: str, namespace: str, name: str, *, limit_s: float = 5.0) -> bool:
    """Delete all keys of a deployment, within `limit_s`.

    Returns whether it was done. It never raises for Redis: what is there is a hint that nobody depends on, and a
    deletion must not wait for a Redis that is gone.
    """
    if not url:
        return True
    try:
        async with asyncio.timeout(limit_s):
            removed = await _remove(url, Keys(namespace, name).prefix)
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        log.warning("%s/%s: its keys stay in Redis: %s", namespace, name, str(error) or type(error).__name__)
        return False
    log.info("%s/%s: %d keys removed from Redis", namespace, name, removed)
    return True


async def _remove(url: str, prefix: str) -> int:
    # no socket_timeout: with one the client sends through asyncio.wait_for, which before Python 3.12 loses the cancel
    # that the caller's limit is made of
    client = redis.Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=None)
    removed = 0
    try:
        pattern = prefix.translate(_SPECIAL) + "*"
        keys = [key async for key in client.scan_iter(match=pattern, count=1000)]
        for start in range(0, len(keys), 500):
            removed += int(await client.unlink(*keys[start : start + 500]))
    finally:
        await client.aclose()
    return removed
