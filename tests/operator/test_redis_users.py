"""Who can reach what in Redis: the workers of a namespace their own keys, the routers all of them to read, nobody more."""

import asyncio
import base64
import contextlib
from urllib.parse import urlsplit

import fakecluster
import pytest
import redis
from fakeapi import Key
from operator_kit import document
from waiting import eventually

from argosy_api import redis_acl
from argosy_api.errors import InvalidArgumentError
from argosy_api.keys import Keys
from argosy_operator.manifests import PlanSettings
from argosy_operator.redis_access import check_url, password_of, user_of, worker_url
from argosy_operator.redis_users import RedisUsers, wanted_users

ADMIN = "hunter2"
MINE, THEIRS = Keys("team-a", "m"), Keys("team-b", "m")


@pytest.fixture
def locked(valkey_factory):
    """A Valkey with a password."""
    return valkey_factory(ADMIN).start()


def router_url(valkey) -> str:
    return f"redis://{redis_acl.ROUTER}:pw@127.0.0.1:{valkey.port}/0"


@contextlib.asynccontextmanager
async def keeping(valkey, namespaces: set[str], **more):
    reports: list[bool] = []
    users = RedisUsers(
        more.get("url", valkey.url), router_url(valkey), "perNamespace", namespaces=lambda: namespaces,
        report=reports.append,
    )  # fmt: skip
    task = asyncio.create_task(users.run())
    try:
        yield users, reports
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def can(url: str, *command: object) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            client.execute_command(*command)
        except (
            redis.ConnectionError,
            redis.exceptions.NoPermissionError,
        ):  # the former also when a user goes meanwhile
            return False
        return True


@pytest.mark.parametrize(
    ("admin", "expected_host"),
    [
        ("redis://:hunter2@valkey:6379/0", "valkey:6379"),
        ("rediss://root:hunter2@[fd00::1]:6380/3?ssl_cert_reqs=none", "[fd00::1]:6380"),
        ("redis://:h%40nter%2F2@valkey", "valkey"),
    ],
)
def test_a_workers_url_is_of_its_namespace_and_holds_nothing_of_the_operators(admin, expected_host):
    a, b = (urlsplit(worker_url(admin, "perNamespace", n)) for n in ("team-a", "team-b"))
    before = urlsplit(admin)
    for url in (a, b):
        assert (url.scheme, url.path, url.query) == (before.scheme, before.path, before.query)
        assert url.netloc.rpartition("@")[2] == expected_host
        assert password_of(admin) not in url.geturl()
    assert (a.username, b.username) == ("argosy-worker-team-a", "argosy-worker-team-b")
    assert a.password != b.password
    assert a.geturl() == worker_url(admin, "perNamespace", "team-a")
    assert a.password != urlsplit(worker_url(admin.replace("nter", "nger"), "perNamespace", "team-a")).password


def test_a_redis_of_everybody_is_left_alone_unless_it_is_said_to_be_shared():
    assert worker_url("redis://valkey:6379/0", "perNamespace", "team-a") == ""
    assert worker_url("redis://valkey:6379/0", "shared", "team-a") == "redis://valkey:6379/0"
    assert worker_url("", "perNamespace", "team-a") == worker_url("", "shared", "team-a") == ""
    for url, access in (("redis://valkey", "perNamespace"), ("redis://:pw@valkey", "shared"), ("", "perNamespace")):
        assert wanted_users(url, "redis://argosy-router:pw@valkey", access, {"team-a"}) == {}


def test_a_user_that_somebody_made_for_the_routers_is_not_changed():
    assert redis_acl.ROUTER not in wanted_users(
        "redis://:pw@valkey", "redis://readers:pw@valkey", "perNamespace", {"team-a"}
    )
    assert redis_acl.ROUTER in wanted_users("redis://:pw@valkey", "redis://argosy-router:pw@v", "perNamespace", ())


@pytest.mark.parametrize(
    "url",
    ["http://:secret@host", "redis://:secret@", "redis://:secret@host:x", "redis://:secret@[::1", "valkey:6379",
     "redis://host?password=secret", "redis://host/0?username=secret", "redis://:secret@host:0"],
)  # fmt: skip
def test_a_wrong_url_is_refused_and_never_shown(url):
    with pytest.raises(InvalidArgumentError) as caught:
        check_url(url, "ARGOSY_REDIS_URL")
    assert "ARGOSY_REDIS_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_user_and_password_are_what_stands_in_the_url():
    assert (user_of("redis://a%3Ab:c%40d@h"), password_of("redis://a%3Ab:c%40d@h")) == ("a:b", "c@d")
    assert (user_of("redis://h"), password_of("redis://h")) == ("", "")


@pytest.mark.parametrize(
    ("url", "access", "right"),
    [("", "perNamespace", True), ("redis://:pw@h", "shared", True), ("redis://h", "perNamespace", False)],
)
async def test_where_there_is_no_user_to_make_it_is_said_at_once(url, access, right):
    reports = []
    users = RedisUsers(url, "", access, namespaces=lambda: {"team-a"}, report=reports.append)
    await asyncio.wait_for(users.run(), 10)
    assert reports == [right]


