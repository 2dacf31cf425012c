"""Keeps the ACL users in Redis: one for the workers of each namespace that has a resource, and one for the routers.

Level-triggered, like everything here: once a second the names that Redis has are compared with the names that it
should have. So users are back a second after a restart of Redis, which forgets them, and one that is no longer wanted
goes. Only users that this process wrote are ever removed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from argosy_api import redis_acl
from argosy_api.sentinel import through
from argosy_operator.redis_access import Access, password_of, user_of, without_secrets, worker_password

log = logging.getLogger(__name__)

POLL_S = 1.0
CALL_S = 2.0
REFUSED_S = 60.0
"""How often Redis is asked again after it said that we may not make users."""
RESYNC_S = 300.0
"""How often the rules are written again, though the names are there: somebody may have changed them."""
_AT_ONCE = 200


def wanted_users(
    admin_url: str, router_url: str, access: Access, namespaces: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return name and rules of each user that there should be. None where Redis is shared, or open to everybody."""
    password = password_of(admin_url) if admin_url else ""
    if access == "shared" or not password:
        return {}
    users = {
        redis_acl.worker_user(n): redis_acl.worker_rules(n, worker_password(password, n)) for n in sorted(namespaces)
    }
    # another name means that somebody made a user for the routers; that one is not ours to change
    if router_url and user_of(router_url) == redis_acl.ROUTER:
        users[redis_acl.ROUTER] = redis_acl.router_rules(password_of(router_url))
    return users


class RedisUsers:
    """The task: `run` it until it is cancelled."""

    def __init__(
        self,
        admin_url: str,
        router_url: str,
        access: Access,
        *,
        namespaces: Callable[[], Iterable[str]],
        report: Callable[[bool], None],
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`namespaces` says which have a resource; `report` is told whether the users are as they should be.

        While `may_write` is false nothing is changed.
        """
        self._admin_url, self._router_url, self._access = admin_url, router_url, access
        self._namespaces, self._report, self._may_write = namespaces, report, may_write
        self._wake = asyncio.Event()
        self._made: dict[str, tuple[str, ...]] = {}
        self._resync_at = 0.0
        self._state = ""

    def wake(self) -> None:
        """The namespaces may have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep the users until cancelled. Returns at once where there are none to keep."""
        if not self._admin_url or self._access == "shared":
            self._report(True)
            return
        if not password_of(self._admin_url):
            self._report(False)
            log.warning(
                "Redis at %s has no password: workers do not use it, and routers ask them for their cache events",
                without_secrets(self._admin_url),
            )
            return
        # no socket_timeout: with one the client sends through asyncio.wait_for, which before Python 3.12 loses cancels
        url, way = through(self._admin_url)
        client = redis.Redis.from_url(
            url, **way, socket_connect_timeout=CALL_S, socket_timeout=None, single_connection_client=True
        )
        try:
            while True:
                pause = await self._round(client)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            await client.aclose()

    async def _round(self, client: "redis.Redis") -> float:
        """Seconds until the next one."""
        try:
            await self._make(client)
        except ResponseError as error:
            self._say("refused", type(error).__name__)
            return REFUSED_S
        except (RedisError, OSError, TimeoutError) as error:
            self._say("away", type(error).__name__)
            with contextlib.suppress(RedisConnectionError, OSError, TimeoutError):
                await client.connection_pool.disconnect()
            return POLL_S
        self._say("up", "")
        return POLL_S

    async def _make(self, client: "redis.Redis") -> None:
        if time.monotonic() >= self._resync_at:
            self._made = dict.fromkeys(self._made, ())
            self._resync_at = time.monotonic() + RESYNC_S
        wanted = wanted_users(self._admin_url, self._router_url, self._access, self._namespaces())
        async with asyncio.timeout(CALL_S):
            there = {_text(name) for name in await client.acl_users()}
        todo = [name for name, rules in wanted.items() if name not in there or self._made.get(name) != rules]
        for start in range(0, len(todo), _AT_ONCE):
            if not self._may_write():
                return
            pipe = client.pipeline(transaction=False)
            for name in todo[start : start + _AT_ONCE]:
                pipe.execute_command("ACL SETUSER", name, *wanted[name])
            async with asyncio.timeout(CALL_S):
                await pipe.execute()
            self._made.update({name: wanted[name] for name in todo[start : start + _AT_ONCE]})
        gone = sorted(self._made.keys() - wanted.keys())
        if gone and self._may_write():
            async with asyncio.timeout(CALL_S):
                await client.acl_deluser(*gone)  # which also ends their connections
            for name in gone:
                del self._made[name]
        if todo or gone:
            log.info("Redis: %d users made, %d removed", len(todo), len(gone))

    def _say(self, state: str, why: str) -> None:
        self._report(state == "up")
        if state == self._state:
            return
        before, self._state = self._state, state
        host = without_secrets(self._admin_url)
        if state == "refused":
            log.warning(
                "Redis at %s does not let us make users (%s): workers do without it, and routers ask them for their"
                " cache events. Give a URL whose user may ACL SETUSER, or choose shared access",
                host, why,
            )  # fmt: skip
        elif state == "away":
            log.warning("Redis at %s does not answer (%s); trying again", host, why)
        elif before:
            log.info("Redis at %s answers again", host)


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
