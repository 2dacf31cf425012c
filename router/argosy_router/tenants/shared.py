"""What the routers tell each other of their tenants' use, through Redis: a hint, for which no request waits.

One hash has a field for each router: what each tenant has used there since that router's start. Each router takes what
the others have used off its own buckets. While Redis is away it gives out its share of each limit alone: one part of
as many as there were routers.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import redis.asyncio as redis

from argosy_api.keys import TENANTS
from argosy_router.clock import now
from argosy_router.tenants.quotas import Quotas

log = logging.getLogger(__name__)

SYNC_S = 0.5
CALL_S = 0.5
ALONE_S = 5.0
"""Without hearing anything for so long, a router gives out its share alone."""
GONE_S = 10.0
"""A router that has said nothing new for so long is gone."""
EXPIRE_S = 60
MOST = 1 << 50
"""A larger number is nothing that a router says."""

Said = Mapping[str, tuple[int, int, int]]
"""Of each tenant: requests, tokens, answers under way."""


@dataclass(slots=True)
class _Other:
    number: int
    said: Said
    at: float


class SharedUsage:
    """Of one router."""

    def __init__(self, quotas: Quotas, client: redis.Redis | None) -> None:
        self._quotas = quotas
        self._client = client
        self._name = secrets.token_hex(8)
        self._number = 0
        self._others: dict[str, _Other] = {}
        self._heard_at = float("-inf")
        self._works: bool | None = None

    async def run(self) -> None:
        """Tells and hears, again and again."""
        while self._client is not None:
            try:
                async with asyncio.timeout(CALL_S):
                    told = await self._exchange(self._client)
                self._take(told, now())
                self._note(works=True)
            except (OSError, TimeoutError, redis.RedisError) as error:
                self._note(works=False, why=type(error).__name__)
            self._quotas.share = 1.0 if now() - self._heard_at < ALONE_S else 1.0 / (1 + len(self._others))
            await asyncio.sleep(SYNC_S)

    async def leave(self) -> None:
        """Tells that this router ends."""
        if self._client is not None:
            try:
                async with asyncio.timeout(CALL_S):
                    await self._client.hdel(TENANTS, self._name)
            except (OSError, TimeoutError, redis.RedisError):
                log.debug("Redis was not told that this router ends; the others will notice")

    async def _exchange(self, client: redis.Redis) -> Mapping[bytes, bytes]:
        self._number += 1
        said = {name: (u.requests, u.tokens, u.running) for name, u in self._quotas.usage().items()}
        async with client.pipeline(transaction=False) as pipe:
            pipe.hset(TENANTS, self._name, json.dumps([self._number, said]))
            pipe.expire(TENANTS, EXPIRE_S)
            pipe.hgetall(TENANTS)
            for name in [n for n, other in self._others.items() if now() - other.at > GONE_S]:
                del self._others[name]
                pipe.hdel(TENANTS, name)
            answers = await pipe.execute()
        found = answers[2]
        return found if isinstance(found, dict) else {}

    def _take(self, told: Mapping[bytes, bytes], time: float) -> None:
        """What the others say: what is new in it is charged."""
        self._heard_at = time
        running: dict[str, int] = {}
        spent: dict[str, tuple[int, int]] = {}
        for field, text in told.items():
            name = field.decode(errors="replace")
            read = parse(text)
            if name == self._name or read is None:
                continue
            number, said = read
            before = self._others.get(name)
            if before is not None and before.number == number:
                said = before.said
            else:
                for tenant, (requests, tokens, _) in said.items():
                    old = (0, 0, 0) if before is None else before.said.get(tenant, (0, 0, 0))
                    if before is not None:  # of one that was not known it can't be told how much of it is new
                        had = spent.get(tenant, (0, 0))
                        more = (max(0, requests - old[0]), max(0, tokens - old[1]))
                        spent[tenant] = (had[0] + more[0], had[1] + more[1])
                self._others[name] = _Other(number, said, time)
            if time - self._others[name].at <= GONE_S:
                for tenant, (_, _, now_running) in said.items():
                    running[tenant] = running.get(tenant, 0) + now_running
        for tenant in self._quotas.usage().keys() | spent.keys():
            requests, tokens = spent.get(tenant, (0, 0))
            self._quotas.heard(tenant, requests=requests, tokens=tokens, running=running.get(tenant, 0), now=time)

    def _note(self, *, works: bool, why: str = "") -> None:
        if works != self._works:
            self._works = works
            if works:
                log.info("tenants' use is shared with the other routers")
            else:
                log.warning("tenants' use can't be shared (%s): each router gives out its part of the limits", why)


def parse(text: bytes) -> tuple[int, Said] | None:
    """What a router said; None for anything else."""
    try:
        number, said = json.loads(text)
        read = {str(tenant): (int(r), int(t), int(n)) for tenant, (r, t, n) in said.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    if not isinstance(number, int) or not all(0 <= n < MOST for numbers in read.values() for n in numbers):
        return None
    return number, read
