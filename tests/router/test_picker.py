"""The endpoint picker behind a real Envoy."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest
from access_kit import Access, bearer
from authority import Authority, MountedSecret
from envoy_kit import running_envoy
from grpc_health.v1 import health_pb2, health_pb2_grpc
from reserved import free_port
from router_kit import FakeWorker, encode
from waiting import eventually

from argosy_api.extproc import extproc_pb2 as pb
from argosy_router.fronts.picker_messages import METHOD

MODES = ["FULL_DUPLEX_STREAMED", "BUFFERED"]


def ask(text, **more):
    return {"model": "m", "prompt": text, "max_tokens": 4, **more}


class Site:
    """Two routers over the same two workers; the first is also the picker."""

    def __init__(self, rigs, gateway, session):
        self.rigs = rigs
        self.gateway = gateway
        self.http = session
        self.workers = rigs[0].workers

    @property
    def picker(self):
        return self.rigs[0].router

    async def post(self, json=None, path="/v1/completions", **more):
        async with self.http.post(self.gateway + path, json=json, **more) as response:
            return response, await response.read()

    def served(self):
        """Requests that each router has answered."""
        return [
            sum(
                sample.value
                for metric in rig.router.metrics.requests.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
            )
            for rig in self.rigs
        ]


@pytest.fixture
def make_site(make_rig, tmp_path):
    @asynccontextmanager
    async def make(*, subset=None, settings=None, **envoy):
        ports = [free_port(), free_port()]
        places = tuple(("127.0.0.1", port) for port in ports)
        rigs = [
            await make_rig(http_port=port, picker_port=0, picker_routers=places, **(settings or {})) for port in ports
        ]
        await rigs[0].add(FakeWorker(worker_id="w0"), FakeWorker(worker_id="w1"))
        rigs[1].workers = rigs[0].workers
        rigs[1].announce()
        await rigs[1].until_ready(2)
        for rig in rigs:
            await rig.until_indexed()
        chosen = None if subset is None else [f"127.0.0.1:{ports[i]}" for i in subset]
        async with (
            aiohttp.ClientSession() as session,
            running_envoy(tmp_path, rigs[0].router.picker_port, ports, subset=chosen, **envoy) as gateway,
        ):
            yield Site(rigs, gateway, session)
        rigs[1].workers = []

    return make


@pytest.mark.parametrize("mode", MODES)
async def test_requests_go_by_their_prefix_to_one_worker_and_its_router(make_site, mode):
    async with make_site(mode=mode) as site:
        texts = [f"{i} {'the same beginning of many questions ' * 4}" for i in range(6)]
        homes = {}
        for turn in range(4):
            for text in texts:
                before = site.served()
                response, body = await site.post(ask(f"{text} question {turn}"))
                assert response.status == 200, body
                router = [i for i, (a, b) in enumerate(zip(before, site.served(), strict=True)) if a != b]
                homes.setdefault(text, set()).add((response.headers["x-argosy-worker"], *router))
                assert response.headers["x-argosy-decision"].startswith("picker:picked")
                for rig in site.rigs:
                    await rig.until_indexed()
        assert all(len(found) == 1 for found in homes.values()), homes
        pairs = {next(iter(found)) for found in homes.values()}
        assert len(pairs) == 2, "each worker has a router of its own"
        assert {router for _, router in pairs} == {0, 1}


@pytest.mark.parametrize("mode", MODES)
async def test_a_body_in_many_pieces_comes_whole(make_site, mode):
    text = "a long prompt " * 200
    raw = b" " * 300_000 + json.dumps(ask(text)).encode()

    async def pieces():
        for at in range(0, len(raw), 997):
            yield raw[at : at + 997]

    async with make_site(mode=mode) as site:
        response, body = await site.post(None, data=pieces(), headers={"content-type": "application/json"})
        assert response.status == 200, body
        (request,) = [r for w in site.workers for r in w.requests]
        assert list(request.prompt_tokens) == encode(text)


@pytest.mark.parametrize("mode", MODES)
async def test_streams_pass_whole(make_site, mode):
    async with make_site(mode=mode) as site:
        whole, _ = await site.post(ask("tell me", max_tokens=40))
        response, body = await site.post(ask("tell me", max_tokens=40, stream=True))
        events = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
        assert whole.status == response.status == 200
        assert events[-1] == "[DONE]"
        text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
        assert text == json.loads(_)["choices"][0]["text"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        (ask("x", temperature=-1), 400, "temperature"),
        (ask("x", max_tokens="many"), 400, "max_tokens"),
        (ask("x" * 5000), 400, "prompt"),
        ({"model": "another", "prompt": "x"}, 404, "model"),
        ([], 400, "body"),
    ],
)
async def test_a_bad_request_is_refused_in_the_routers_words(make_site, mode, request_, status, param):
    async with make_site(mode=mode) as site:
        response, body = await site.post(request_)
        direct, said = await site.rigs[1].post("/v1/completions", request_)
        assert (response.status, json.loads(body)) == (direct.status, json.loads(said))
        assert response.status == status
        assert json.loads(body)["error"]["param"] == param
        assert response.headers["content-type"] == direct.headers["content-type"]
        assert site.served() == [0, 1], "no router was bothered with it by the gateway"


async def test_other_dialects_are_picked_for_too_and_refused_in_their_words(make_site):
    async with make_site() as site:
        response, body = await site.post({"model": "m", "input": "hello", "max_output_tokens": 4}, path="/v1/responses")
        assert response.status == 200, body
        assert response.headers["x-argosy-decision"].startswith("picker:picked")
        wrong = {"model": "m", "input": "x" * 5000}
        response, body = await site.post(wrong, path="/v1/responses")
        direct, said = await site.rigs[1].post("/v1/responses", wrong)
        assert (response.status, json.loads(body)) == (direct.status, json.loads(said)) == (400, json.loads(said))


async def test_anthropics_messages_are_picked_for_with_their_key_and_refused_in_their_words(make_site, tmp_path):
    access = Access(tmp_path)
    own = {"x-api-key": access.key("team-a"), "x-request-id": "mine"}
    async with make_site(settings=access.settings) as site:
        right = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
        response, body = await site.post(right, path="/v1/messages", headers=own)
        assert response.status == 200, body
        assert response.headers["x-argosy-decision"].startswith("picker:picked")
        for wrong in ({**right, "max_tokens": 0}, {**right, "model": "another"}):
            response, body = await site.post(wrong, path="/v1/messages", headers=own)
            direct, said = await site.rigs[1].post("/v1/messages", wrong, headers=own)
            assert (response.status, json.loads(body)) == (direct.status, json.loads(said))
            assert json.loads(body)["type"] == "error"
        response, body = await site.post(right, path="/v1/messages", headers={"x-api-key": "none"})
        assert (response.status, json.loads(body)["error"]["type"]) == (401, "authentication_error")


async def test_ollamas_clients_are_picked_for_and_refused_in_its_words(make_site):
    """By the names that they have for models; one who only wants a model to be there goes to any router."""
    async with make_site() as site:
        hello = {"messages": [{"role": "user", "content": "hello"}], "options": {"num_predict": 2}, "stream": False}
        for path, asked in (
            ("/api/chat", hello),
            ("/api/generate", {"prompt": "hello", "options": {"num_predict": 2}, "stream": False}),
        ):
            for model in ("m", "m:latest"):
                response, body = await site.post({**asked, "model": model}, path=path)
                assert response.status == 200, body
                assert response.headers["x-argosy-decision"].startswith("picker:picked")
        response, body = await site.post({"model": "m"}, path="/api/generate")
        assert (response.status, json.loads(body)["done_reason"]) == (200, "load")
        for wrong in ({**hello, "model": "another:latest"}, {**hello, "model": "m", "options": {"num_predict": "two"}}):
            before = site.served()
            response, body = await site.post(wrong, path="/api/chat")
            assert site.served() == before, "no router was bothered with it by the gateway"
            direct, said = await site.rigs[1].post("/api/chat", wrong)
            assert (response.status, json.loads(body)) == (direct.status, json.loads(said))
            assert set(json.loads(body)) == {"error"}


async def test_too_much_is_refused_before_it_is_all_there(make_site):
    async with make_site() as site:
        response, body = await site.post(None, data=b" " * 11_000_000, headers={"content-type": "application/json"})
        assert response.status == 413
        assert json.loads(body)["error"]["param"] == "body"
        await eventually(lambda: site.picker.service.admission.held == 0, what="nothing of it is held")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails_open", [True, False])
async def test_a_picker_that_is_gone_fails_as_configured(make_site, mode, fails_open):
    async with make_site(mode=mode, fails_open=fails_open) as site:
        assert (await site.post(ask("before")))[0].status == 200
        await site.picker._picker.stop()
        forged = {"x-gateway-destination-endpoint": "127.0.0.1:1"}

        async def passes():
            return (await site.post(ask("after"), headers=forged))[0].status == 200

        if fails_open:  # in full duplex Envoy must know that nobody is there before it has sent the body
            await eventually(passes, what="Envoy goes by itself")
        before = site.served()
        for i in range(6):
            response, body = await site.post(ask(f"after {i}"), headers=forged)
            if fails_open:
                assert response.status == 200, body
                assert not response.headers["x-argosy-decision"].startswith("picker")
            else:
                assert response.status in (500, 503)
        assert [a - b for a, b in zip(site.served(), before, strict=True)] == ([3, 3] if fails_open else [0, 0])


async def test_only_what_the_gateway_allows_is_picked(make_site):
    for subset in ([0], [1]):
        async with make_site(subset=subset) as site:
            for i in range(6):
                response, _ = await site.post(ask(f"{i} prompt of its own"))
                assert response.status == 200
            assert site.served() == [6 if i in subset else 0 for i in range(2)]


async def test_where_nothing_is_allowed_nobody_is_picked(make_site):
    async with make_site(subset=[]) as site:
        response, body = await site.post(ask("x"))
        assert (response.status, json.loads(body)["error"]["code"]) == (503, "Unavailable")
        assert site.served() == [0, 0]


async def test_a_gateway_asks_over_tls_with_a_certificate_of_its_own(make_site, tmp_path):
    servers, gateways = Authority("CN=servers"), Authority("CN=gateways")
    secret = MountedSecret(tmp_path / "picker-tls")
    secret.pair(servers, "picker")
    trusted, callers = tmp_path / "servers.pem", tmp_path / "gateways.pem"
    trusted.write_text(servers.pem)
    callers.write_text(gateways.pem)
    own = gateways.client(tmp_path, "gateway")
    settings = {"picker_tls": str(secret.path), "picker_tls_clients": str(callers)}
    async with make_site(settings=settings, picker_tls=(trusted, own)) as site:
        response, body = await site.post(ask("a prompt"))
        assert response.status == 200, body
        assert response.headers["x-argosy-decision"].startswith("picker:picked")
        target = f"127.0.0.1:{site.picker.picker_port}"
        for credentials in (None, grpc.ssl_channel_credentials(servers.pem.encode())):
            channel = (
                grpc.aio.insecure_channel(target)
                if credentials is None
                else grpc.aio.secure_channel(target, credentials)
            )
            async with channel:
                call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_what_has_no_prompt_goes_to_any_router(make_site):
    async with make_site() as site:
        async with site.http.get(f"{site.gateway}/v1/models") as response:
            assert (response.status, (await response.json())["data"][0]["id"]) == (200, "m")
        response, _ = await site.post({}, path="/v1/unknown")
        assert response.status == 404


async def test_tenants_are_known_and_strangers_refused(make_site, tmp_path):
    access = Access(tmp_path)
    key = access.key("team-a")
    async with make_site(settings=access.settings) as site:
        response, body = await site.post(ask("x"))
        assert (response.status, json.loads(body)["error"]["code"]) == (401, "Unauthenticated")
        assert site.served() == [0, 0]
        text = "a prompt of several blocks that is asked again " * 2
        for _ in range(2):
            response, body = await site.post(ask(text), headers=bearer(key))
            assert response.status == 200, body
            await site.rigs[0].until_indexed()
        assert json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        (worker,) = [w for w in site.workers if w.requests]
        assert len(worker.requests) == 2


async def test_without_a_worker_the_request_still_finds_its_router(make_site):
    async with make_site() as site:
        site.rigs[0].cluster.announce()
        site.rigs[1].cluster.announce()
        await eventually(lambda: not site.rigs[0].state.workers and not site.rigs[1].state.workers)
        response, body = await site.post(ask("x"))
        assert response.status == 503
        assert "no ready worker" in json.loads(body)["error"]["message"]
        assert sum(site.served()) == 1


async def test_picks_spread_a_burst_and_leave_nothing(make_site):
    async with make_site() as site:
        for worker in site.workers:
            worker.script.hang_accepted = True
        # so long that nothing in front of a sibling is as long, however slowly the burst comes
        text = "one beginning that all of them share " * 22
        asked = [asyncio.create_task(site.post(ask(f"{text}{i}"))) for i in range(8)]
        await eventually(lambda: sum(len(w.requests) for w in site.workers) == 8, what="the siblings are at workers")
        assert sorted(len(w.requests) for w in site.workers) == [0, 8], "they wait for their beginning at one worker"
        others = [asyncio.create_task(site.post(ask(f"{i} another one " * 20))) for i in range(8)]
        await eventually(lambda: sum(len(w.requests) for w in site.workers) == 16, what="all are at workers")
        assert all(w.requests for w in site.workers)
        for worker in site.workers:
            worker.script.release.set()
        assert {r.status for r, _ in await asyncio.gather(*asked, *others)} == {200}
        await eventually(lambda: all(rig.idle() and not len(rig.router.service._picks) for rig in site.rigs))


async def test_the_protocol_without_a_gateway(make_rig):
    """What an Envoy does not do by itself: no word of modes, trailers after the body, a stream that only looks on."""
    rig = await make_rig(picker_port=0, picker_routers=(("127.0.0.1", 7), ("127.0.0.1", 8)))
    await rig.add(FakeWorker())

    def headers(**more):
        given = {":method": "POST", ":path": "/v1/completions"}
        listed = [pb.HeaderValue(key=k, raw_value=v.encode()) for k, v in given.items()]
        return pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=listed)), **more)

    body = json.dumps(ask("hello")).encode()
    trailers = pb.ProcessingRequest(request_trailers=pb.HttpTrailers())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.picker_port}") as channel:
        method = channel.stream_stream(
            METHOD,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        said = [
            response
            async for response in method(
                iter([headers(), pb.ProcessingRequest(request_body=pb.HttpBody(body=body[:9])),
                      pb.ProcessingRequest(request_body=pb.HttpBody(body=body[9:])), trailers])
            )
        ]  # fmt: skip
        assert [r.WhichOneof("response") for r in said] == ["request_headers", "request_body", "request_trailers"]
        (destination, pick) = said[0].request_headers.response.header_mutation.set_headers
        assert set(destination.header.raw_value.decode().split(",")) == {"127.0.0.1:7", "127.0.0.1:8"}
        assert (
            destination.header.raw_value.decode()
            == said[0].dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"]
        )
        assert pick.header.raw_value.endswith(b";w0")
        streamed = said[1].request_body.response.body_mutation.streamed_response
        assert (streamed.body, streamed.end_of_stream) == (body, False)
        assert [r async for r in method(iter([headers(observability_mode=True)]))] == []
    await eventually(rig.idle, what="what was picked and never came counts no more")
