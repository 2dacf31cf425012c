"""external.metrics.k8s.io: who is answered, what, and by which certificate; and the whole operator serving it."""

import asyncio
import base64
import contextlib
import datetime as dt
import ssl

import aiohttp
import pytest
from external_kit import LOAD, ROOT, SETTINGS, Authority, Objects, Teller, ask, old, routes
from fakeapi import Gvr, Key
from fakecluster import DEPLOYMENTS, SECRETS
from operator_kit import document
from waiting import eventually

from argosy_api import net
from argosy_api.errors import UnauthenticatedError, UnavailableError
from argosy_kube.lease import LeaseTerms
from argosy_kube.reflector import WatchError
from argosy_operator.external import certificates, reviews, server
from argosy_operator.external.callers import Caller, FrontProxy, caller
from argosy_operator.external.certificates import Pair
from argosy_operator.external.keeper import Keeper, pair_of
from argosy_operator.external.reviews import ForbiddenError, Reviews
from argosy_operator.external.server import MetricsServer
from argosy_operator.external.source import Source
from argosy_operator.routers import Routers
from argosy_operator.settings import ExternalMetrics

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
NAMES = certificates.hosts("metrics", "argosy")
QUEUE = f"{ROOT}/namespaces/default/argosy-queue-seconds?labelSelector=deployment%3Dm"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def objects(authority):
    return Objects(authority)


# --- certificates --------------------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_well_before_its_end_and_where_it_does_not_fit():
    pair, other = certificates.make(NAMES, NOW), certificates.make(NAMES, NOW)

    def why(pair=pair, names=NAMES, after=dt.timedelta()):
        return certificates.why_not(pair, names, NOW + after)

    assert why() == ""
    assert why(after=certificates.LIFE - certificates.RENEW_BEFORE) == ""
    assert "it ends at" in why(after=certificates.LIFE - certificates.RENEW_BEFORE + dt.timedelta(seconds=1))
    assert "not valid yet" in why(after=-dt.timedelta(hours=2))
    assert "another name" in why(names=["other.argosy.svc"])
    assert "another one's" in why(Pair(pair.certificate, other.key))
    assert "cannot be read" in why(Pair(b"no PEM", pair.key))
    assert "cannot be read" in why(Pair(pair.certificate, b"no PEM"))


def test_keys_are_not_shown():
    assert "PRIVATE" not in repr(certificates.make(NAMES, NOW))


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


def bundle(objects):
    return base64.b64decode(objects.api_service["spec"].get("caBundle", ""))


async def test_the_keeper_makes_a_certificate_has_it_trusted_and_leaves_it_alone(objects):
    keeper = Keeper(objects, SETTINGS, clock=lambda: NOW)
    await keeper.once()
    pair = pair_of(objects.secret)
    assert certificates.why_not(pair, NAMES, NOW) == ""
    assert bundle(objects) == pair.certificate
    assert [path.rpartition("/")[2] for path in objects.writes] == ["v1beta1.external.metrics.k8s.io", "metrics"]
    await Keeper(objects, SETTINGS, clock=lambda: NOW).once()  # another operator, later
    assert len(objects.writes) == 2
    assert objects.api_service["spec"]["service"] == {"namespace": "argosy", "name": "metrics"}


async def test_while_a_certificate_is_replaced_both_are_trusted(objects):
    clock = Clock()
    keeper = Keeper(objects, SETTINGS, clock=clock)
    await keeper.once()
    first = pair_of(objects.secret)
    clock.now += certificates.LIFE - certificates.RENEW_BEFORE + dt.timedelta(days=1)
    await keeper.once()
    second = pair_of(objects.secret)
    assert second != first
    assert bundle(objects) == second.certificate + first.certificate
    before = len(objects.writes)
    await keeper.once()  # others may serve the former one for a moment
    assert len(objects.writes) == before
    clock.now += certificates.LIFE - certificates.RENEW_BEFORE + dt.timedelta(days=1)
    await keeper.once()  # the first has ended by now
    assert bundle(objects) == pair_of(objects.secret).certificate + second.certificate


async def test_killed_between_trust_and_secret_the_next_keeper_goes_on(objects):
    keeper = Keeper(objects, SETTINGS, clock=lambda: NOW)
    write = objects.write

    async def fail(method, path, body):
        if "secrets" in path:
            raise WatchError(503, "away")
        return await write(method, path, body)

    objects.write = fail
    with pytest.raises(WatchError):
        await keeper.once()
    objects.write = write
    await Keeper(objects, SETTINGS, clock=lambda: NOW).once()
    assert bundle(objects) == pair_of(objects.secret).certificate


