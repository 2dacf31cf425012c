"""The smaller parts: settings, routers, workers, Redis, health."""

import asyncio
import functools

import aiohttp
import pytest
from aiohttp import web
from operator_kit import document
from waiting import eventually

from argosy_api import limits, metric_names
from argosy_api.errors import InvalidArgumentError
from argosy_api.keys import Keys
from argosy_api.net import PageServer
from argosy_api.routes import DeploymentRoutes, RouteState, WorkerRoute
from argosy_kube.lease import LeaseTerms
from argosy_operator.errors import ApiError
from argosy_operator.metrics import Health, Metrics, page
from argosy_operator.redis_cleanup import RedisCleanup
from argosy_operator.routers import Routers, behind, common
from argosy_operator.settings import ExternalMetrics, from_environment, image_allowed


def test_settings_from_the_environment():
    made = from_environment(
        {
            "ARGOSY_WORKER_IMAGE": "w:1", "ARGOSY_IMAGE_PULL_SECRETS": "a, b", "ARGOSY_REDIS_URL": "redis://x",
            "ARGOSY_WORKER_ENV": '{"B": "2", "A": "1"}', "ARGOSY_WATCH_NAMESPACES": "x,y", "ARGOSY_METRICS_PORT": "9",
        }
    )  # fmt: skip
    assert made.plan.worker_image == "w:1"
    assert made.plan.image_pull_secrets == ("a", "b")
    assert made.plan.worker_env == (("A", "1"), ("B", "2"))
    assert (made.namespaces, made.metrics_port) == (("x", "y"), 9)


EXTERNAL = {
    "ARGOSY_ROUTER_STATUS_URL": "http://r/routes", "ARGOSY_EXTERNAL_METRICS_SERVICE": "argosy/metrics",
    "ARGOSY_EXTERNAL_METRICS_SECRET": "s", "ARGOSY_KEDA_PORT": "8444",
}  # fmt: skip


