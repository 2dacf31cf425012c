"""Redis that is found through Sentinel: `redis://user:password@MASTER/0?sentinels=host:26379,host:26379,host:26379`.

The host of such a URL is no host but the name under which Sentinels know the master. Each new connection asks all of
them at once, and goes where the one with the newest configuration says: a Sentinel that was cut off tells of a former
master. A master that is demoted has its connections closed by Sentinel, so whoever reconnects is right again.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from argosy_api.redis_urls import sentinels_of

ASK_S = 0.3
"""For all of them together: who does not answer by then has no say."""
QUERY = ("sentinels", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Found:
    """What one Sentinel says."""

    epoch: int
    host: str
    port: int


def through(url: str) -> tuple[str, dict[str, Any]]:
    """What `redis.asyncio`'s `from_url` is to be called with for this URL: another one, and further arguments."""
    sentinels = sentinels_of(url)
    if not sentinels:
        return url, {}
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    login = {"username": query.get("sentinel_username"), "password": query.get("sentinel_password")}
    tls = parts.scheme == "rediss"
    # as redis://, for from_url would take its own class for rediss://
    rest = urlencode({name: value for name, value in query.items() if name not in QUERY})
    plain = SplitResult("redis", parts.netloc, parts.path, rest, "").geturl()
    kind = _TlsToMaster if tls else _ToMaster
    return plain, {
        "connection_class": kind,
        "master": unquote(parts.netloc.rpartition("@")[2].partition(":")[0]),
        "sentinels": sentinels,
        "login": login,
    }


class _ToMaster(Connection):
    """A connection that finds out where to go each time it is made."""

    def __init__(
        self, *, master: str, sentinels: tuple[tuple[str, int], ...], login: dict[str, str | None], **more: Any
    ) -> None:
        super().__init__(**more)
        self._master, self._sentinels, self._login = master, sentinels, login

    async def _connect(self) -> None:
        self.host, self.port = await master(
            self._master, [self._sentinel(host, port) for host, port in self._sentinels]
        )
        await super()._connect()  # type: ignore[no-untyped-call]

    def _sentinel(self, host: str, port: int) -> Connection:
        return Connection(host=host, port=port, socket_timeout=None, **cast("Any", self._login))


class _TlsToMaster(_ToMaster, SSLConnection):
    """The same over TLS, to Sentinels as to Redis."""

    def _sentinel(self, host: str, port: int) -> Connection:
        made = SSLConnection(host=host, port=port, socket_timeout=None, **cast("Any", self._login))
        made.ssl_context = self.ssl_context
        return made


async def master(name: str, sentinels: list[Connection]) -> tuple[str, int]:
    """Where the master is. The connections are closed afterwards.

    Raises:
        redis.exceptions.ConnectionError: no Sentinel told within `ASK_S`.

    """
    asking = {asyncio.ensure_future(_asked(sentinel, name)) for sentinel in sentinels}
    told: list[Found] = []
    waiting = set(asking)
    try:
        async with asyncio.timeout(ASK_S):
            while waiting and len(told) <= len(sentinels) // 2:  # a majority knows of the newest configuration
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                told += [task.result() for task in done if task.exception() is None]
    except TimeoutError:
        pass
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if not told:
        raise RedisConnectionError(f"no Sentinel of {len(sentinels)} knows where {name!r} is")
    newest = max(told, key=lambda found: found.epoch)
    return newest.host, newest.port


async def _asked(sentinel: Connection, name: str) -> Found:
    try:
        await sentinel.connect()  # type: ignore[no-untyped-call]
        await sentinel.send_command("SENTINEL", "MASTER", name)
        answer: Any = await sentinel.read_response()
    finally:
        await sentinel.disconnect(nowait=True)
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    fields = {_text(key): _text(value) for key, value in pairs}
    try:
        return Found(int(fields["config-epoch"]), fields["ip"], int(fields["port"]))
    except (KeyError, ValueError) as error:
        raise RedisError("a Sentinel's answer has no address") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