async def test_a_changed_bundle_and_a_broken_secret_are_put_right(objects):
    keeper = Keeper(objects, SETTINGS, clock=lambda: NOW)
    await keeper.once()
    objects.api_service["spec"]["caBundle"] = "bm8gUEVN"
    await keeper.once()
    assert bundle(objects) == pair_of(objects.secret).certificate
    objects.secret["data"]["tls.crt"] = "%%%"
    await keeper.once()
    assert bundle(objects) == pair_of(objects.secret).certificate


@pytest.mark.parametrize("service", [{"namespace": "keda", "name": "metrics"}, None])
async def test_somebody_elses_api_service_is_never_taken_over(objects, service, caplog):
    objects.api_service["spec"]["service"] = service
    for _ in range(3):
        await Keeper(objects, SETTINGS, clock=lambda: NOW).once()
    assert objects.writes == []
    assert "keda/metrics" in caplog.text or "the API server itself" in caplog.text
    assert "switch externalMetrics off" in caplog.text


# --- callers -------------------------------------------------------------------------------------------------------


class Bag:
    def __init__(self, **values):
        self._values = {name.replace("_", "-").lower(): value for name, value in values.items()}

    def getall(self, key, default=()):
        return self._values.get(key.lower(), default)

    def keys(self):
        return self._values.keys()


def peer(name="front-proxy"):
    return {"subject": ((("commonName", name),),)}


def test_a_caller_is_whom_the_api_server_names(authority):
    proxy = FrontProxy.from_config_map(authority.config_map())
    bag = Bag(
        X_Remote_User=["u"],
        X_Remote_Uid=["7"],
        X_Remote_Group=["a", "b"],
        X_Remote_Extra_Scopes=["x", "y"],
        Other=["z"],
    )
    assert caller(proxy, peer(), bag) == Caller("u", "7", ("a", "b"), (("scopes", ("x", "y")),))


@pytest.mark.parametrize(
    ("certificate", "headers", "says"),
    [
        (None, {"X_Remote_User": ["u"]}, "no client certificate"),
        ({}, {"X_Remote_User": ["u"]}, "no client certificate"),
        (peer("somebody"), {"X_Remote_User": ["u"]}, "not one of the API server's"),
        (peer(), {"X_Remote_Group": ["system:masters"]}, "for which user"),
        (peer(), {"X_Remote_User": [""]}, "for which user"),
    ],
)
def test_others_are_nobody(authority, certificate, headers, says):
    proxy = FrontProxy.from_config_map(authority.config_map())
    with pytest.raises(UnauthenticatedError, match=says):
        caller(proxy, certificate, Bag(**headers))


def test_without_allowed_names_any_certificate_of_the_authority_will_do(authority):
    proxy = FrontProxy.from_config_map(authority.config_map(names="[]"))
    assert caller(proxy, peer("somebody"), Bag(X_Remote_User=["u"])).user == "u"


@pytest.mark.parametrize("body", [{}, {"data": {}}, {"data": {"client-ca-file": "x"}}])
def test_a_cluster_without_an_aggregation_layer_is_told(body):
    with pytest.raises(ValueError, match="--requestheader-client-ca-file"):
        FrontProxy.from_config_map(body)


# --- reviews -------------------------------------------------------------------------------------------------------


async def test_what_is_asked_of_the_api_server_about_a_user(objects):
    clock = [0.0]
    asked = Reviews(objects, lambda: clock[0])
    user = Caller("u", "7", ("a",), (("example.org%2fscope", ("x",)),))
    await asked.check(user, namespace="default", metric="argosy-running")
    await asked.check(user, namespace="default", metric="argosy-running")
    await asked.check(Caller("v"), path="/apis")
    who = {"user": "u", "uid": "7", "groups": ["a"], "extra": {"example.org/scope": ["x"]}}
    what = {
        "namespace": "default", "verb": "list", "group": "external.metrics.k8s.io", "version": "v1beta1",
        "resource": "argosy-running",
    }  # fmt: skip
    assert objects.reviews == [
        who | {"resourceAttributes": what},
        {"user": "v", "groups": [], "nonResourceAttributes": {"path": "/apis", "verb": "get"}},
    ]
    clock[0] = reviews.GOOD_FOR_S + 1
    objects.may = lambda spec: False
    with pytest.raises(ForbiddenError, match=r"may not list argosy-running\.external"):
        await asked.check(user, namespace="default", metric="argosy-running")


