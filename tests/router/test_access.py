"""Who may ask: every method of every front, with no credential, a bad one, a tenant's and an admin's."""

import asyncio
import contextlib
import json

import grpc
import pytest
from access_kit import AUDIENCE, ISSUER, Access, Signer, bearer, key_set
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from router_kit import FakeWorker, events_of
from waiting import eventually

from argosy_api.access import parse
from argosy_api.errors import InvalidArgumentError, UnauthenticatedError
from argosy_api.inference import inference_pb2 as oip
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.app import SERVICES
from argosy_router.tenants.tenant import ANYBODY, Tenant

PROMPT = "the same words for everybody, long enough for several blocks of the cache to be filled with them"
HI = [{"role": "user", "content": "hi"}]
OPEN_GRPC = {
    "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady",
}  # fmt: skip
UNSERVED = {"/grpc.health.v1.Health/List"}
"""grpcio-health-checking describes it, and serves it in its synchronous server only."""
OPEN_HTTP = {"/health", "/ready", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/page/here.json"}
OF_THE_PAGE = {"/page/{name}", "/fleet", "/fleet/kill", "/fleet/requests/{id}", "/metrics"}
"""With rules of their own: test_page.py and test_metrics.py."""


def grpc_methods() -> dict[str, tuple[bool, bool]]:
    """Every method that the router serves, from the descriptors: whether its requests, its answers are streams."""
    from argosy_api.inference import inference_pb2
    from argosy_api.v1 import worker_pb2

    files = (worker_pb2, inference_pb2, health_pb2, reflection_pb2)
    found = {}
    for file in files:
        for service in file.DESCRIPTOR.services_by_name.values():
            if service.full_name in (*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"):
                for method in service.methods:
                    name = f"/{service.full_name}/{method.name}"
                    found[name] = (method.client_streaming, method.server_streaming)
    return found


METHODS = grpc_methods()


def message(method: str) -> bytes:
    name = method.rsplit("/", 1)[1]
    infer = oip.ModelInferRequest(model_name="m")
    tensor = infer.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"hello")
    made = {
        "Generate": pb.InferenceRequest(model="m", text="hello", sampling=pb.SamplingParams(max_tokens=2)),
        "ModelInfer": infer,
        "ModelStreamInfer": infer,
        "ModelReady": oip.ModelReadyRequest(name="m"),
        "ModelMetadata": oip.ModelMetadataRequest(name="m"),
        "ModelConfig": oip.ModelConfigRequest(name="m"),
        "ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services=""),
    }
    return made[name].SerializeToString() if name in made else b""


async def call(channel: grpc.aio.Channel, method: str, credential: str | None) -> grpc.StatusCode:
    """The code that one call ends with; of a stream that goes on after its first answer: OK."""
    requests_stream, answers_stream = METHODS[method]
    metadata = () if credential is None else (("authorization", f"Bearer {credential}"),)

    async def requests():
        yield message(method)

    kind = f"{'stream' if requests_stream else 'unary'}_{'stream' if answers_stream else 'unary'}"
    made = getattr(channel, kind)(method)
    running = made(requests() if requests_stream else message(method), metadata=metadata, timeout=20)
    try:
        if answers_stream:
            first = await running.read()
            return await running.code() if first is grpc.aio.EOF else grpc.StatusCode.OK
        await running
    except grpc.aio.AioRpcError as error:
        return error.code()
    else:
        return grpc.StatusCode.OK
    finally:
        running.cancel()


@contextlib.asynccontextmanager
async def channel_to(rig):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        yield channel


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path, tenants={"team-a": {}})


@pytest.fixture
async def closed(make_rig, access):
    """A router that asks for credentials, and credentials of each kind."""
    access.credentials = {
        "none": None,
        "bad": "argosy-0123456789ab-" + "0" * 48,
        "tenant": access.key("team-a"),
        "admin": access.key("ops", admin=True),
    }
    rig = await make_rig(**access.settings, decision_headers=False)
    await rig.add(FakeWorker(worker_id="w0"))
    return rig


WHO = ("none", "bad", "tenant", "admin")