def test_what_is_served_to_other_autoscalers():
    none = from_environment({})
    assert (none.external_metrics, none.keda_port) == (None, None)
    made = from_environment(EXTERNAL)
    assert made.external_metrics == ExternalMetrics(namespace="argosy", service="metrics", secret="s", port=8443)
    assert made.keda_port == 8444


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARGOSY_ROUTER_STATUS_URL", ""), ("ARGOSY_EXTERNAL_METRICS_SERVICE", "metrics"),
        ("ARGOSY_EXTERNAL_METRICS_SERVICE", "argosy/"), ("ARGOSY_EXTERNAL_METRICS_SECRET", ""),
        ("ARGOSY_EXTERNAL_METRICS_PORT", "x"), ("ARGOSY_KEDA_PORT", "x"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_what_is_served_to_others_is_named(name, value):
    with pytest.raises(InvalidArgumentError) as caught:
        from_environment(EXTERNAL | {name: value})
    assert caught.value.field == name


def test_workers_log_as_the_operator_does_unless_told_otherwise():
    assert from_environment({"ARGOSY_LOG_FORMAT": "json"}).plan.worker_env == (("ARGOSY_LOG_FORMAT", "json"),)
    told = from_environment({"ARGOSY_LOG_FORMAT": "json", "ARGOSY_WORKER_ENV": '{"ARGOSY_LOG_FORMAT": "plain"}'})
    assert told.plan.worker_env == (("ARGOSY_LOG_FORMAT", "plain"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARGOSY_IMAGE_PULL_POLICY", "Sometimes"), ("ARGOSY_WORKER_ENV", "[]"), ("ARGOSY_WORKER_ENV", '{"A": 1}'),
        ("ARGOSY_WORKER_ENV", "{"), ("ARGOSY_METRICS_PORT", "x"), ("ARGOSY_METRICS_PORT", "70000"),
        ("ARGOSY_METRICS_PORT", "nan"), ("ARGOSY_RESYNC_SECONDS", "0"),
        ("ARGOSY_ROUTER_STATUS_URL", "ftp://x"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(InvalidArgumentError) as caught:
        from_environment({name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("image", "allowed"),
    [(None, True), ("r/a/x:1", True), ("r/ab:1", False), ("b:1", True), ("b:12", False), ("evil", False)],
)
def test_which_images_a_resource_may_name(image, allowed):
    chosen = from_environment({"ARGOSY_ALLOWED_IMAGES": "r/a/*, b:1"}).allowed_images
    assert image_allowed(image, chosen) is allowed
    assert image_allowed(image, ())


def _routes(*workers):
    return {
        "deployments": [
            {
                "namespace": "n",
                "name": "m",
                "workers": [{"worker_id": w, "revision": "r", "state": s} for w, s in workers],
            }
        ]
    }


def test_a_worker_counts_when_all_routers_reach_it():
    key = ("n", "m")
    one = {key: frozenset({"a", "b"})}
    assert common([one, {key: frozenset({"b", "c"})}]) == {key: frozenset({"b"})}
    assert common([one, {}]) == {key: frozenset()}
    assert common([]) == {}


def test_a_worker_is_behind_when_any_router_does_not_hear_from_it():
    def said(**ages):
        workers = [
            WorkerRoute(worker_id=name, revision="r", state=RouteState.READY, indexed_blocks=0, index_age_s=age)
            for name, age in ages.items()
        ]
        made = DeploymentRoutes(namespace="n", name="m", served_name="m", policy="", workers=tuple(workers))
        return {("n", "m"): made}

    assert behind([said(a=0.1, b=16.0), said(a=20.0, b=0.2, c=None)]) == {("n", "m"): frozenset({"a", "b"})}
    assert behind([said(a=0.1)]) == {}


async def test_the_routers_are_asked_and_changes_are_told():
    answer = {"body": _routes(("a", "ready"), ("b", "connecting")), "asked": 0}

    async def routes(_):
        answer["asked"] += 1
        return web.json_response(answer["body"])

    app = web.Application()
    app.router.add_get("/routes", routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    told = []
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        routers = Routers(session, f"http://localhost:{port}/routes", told.append)
        task = asyncio.create_task(routers.run())
        try:
            await eventually(lambda: told == [None])
            facts = routers.facts("n", "m")
            assert facts.reachable >= 1
            assert facts.ready == frozenset({"a"})
            assert routers.facts("n", "other").ready == frozenset()
            answer["body"] = _routes(("a", "ready"), ("b", "ready"))
            routers.hurry()
            await eventually(lambda: told == [None, ("n", "m")])
            assert routers.facts("n", "m").ready == frozenset({"a", "b"})
            answer["body"] = "nonsense"  # for a while the last answer counts
            asked = answer["asked"]
            await eventually(lambda: answer["asked"] > asked + 1)
            assert routers.facts("n", "m").ready == frozenset({"a", "b"})
        finally:
            task.cancel()
            await runner.cleanup()


async def test_a_long_answer_is_read_to_its_end_and_one_too_long_is_none(monkeypatch):
    """Ten thousand workers take more than what comes at once."""
    names = [f"w{i}" for i in range(10_000)]

    async def routes(_):
        return web.json_response(_routes(*((name, "ready") for name in names)))

    app = web.Application()
    app.router.add_get("/routes", routes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            routers = Routers(session, "http://unused/routes", lambda _: None)
            ask = ("127.0.0.1", runner.addresses[0][1], "/routes")
            assert (await routers._ask(*ask))["n", "m"].ready == frozenset(names)
            monkeypatch.setattr(limits, "MAX_ROUTES_BYTES", 1000)
            assert await routers._ask(*ask) == "an answer of more than 1000 bytes"
    finally:
        await runner.cleanup()


async def test_without_an_address_nobody_is_asked():
    async with aiohttp.ClientSession() as session:
        routers = Routers(session, "", lambda _: None)
        await asyncio.wait_for(routers.run(), 1)
        assert routers.facts("n", "m") is None


def always() -> bool:
    return True


async def test_keys_of_a_deleted_resource_go_and_others_stay(valkey):
    import redis

    client = redis.Redis.from_url(valkey.url)
    mine, other, trap = Keys("default", "m"), Keys("default", "m2"), Keys("default", "*")
    for keys in (mine, other, trap):
        for key in (keys.lease("w"), keys.load("w")):
            client.set(key, "1")
        client.xadd(keys.events("w"), {"batch": b"x"})
    client.mset({f"{mine.prefix}b:{i}": "x" for i in range(1500)})
    stranger = RedisCleanup(valkey.url, lambda: False)  # somebody else writes now
    assert not await stranger.remove_keys("default", "m")
    assert client.dbsize() == 3 * 3 + 1500
    cleanup = RedisCleanup(valkey.url, always)
    assert await cleanup.remove_keys("default", "*")  # a pattern in a name is no pattern
    assert client.dbsize() == 2 * 3 + 1500
    assert await cleanup.remove_keys("default", "m")
    assert sorted(client.keys()) == sorted(k.encode() for k in (other.lease("w"), other.load("w"), other.events("w")))


async def test_a_redis_that_is_away_delays_nobody(free_port):
    assert await RedisCleanup(f"redis://127.0.0.1:{free_port()}", always).remove_keys("default", "m") is False


async def test_a_redis_that_hangs_delays_nobody_for_long():
    async def swallow(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await RedisCleanup(f"redis://127.0.0.1:{port}", always, limit_s=0.5).remove_keys("default", "m") is False


def test_health_notices_a_loop_that_hangs_and_a_watch_that_is_deaf():
    now = {"t": 0.0}
    health = Health(lambda: now["t"])
    key = ("n", "m")
    health.expect(key, "5")
    health.seen(key, "5")
    now["t"] = 29.0
    assert health.problem() == ""
    now["t"] = 31.0
    assert "loop" in health.problem()
    health.beat()
    health.expect(key, "6")
    health.seen(key, "5")
    now["t"] += 76.0
    health.beat()
    assert "watch" in health.problem()
    health.seen(key, "6")
    assert health.problem() == ""
    health.expect(key, "7")
    health.expect(key, None)
    now["t"] += 76.0
    health.beat()
    assert health.problem() == ""


def test_health_notices_a_pass_that_does_not_end_or_does_not_begin():
    now = {"t": 0.0}
    health = Health(lambda: now["t"])

    def after(seconds):
        now["t"] += seconds
        health.beat()
        return health.problem()

    health.owe_pass(("n", "m"), 300.0)  # the next is due in five minutes
    assert after(1199.0) == ""
    assert "n/m" in after(2.0)
    health.owe_pass(("n", "m"), 0.0)  # it begins
    assert after(899.0) == ""
    assert "n/m" in after(2.0)
    health.owe_pass(("n", "m"), None)  # its loop has ended
    assert after(1e6) == ""
    health.owe_pass(("n", "m"), 0.0)
    health.expect(("n", "m"), "5")
    health.ended()  # another operator works now
    assert after(1e6) == ""


async def test_passes_are_owed_while_a_resource_is_there(world):
    operator = await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    assert list(operator.health._owed) == [("default", "m")]
    world.delete("m")
    await eventually(lambda: not operator.health._owed)


def test_the_lease_comes_from_the_environment():
    assert from_environment({}).lease is None
    given = {"ARGOSY_LEASE": "l", "ARGOSY_LEASE_NAMESPACE": "n", "ARGOSY_LEASE_SECONDS": "30", "ARGOSY_IDENTITY": "me"}
    assert from_environment(given).lease == LeaseTerms(namespace="n", name="l", identity="me", duration_s=30)
    del given["ARGOSY_IDENTITY"], given["ARGOSY_LEASE_SECONDS"]
    one, other = from_environment(given).lease, from_environment(given).lease
    assert one.identity != other.identity  # of two processes on one machine
    assert one.duration_s == 15
    for wrong in ({"ARGOSY_LEASE_NAMESPACE": ""}, {"ARGOSY_LEASE_SECONDS": "2"}):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            from_environment(given | wrong)


async def test_the_status_server():
    metrics, health = Metrics(), Health()
    metrics.passed("ok", 0.01)
    metrics.set_ready("n", "m", True)
    server = PageServer("127.0.0.1", 0, functools.partial(page, metrics, health))
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            statuses = {path: (await session.get(path)).status for path in ("/healthz", "/readyz", "/other")}
            assert statuses == {"/healthz": 200, "/readyz": 503, "/other": 404}
            health.ready = True
            assert (await session.get("/readyz")).status == 200
            text = await (await session.get("/metrics")).text()
            assert 'argosy_operator_reconcile_passes_total{result="ok"} 1.0' in text
            assert 'argosy_operator_resources{ready="true"} 1.0' in text
    finally:
        server.close()


@pytest.mark.parametrize(
    ("status", "passing"), [(0, True), (409, True), (429, True), (503, True), (403, False), (422, False)]
)
def test_what_may_pass_by_itself(status, passing):
    assert ApiError(status, "R", "m").passing is passing


def test_an_operator_without_resources_is_not_stuck():
    """The alert looks at the age of the last pass; with nothing to pass over it would go off by itself."""
    metrics = Metrics()

    def age():
        return metrics.registry.get_sample_value(metric_names.OPERATOR_LAST_PASS_AGE)

    assert age() == 0
    metrics.set_ready("default", "m", ready=False)
    assert age() > 0
    metrics.set_ready("default", "m", ready=None)
    assert age() == 0