async def test_without_an_answer_nobody_is_let_in():
    class Away:
        async def write(self, method, path, document):
            raise WatchError(0, "away")

    with pytest.raises(UnavailableError):
        await Reviews(Away()).check(Caller("u"), path="/apis")


# --- the server ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(objects, serve, teller):
    """(port, certificate): the server with routers that tell what `teller` says."""
    await Keeper(objects, SETTINGS).once()
    listening = net.listen("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        routers = Routers(session, await teller.url(serve), lambda _: None)
        found = MetricsServer(objects, SETTINGS, Source(routers), listening)
        tasks = [asyncio.create_task(work) for work in (routers.run(), found.run())]
        await eventually(lambda: routers.told("default", "m"), what="routers are asked")
        try:
            yield listening.getsockname()[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listening.close()


@pytest.fixture
def proxy(authority, tmp_path):
    return authority.client(tmp_path, "front-proxy")


async def test_values_and_discovery_as_the_api_server_asks_for_them(objects, serve, proxy):
    async with served(objects, serve, Teller(routes(LOAD, LOAD))) as port:
        trust = pair_of(objects.secret).certificate

        async def get(path, **headers):
            return await ask(port, path, trust=trust, client=proxy, headers=headers)

        status, _, found = await get(QUEUE)
        assert (status, found["kind"], found["apiVersion"]) == (
            200, "ExternalMetricValueList", "external.metrics.k8s.io/v1beta1",
        )  # fmt: skip
        (item,) = found["items"]
        assert (item["metricName"], item["metricLabels"], item["value"]) == (
            "argosy-queue-seconds", {"deployment": "m"}, "3",
        )  # fmt: skip
        measured = dt.datetime.fromisoformat(item["timestamp"])
        assert dt.timedelta(0) < dt.datetime.now(dt.UTC) - measured < dt.timedelta(seconds=30)
        status, _, found = await get(ROOT)
        assert (status, found["kind"], found["groupVersion"]) == (
            200, "APIResourceList", "external.metrics.k8s.io/v1beta1",
        )  # fmt: skip
        assert {"argosy-queue-seconds", "argosy-ttft-seconds"} <= {r["name"] for r in found["resources"]}
        status, _, found = await get("/apis/external.metrics.k8s.io")
        assert (status, found["kind"], found["name"]) == (200, "APIGroup", "external.metrics.k8s.io")
        status, _, found = await get("/apis")
        assert (status, found["kind"], found["groups"][0]["name"]) == (200, "APIGroupList", "external.metrics.k8s.io")
        wanted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        status, kind, found = await get("/apis", Accept=wanted)
        assert (status, kind, found["kind"]) == (200, wanted, "APIGroupDiscoveryList")
        status, _, found = await get("/openapi/v3")
        assert (status, found["kind"], found["reason"]) == (404, "Status", "NotFound")


async def test_what_cannot_be_answered_is_an_error_and_never_a_number(objects, serve, proxy):
    teller = Teller(routes(LOAD, old(LOAD)))
    async with served(objects, serve, teller) as port:
        trust = pair_of(objects.secret).certificate

        async def get(path):
            status, _, found = await ask(port, path, trust=trust, client=proxy)
            assert found["kind"] == "Status" or status == 200
            return status, found.get("reason", ""), found.get("message", "")

        status, reason, message = await get(QUEUE)
        assert (status, reason) == (503, "ServiceUnavailable")
        assert "not every router and worker tells" in message
        assert (await get(QUEUE.partition("?")[0]))[:2] == (400, "BadRequest")
        assert (await get(QUEUE.replace("argosy-queue", "queue")))[:2] == (404, "NotFound")
        assert (await get(QUEUE.replace("%3Dm", "%3Dother")))[:2] == (404, "NotFound")
        objects.may = lambda spec: spec["user"] != "hpa"
        other = QUEUE.replace("default", "elsewhere")  # nothing about it was asked yet
        assert (await get(other))[:2] == (403, "Forbidden")


async def test_nobody_but_the_api_server_gets_as_far_as_a_request(objects, serve, proxy, authority, tmp_path):
    async with served(objects, serve, Teller(routes(LOAD))) as port:
        trust = pair_of(objects.secret).certificate
        for client in (None, Authority().client(tmp_path, "stranger")):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await ask(port, QUEUE, trust=trust, client=client)
        named = authority.client(tmp_path, "another")  # signed by the right authority, for somebody else
        status, _, found = await ask(port, QUEUE, trust=trust, client=named)
        assert (status, found["reason"]) == (401, "Unauthorized")
        assert objects.reviews == []
        assert (await ask(port, QUEUE, trust=trust, client=proxy))[0] == 200


async def test_a_new_certificate_and_a_new_authority_are_served_without_a_restart(
    objects, serve, proxy, tmp_path, monkeypatch
):
    monkeypatch.setattr(server, "LOOK_S", 0.05)
    async with served(objects, serve, Teller(routes(LOAD))) as port:
        former = pair_of(objects.secret).certificate
        fresh, authority = certificates.make(NAMES, dt.datetime.now(dt.UTC)), Authority()
        objects.secret["data"] = {
            "tls.crt": base64.b64encode(fresh.certificate).decode(),
            "tls.key": base64.b64encode(fresh.key).decode(),
        }
        objects.objects[server.CONFIG_PATH] = authority.config_map()
        client = authority.client(tmp_path, "front-proxy")
        renewed = tmp_path / "front-proxy.pem"
        assert client == renewed

        async def is_new():
            with contextlib.suppress(aiohttp.ClientError):
                return (await ask(port, QUEUE, trust=fresh.certificate, client=client))[0] == 200

        async with asyncio.timeout(30):
            while not await is_new():
                await asyncio.sleep(0.02)
        with pytest.raises(aiohttp.ClientError):
            await ask(port, QUEUE, trust=former, client=client)
        objects.secret["data"]["tls.key"] = "bm8ga2V5"  # somebody breaks it: what was goes on
        looks = objects.reads
        await eventually(lambda: objects.reads > looks + 4, what="the server has seen it")
        assert await is_new()


# --- the whole operator --------------------------------------------------------------------------------------------

CONFIG_MAPS = Gvr("", "v1", "configmaps")
API_SERVICES = Gvr("apiregistration.k8s.io", "v1", "apiservices")


def prepare(world, authority) -> tuple[Key, Key]:
    """What the API server and the chart make; keys of Secret and APIService."""
    world.server.add(*CONFIG_MAPS, "ConfigMap")
    world.server.add(*API_SERVICES, "APIService", namespaced=False)
    world.server.add("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
    config = Key(CONFIG_MAPS, "kube-system", "extension-apiserver-authentication")
    world.server.create(config, authority.config_map())
    secret, service = Key(SECRETS, "argosy", "metrics"), Key(API_SERVICES, None, "v1beta1.external.metrics.k8s.io")
    world.server.create(secret, {"type": "Opaque"})
    spec = {"group": "external.metrics.k8s.io", "service": {"namespace": "argosy", "name": "metrics"}}
    world.server.create(service, {"spec": spec})
    return secret, service


async def test_both_of_two_operators_answer_by_one_certificate(world, serve, authority, proxy):
    secret, service = prepare(world, authority)
    url = await Teller(routes(LOAD)).url(serve)
    ports, operators = [], []
    for name in "ab":
        with net.listen("127.0.0.1", 0) as free:
            ports.append(free.getsockname()[1])
        settings = ExternalMetrics(namespace="argosy", service="metrics", secret="metrics", port=ports[-1])
        lease = LeaseTerms(namespace="argosy", name="operator", identity=name, duration_s=5)
        operators.append(await world.operator(external_metrics=settings, router_status_url=url, lease=lease))

    def bundle():
        return base64.b64decode(world.server.objects[service]["spec"].get("caBundle", ""))

    await eventually(bundle, what="the APIService has a certificate to trust")
    await eventually(lambda: pair_of(world.server.objects[secret]), what="the Secret has it")
    for port in ports:

        async def answers(port=port):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                return (await ask(port, QUEUE, trust=bundle(), client=proxy))[0] == 200

        async with asyncio.timeout(30):
            while not await answers():
                await asyncio.sleep(0.05)
    world.apply(document())
    await eventually(lambda: world.child(DEPLOYMENTS), what="and it operates as ever")
    before = pair_of(world.server.objects[secret])
    leader = next(o for o in operators if o.metrics.leader._value.get())
    await world.stop(leader)
    left = ports[1 - operators.index(leader)]
    assert (await ask(left, QUEUE, trust=bundle(), client=proxy))[0] == 200
    assert pair_of(world.server.objects[secret]) == before