@pytest.mark.parametrize("who", WHO)
async def test_every_method_of_grpc(closed, access, who):
    async with channel_to(closed) as channel:
        for method in METHODS:
            code = await call(channel, method, access.credentials[who])
            let_in = who in ("tenant", "admin") or method in OPEN_GRPC
            inside = grpc.StatusCode.UNIMPLEMENTED if method in UNSERVED else grpc.StatusCode.OK
            assert (method, code) == (method, inside if let_in else grpc.StatusCode.UNAUTHENTICATED)
        unknown = channel.unary_unary("/argosy.v1.Inference/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"", metadata=tuple(bearer(access.credentials[who] or "-").items()))
        known = who in ("tenant", "admin")
        assert caught.value.code() == (grpc.StatusCode.UNIMPLEMENTED if known else grpc.StatusCode.UNAUTHENTICATED)


BODIES = {
    "/v1/completions": {"model": "m", "prompt": "hello", "max_tokens": 2},
    "/v1/chat/completions": {"model": "m", "messages": HI, "max_tokens": 2},
    "/v1/responses": {"model": "m", "input": "hi", "max_output_tokens": 2},
    "/tokenize": {"model": "m", "prompt": "hello"},
    "/detokenize": {"model": "m", "tokens": [1, 2]},
    "/v1/messages": {"model": "m", "messages": HI, "max_tokens": 2},
    "/v1/messages/count_tokens": {"model": "m", "messages": HI},
    "/v1/embeddings": {"model": "m", "input": "hi"},
    "/api/show": {"model": "m"},
    "/api/embed": {"model": "m", "input": "hi"},
    "/api/embeddings": {"model": "m", "prompt": "hi"},
    "/api/chat": {"model": "m", "messages": HI, "options": {"num_predict": 2}},
    "/api/generate": {"model": "m", "prompt": "hi", "options": {"num_predict": 2}},
    "/v2/repository/index": {},
    **{
        f"/v2/models/{{model}}{version}/{name}": body
        for version in ("", "/versions/{version}")
        for name, body in {
            "infer": {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["hi"]}]},
            "generate": {"text_input": "hi", "parameters": {"max_tokens": 2}},
            "generate_stream": {"text_input": "hi", "parameters": {"max_tokens": 2}},
        }.items()
    },
}
"""What each path that takes a body is asked with."""


def credential(scheme: str, key: str | None) -> dict[str, str]:
    """As a client sends it: OpenAI's in one header, Anthropic's in another."""
    if key is None:
        return {}
    return bearer(key) if scheme == "authorization" else {scheme: key}


@pytest.mark.parametrize("scheme", ["authorization", "x-api-key"])
@pytest.mark.parametrize("who", WHO)
async def test_every_route_of_http(closed, access, who, scheme):
    routes = [
        (route.method, resource.canonical)
        for resource in closed.router._runners[1].app.router.resources()
        for route in resource
        if resource.canonical not in OF_THE_PAGE
    ]
    assert {path for _, path in routes} >= {"/health", "/ready", "/v1/models", "/v1/chat/completions"}
    headers = credential(scheme, access.credentials[who])
    assert {path for method, path in routes if method == "POST"} == set(BODIES)
    for method, path in routes:
        url = closed.base + path.replace("{model}", "m").replace("{version}", "1")
        async with closed.http.request(method, url, json=BODIES.get(path), headers=headers) as answer:
            let_in = who in ("tenant", "admin") or path in OPEN_HTTP
            assert (path, answer.status) == (path, 200 if let_in else 401)
            if not let_in:
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    error = (await answer.json())["error"]
                    plain = path.startswith(("/api/", "/v2"))
                    assert "credential" in (error if plain else error["message"])
                    assert plain or error["type"] == "authentication_error"
    async with closed.http.get(closed.base + "/nowhere", headers=headers) as answer:
        assert answer.status == (404 if who in ("tenant", "admin") else 401)


