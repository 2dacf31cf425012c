"""The description of the API, and pages of other origins."""

import json
import re

import pytest
from access_kit import Access, bearer
from jsonschema import Draft202012Validator
from router_kit import FakeWorker

from argosy_router.fronts import openapi
from argosy_router.fronts.bodies import PARSERS
from argosy_router.fronts.examples import EXAMPLES
from argosy_router.settings import parse

PAGE = "https://chat.example.org"
OF_THE_PAGE = {
    "/",
    "/docs",
    "/page/here.json",
    "/page/{name}",
    "/fleet",
    "/fleet/kill",
    "/fleet/requests/{id}",
    "/metrics",
}
"""What the pages at / and /docs are made of, no program's business, and free to change with them; and what is scraped."""


async def test_it_describes_every_route_with_a_request_that_is_understood(rig):
    _, raw = await rig.get("/openapi.json")
    document = json.loads(raw)
    app = rig.router._runners[1].app
    served = {
        (route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", resource.canonical))
        for resource in app.router.resources()
        for route in resource
        if route.method != "HEAD" and resource.canonical not in OF_THE_PAGE
    }
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == served
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    asked = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                Draft202012Validator.check_schema(content["schema"])
                Draft202012Validator(content["schema"]).validate(content["example"])
                asked += 1
    assert asked == len(PARSERS) + 4  # infer has a second path, generate three more


@pytest.mark.parametrize("kind", PARSERS)
def test_a_schema_has_what_the_parser_takes(kind):
    schema = openapi.schema(kind)
    if not kind.startswith("oip_"):  # there the model is in the path
        assert schema["required"][0] == "model"
    assert set(EXAMPLES[kind]) <= set(schema["properties"])
    assert not Draft202012Validator(schema).is_valid({**EXAMPLES[kind], "temprature": 1})


def test_types_and_what_only_its_neutral_value_may_be_taken_of():
    chat = openapi.schema("chat")
    assert chat["required"] == ["model", "messages"]
    told = chat["properties"]
    assert (told["max_tokens"]["type"], told["temperature"]["type"], told["stream"]["type"]) == (
        "integer",
        "number",
        "boolean",
    )
    assert told["messages"]["items"]["properties"]["content"]["items"]["properties"]["text"]["type"] == "string"
    assert told["use_beam_search"]["enum"] == [None, False]
    assert "verbosity" not in told, "what must be absent is no field"
    assert openapi.schema("messages")["required"] == ["model", "max_tokens", "messages"]
    assert openapi.schema("ollama_chat")["properties"]["options"]["properties"]["num_predict"]["type"] == "integer"


# --- other origins


@pytest.fixture
async def page(make_rig):
    rig = await make_rig(cors_origins=(PAGE,))
    await rig.add(FakeWorker(worker_id="w0"))
    return rig


def asks(method="POST", headers="authorization, content-type, x-stainless-lang", origin=PAGE):
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}


async def test_a_page_may_ask(page):
    """Before it asks, in an answer, in a stream, and in an error."""
    async with page.http.options(page.base + "/v1/chat/completions", headers=asks()) as answer:
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
        assert "POST" in answer.headers["access-control-allow-methods"]
    body = {"model": "m", "prompt": "x", "max_tokens": 2}
    for more, status in (({}, 200), ({"stream": True}, 200), ({"temperature": -1}, 400)):
        response, _ = await page.post("/v1/completions", {**body, **more}, headers={"origin": PAGE})
        assert (response.status, response.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "x-argosy-worker" in response.headers["access-control-expose-headers"]
        assert response.headers["vary"] == "origin"


async def test_another_page_may_not(page, rig):
    """Nor any where the router was told of none."""
    for one, origin in ((page, "https://evil.example"), (page, f"{PAGE}.evil.example"), (rig, PAGE)):
        async with one.http.options(one.base + "/v1/models", headers=asks("GET", origin=origin)) as answer:
            assert answer.status == 405
            assert "access-control-allow-origin" not in answer.headers
        response, _ = await one.get("/v1/models", headers={"origin": origin})
        assert response.status == 200
        assert "access-control-allow-origin" not in response.headers


async def test_any_page_may_where_any_is_said_and_brings_its_key(make_rig, tmp_path):
    access = Access(tmp_path)
    key = access.key("one")
    rig = await make_rig(**access.settings, cors_origins=("*",))
    async with rig.http.options(rig.base + "/v1/models", headers=asks("GET")) as answer:
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "*")
    response, _ = await rig.get("/v1/models", headers={"origin": PAGE})
    assert (response.status, response.headers["access-control-allow-origin"]) == (401, "*")
    response, _ = await rig.get("/v1/models", headers={"origin": PAGE, **bearer(key)})
    assert response.status == 200


def test_origins_are_checked_when_the_router_starts(capsys):
    given = ["--membership", "file:x", "--cors-origins"]
    assert parse([*given, f"{PAGE}, http://localhost:3000"]).cors_origins == (PAGE, "http://localhost:3000")
    assert parse([*given, "*"]).cors_origins == ("*",)
    assert parse(given[:2]).cors_origins == ()
    for wrong in ("chat.example.org", "https://chat.example.org/", "https://*.example.org"):
        with pytest.raises(SystemExit):
            parse([*given, wrong])
        assert f"'{wrong}' is no origin" in capsys.readouterr().err
