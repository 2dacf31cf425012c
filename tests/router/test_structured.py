"""Constraints at the router: how each front takes them, and what its child process refuses before a worker sees it."""

import asyncio
import json
import os
import signal

import grpc
import pytest

from argosy_api.errors import InvalidArgumentError
from argosy_api.structured.constraint import parse
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_router.fronts import oai_parse
from argosy_router.fronts.oip_sampling import sampling_parameters

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
SPELLINGS = {
    "a schema": ({"response_format": WRAPPED}, {"json_schema": SCHEMA}),
    "any object": ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
    "vLLM's json": ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
    "vLLM's json as a text": ({"guided_json": json.dumps(SCHEMA)}, {"json_schema": SCHEMA}),
    "vLLM's older json": ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
    "a pattern": ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
    "an older pattern": ({"guided_regex": "a+"}, {"regex": "a+"}),
    "choices": ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
    "older choices": ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
    "a grammar": ({"structured_outputs": {"grammar": 'start: "a"'}}, {"grammar": 'start: "a"'}),
    "an older grammar": ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    "vLLM's object": ({"structured_outputs": {"json_object": True}}, {"json_schema": {"type": "object"}}),
    "plain text": ({"response_format": {"type": "text"}}, None),
    "nothing": ({"structured_outputs": {}, "guided_json": None}, None),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_fronts_take_the_same_spellings(spelling):
    fields, wanted = SPELLINGS[spelling]
    found = [
        oai_parse.chat(HI | fields).ask().constraint,
        oai_parse.completions(TEXT | fields).ask().constraint,
        sampling_parameters(json.dumps(fields), {}).constraint,
    ]
    assert [None if c is None else json.loads(c.text) for c in found] == [wanted] * 3
    assert all(c is None or parse(c.text) == c for c in found)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"items": {"not": {}}}}}},
            "response_format.json_schema.schema.items.not",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": 3}, "guided_regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"what": 1}}, "structured_outputs.what"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
    ],
)
def test_a_wrong_spelling_is_refused_by_its_path(fields, named):
    with pytest.raises(InvalidArgumentError) as caught:
        oai_parse.chat(HI | fields)
    assert caught.value.field == named


async def post(rig, document, path="/v1/chat/completions"):
    async with rig.http.post(rig.base + path, json=document) as answer:
        return answer.status, await answer.json()


async def test_a_worker_gets_what_was_asked_for_and_is_asked_once(rig):
    status, _ = await post(rig, HI | {"response_format": WRAPPED, "max_tokens": 4, "n": 2})
    assert status == 200
    asked = [r for w in rig.workers for r in w.requests]
    assert [json.loads(r.constraint) for r in asked] == [{"json_schema": SCHEMA}] * 2


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"guided_regex": "(?=a)b"}, "guided_regex", "look-around"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/none"}}}},
            "response_format.json_schema.schema",
            "/none",
        ),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar", "nothing"),
        ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos", "constrained"),
    ],
)
async def test_what_no_worker_could_keep_to_reaches_none(rig, fields, param, why):
    for _ in range(2):  # the second time out of what is remembered
        status, body = await post(rig, HI | fields)
        assert (status, body["error"]["param"]) == (400, param)
        assert why in body["error"]["message"]
    assert not [r for w in rig.workers for r in w.requests]


async def test_the_native_front_takes_it_as_json(rig):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.router.grpc_port}") as channel:
        stub = rpc.InferenceStub(channel)

        async def answered(constraint):
            asked = pb.InferenceRequest(
                model="m", text="x", constraint=constraint, sampling=pb.SamplingParams(max_tokens=2)
            )
            return [c async for c in stub.Generate(asked)]

        await answered('{"regex": "a+"}')
        assert [json.loads(r.constraint) for w in rig.workers for r in w.requests] == [{"regex": "a+"}]
        with pytest.raises(grpc.aio.AioRpcError, match=r"constraint\.choice"):
            await answered('{"choice": 3}')


async def test_one_that_takes_too_long_ends_its_process_and_nobody_elses_work(rig):
    """A library's compilation cannot be stopped; the process that it runs in can."""
    trials = rig.state.card.text.grammars._child
    await post(rig, HI | {"guided_choice": ["warm"], "max_tokens": 2})
    before = trials.pid
    trials._job_s = 0.5
    os.kill(before, signal.SIGSTOP)  # as one that compiles without an end
    endless = asyncio.create_task(post(rig, HI | {"guided_grammar": 'start: "a" | "b"'}))
    status, _ = await post(rig, HI | {"max_tokens": 2})
    assert status == 200
    assert not endless.done()
    status, body = await endless
    assert (status, body["error"]["param"]) == (400, "guided_grammar")
    assert "takes more than" in body["error"]["message"]
    trials._job_s = 5.0
    status, _ = await post(rig, HI | {"guided_choice": ["fine"], "max_tokens": 2})
    assert status == 200
    assert trials.pid not in (None, before)