async def test_two_credentials_at_once_count_for_none(closed, access):
    key = access.credentials["tenant"]
    headers = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
    for given in (headers, [headers[0], ("x-api-key", key)], [("x-api-key", key), ("x-api-key", key)]):
        async with closed.http.get(closed.base + "/v1/models", headers=given) as answer:
            assert answer.status == 401
    async with channel_to(closed) as channel:
        generate = channel.unary_stream("/argosy.v1.Inference/Generate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(message("/argosy.v1.Inference/Generate"), metadata=headers).read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def ask(rig, key: str, prompt: str = PROMPT, **more):
    body = {"model": "m", "prompt": prompt, "max_tokens": 2, **more}
    answer, raw = await rig.post("/v1/completions", json=body, headers=bearer(key))
    assert answer.status == 200, raw
    return answer, json.loads(raw)


def cached(document) -> int:
    return document["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_tenants_share_no_block_no_index_entry_and_hear_nothing_of_each_other(make_rig, access):
    one, other = access.key("one"), access.key("other")
    rig = await make_rig(**access.settings, decision_headers=False)
    worker = FakeWorker(worker_id="w0")
    await rig.add(worker)
    _, first = await ask(rig, one)
    of_one = set(worker.cached)
    _, again = await ask(rig, one)
    assert (cached(first), cached(again) > 0) == (0, True)
    await rig.until_indexed()
    answer, theirs = await ask(rig, other)
    assert cached(theirs) == 0
    assert not {name for name in answer.headers if name.lower().startswith("x-argosy-cached")}
    assert "x-argosy-decision" not in answer.headers
    of_other = worker.cached - of_one
    assert len(of_other) == len(of_one)
    await rig.until_indexed()
    index = rig.state.index
    salts = {request.cache_salt for request in worker.requests}
    assert len(salts) == 2
    tokens = list(worker.requests[0].prompt_tokens)
    ids_of_one, ids_of_other = (
        worker.ids(tokens, salt) for salt in (worker.requests[0].cache_salt, worker.requests[-1].cache_salt)
    )
    assert not set(ids_of_one) & set(ids_of_other)
    assert index.holds("w0", ids_of_one)
    assert index.holds("w0", ids_of_other)
    # a salt of one's own choice is one's own, too: nobody gets at another's by it
    for salt in ("", "x", worker.requests[0].cache_salt):
        _, document = await ask(rig, other, cache_salt=salt)
        assert (salt, cached(document)) == (salt, cached(again) if not salt else 0)


async def test_a_resource_may_say_that_all_share(make_rig, access):
    from dataclasses import replace

    one, other = access.key("one"), access.key("other")
    rig = await make_rig(**access.settings)
    await rig.add(FakeWorker(worker_id="w0"))
    rig.state.spec = replace(rig.state.spec, share_cache=True)
    await ask(rig, one)
    _, document = await ask(rig, other)
    assert cached(document) > 0


async def test_only_an_admin_is_told_why_and_priority_is_clamped(closed, access):
    answer, _ = await ask(closed, access.credentials["admin"], priority=9)
    assert "x-argosy-decision" in answer.headers
    answer, _ = await ask(closed, access.credentials["tenant"], priority=-3)
    assert "x-argosy-decision" not in answer.headers
    assert [request.priority for request in closed.workers[0].requests] == [0, -3]


async def test_an_answer_of_one_tenant_does_not_go_on_for_another(closed, access):
    """Not by its resume token, either: whose prompt it was is in the digest."""
    async with channel_to(closed) as channel:
        generate = channel.unary_stream(
            "/argosy.v1.Inference/Generate",
            request_serializer=pb.InferenceRequest.SerializeToString,
            response_deserializer=pb.GenerateChunk.FromString,
        )
        request = pb.InferenceRequest(model="m", text="hello", sampling=pb.SamplingParams(max_tokens=6))
        first = await generate(request, metadata=tuple(bearer(access.credentials["tenant"]).items())).read()
        request.resume.token = first.resume_token
        request.resume.tokens.extend(first.token_ids)
        request.resume.attempt = first.attempt
        request.resume.text_bytes = len(first.text.encode())
        running = generate(request, metadata=tuple(bearer(access.credentials["tenant"]).items()))
        assert (await running.read()).index == len(first.token_ids)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(request, metadata=tuple(bearer(access.credentials["admin"]).items())).read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_keys_come_and_go_with_their_files(make_rig, access):
    rig = await make_rig(**access.settings)
    await rig.add(FakeWorker(worker_id="w0"))

    async def status(key: str) -> int:
        return (
            await rig.post("/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 1}, headers=bearer(key))
        )[0].status

    async def becomes(key: str, wanted: int) -> None:
        async with asyncio.timeout(30):
            while await status(key) != wanted:
                await asyncio.sleep(0.05)

    old = access.key("one")
    (access.keys / "broken").write_text("{")
    await becomes(old, 200)
    new = access.key("one")
    await becomes(new, 200)
    assert await status(old) == 200  # both, while clients change over
    (access.keys / old.split("-")[1]).unlink()
    await becomes(old, 401)
    assert await status(new) == 200
    access.write(required="perhaps")  # a wrong document changes nothing
    await eventually(lambda: rig.router._access._told, what="the wrong document is noticed")
    assert (await status(new), await status(old)) == (200, 401)
    access.write(required=False)
    await becomes(old, 200)


async def test_tokens_of_an_issuer(make_rig, access, tmp_path):
    signer = Signer("EC")
    (tmp_path / "keys.json").write_text(key_set(signer))
    access.write(issuers=[{"issuer": ISSUER, "audience": AUDIENCE, "jwksFile": str(tmp_path / "keys.json")}])
    rig = await make_rig(**access.settings)
    await rig.add(FakeWorker(worker_id="w0"))
    await ask(rig, signer.token())
    answer, _ = await rig.post(
        "/v1/completions", json={"model": "m", "prompt": "x"}, headers=bearer(Signer("EC").token())
    )
    assert answer.status == 401


async def test_our_client_brings_its_key(closed, access):
    from argosy import AsyncClient

    address = f"127.0.0.1:{closed.router.grpc_port}"
    async with AsyncClient(address, api_key=access.credentials["tenant"]) as client:
        assert (await client.complete("m", "hello")).usage.completion_tokens == 16
    async with AsyncClient(address) as client:
        with pytest.raises(UnauthenticatedError):
            await client.complete("m", "hello")


async def test_where_none_is_asked_for_a_credential_changes_nothing(rig):
    """OpenAI's clients send one always."""
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 2, "stream": True}
    answer, raw = await rig.post("/v1/completions", json=body, headers=bearer("anything"))
    assert answer.status == 200
    assert events_of(raw)
    assert {request.cache_salt for worker in rig.workers for request in worker.requests} == {""}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[]", "access"),
        ("a: b: c", "access"),
        ("require: true", "access.require"),
        ("tenants: {a: {weight: 0}}", "access.tenants.a.weight"),
        ("tenants: {'a b': {}}", "access.tenants"),
        ("issuers: [{issuer: x, audience: y}]", "access.issuers[0]"),
        ("issuers: [{issuer: x, audience: y, jwksUrl: 'ftp://z'}]", "access.issuers[0].jwksUrl"),
        ("issuers: [{issuer: x, audience: y, jwksUrl: 'http://z', algorithms: [HS256]}]", "access.issuers[0].algorithms[0]"),
    ],
)  # fmt: skip
def test_a_wrong_document_is_refused_by_its_field(text, field):
    with pytest.raises(InvalidArgumentError) as caught:
        parse(text)
    assert caught.value.field == field


def test_what_is_not_given_for_a_tenant_is_the_defaults():
    access = parse("{defaults: {tokensPerMinute: 100, weight: 2}, tenants: {a: {weight: 3}}}")
    assert access.limits_of("b").weight == 2
    found = access.limits_of("a")
    assert (found.weight, found.tokens_per_minute) == (3, 100)


def test_nobody_without_a_name_has_another_salt():
    assert ANYBODY.salt("x") == "x"
    one, other = Tenant("one", ANYBODY.limits), Tenant("other", ANYBODY.limits)
    assert len({one.salt(""), other.salt(""), one.salt("x"), other.salt("x")}) == 4