async def test_workers_reach_the_keys_of_their_namespace_and_nothing_else(locked):
    mine = worker_url(locked.url, "perNamespace", "team-a")
    async with keeping(locked, {"team-a", "team-b", "team-ab"}) as (_, reports):
        await eventually(lambda: reports and reports[-1], what="the users are made")
        assert can(mine, "SET", MINE.lease("w"), "1")
        assert can(mine, "XADD", MINE.events("w"), "*", "batch", "x")
        assert can(worker_url(locked.url, "perNamespace", "team-b"), "SET", THEIRS.load("w"), "theirs")
        refused = [
            ("SET", THEIRS.lease("w"), "1"),
            ("SET", THEIRS.load("w"), "x", "GET"),
            ("DEL", THEIRS.load("w")),
            ("XADD", THEIRS.events("w"), "*", "batch", "x"),
            ("EXISTS", THEIRS.load("w")),
            ("SET", Keys("team-ab", "m").lease("w"), "1"),
            ("SET", "anything", "1"),
            ("GET", THEIRS.load("w")), ("MGET", THEIRS.load("w")), ("XRANGE", THEIRS.events("w"), "-", "+"),
            ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "requirepass"), ("KEYS", "*"), ("SCAN", "0"),
            ("ACL", "LIST"), ("ACL", "SETUSER", "me", "on"), ("EVAL", "return 1", "0"), ("MONITOR",),
            ("CLIENT", "LIST"), ("CLIENT", "KILL", "TYPE", "normal"), ("SHUTDOWN",), ("SUBSCRIBE", "x"),
            ("PUBLISH", "x", "y"), ("INFO",), ("REPLICAOF", "h", "1"), ("RANDOMKEY",),
        ]  # fmt: skip
        assert [command for command in refused if can(mine, *command)] == []
        with redis.Redis.from_url(locked.url) as client:
            assert client.get(THEIRS.load("w")) == b"theirs"


async def test_routers_read_all_of_ours_and_write_nothing(locked):
    async with keeping(locked, {"team-a"}) as (_, reports):
        await eventually(lambda: reports and reports[-1], what="the users are made")
        url = router_url(locked)
        with redis.Redis.from_url(locked.url) as client:
            client.set("others", "1")
        assert can(url, "MGET", MINE.lease("w"), THEIRS.load("w"))
        refused = [
            ("SET", MINE.lease("w"), "1"), ("XADD", MINE.events("w"), "*", "a", "b"), ("MGET", "others"),
            ("FLUSHALL",), ("ACL", "LIST"), ("CONFIG", "GET", "*"), ("KEYS", "*"),
        ]  # fmt: skip
        assert [command for command in refused if can(url, *command)] == []


async def test_users_are_back_after_a_restart_and_go_with_the_last_resource(locked):
    namespaces = {"team-a", "team-b"}
    a, b = (worker_url(locked.url, "perNamespace", n) for n in ("team-a", "team-b"))
    async with keeping(locked, namespaces) as (users, reports):
        await eventually(lambda: reports and reports[-1], what="the users are made")
        locked.kill()
        await eventually(lambda: not reports[-1], what="it is noticed")
        locked.start()
        await eventually(lambda: can(a, "PING") and can(b, "PING") and can(router_url(locked), "PING"), what="back")
        held = redis.Redis.from_url(a, retry=None)
        held.ping()
        namespaces.discard("team-a")
        users.wake()
        await eventually(lambda: not can(a, "PING"), what="the user is gone")
        with pytest.raises(redis.RedisError):  # and with it the connections that it had
            held.ping()
        assert can(b, "PING")


async def test_a_user_that_was_removed_by_hand_comes_back(locked):
    async with keeping(locked, {"team-a"}) as (_, reports):
        await eventually(lambda: reports and reports[-1], what="the users are made")
        with redis.Redis.from_url(locked.url) as client:
            assert client.acl_deluser(redis_acl.worker_user("team-a")) == 1
        await eventually(lambda: can(worker_url(locked.url, "perNamespace", "team-a"), "PING"))


async def test_where_we_may_not_make_users_it_is_said_and_nobody_gets_more(locked, caplog):
    with redis.Redis.from_url(locked.url) as client:
        client.execute_command("ACL SETUSER", "app", "on", ">narrow", "~*", "+@all", "-acl")
    url = f"redis://app:narrow@127.0.0.1:{locked.port}/0"
    async with keeping(locked, {"team-a"}, url=url) as (_, reports):
        await eventually(lambda: reports, what="a round")
        assert reports == [False]
        assert not can(worker_url(url, "perNamespace", "team-a"), "PING")
        assert "does not let us make users" in caplog.text
        assert "narrow" not in caplog.text


async def test_the_operator_gives_each_namespace_its_own_user(world, locked):
    world.plan = PlanSettings(redis_url=locked.url)
    world.extra = {"redis_router_url": router_url(locked)}
    operator = await world.operator()
    world.apply(document())
    other = document(namespace="team-b")
    world.server.create(Key(fakecluster.RESOURCES, "team-b", "m"), other)
    await eventually(world.is_ready)
    secret = await eventually(lambda: world.child(fakecluster.SECRETS, "m-argosy-redis"))
    assert ADMIN not in str(world.children())
    url = worker_url(locked.url, "perNamespace", "default")
    assert base64.b64decode(secret["data"]["url"]).decode() == url
    await eventually(lambda: can(url, "SET", Keys("default", "m").lease("w"), "1"))
    await eventually(lambda: can(worker_url(locked.url, "perNamespace", "team-b"), "PING"))
    assert operator.metrics.redis_users_up._value.get() == 1
    world.delete("m")
    await eventually(lambda: not can(url, "PING"), what="the namespace's last resource is gone, and its user")
    assert can(worker_url(locked.url, "perNamespace", "team-b"), "PING")
    await eventually(lambda: can(router_url(locked), "PING"))
