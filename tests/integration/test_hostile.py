"""Requests with hostile fields: each gets an answer, or INVALID_ARGUMENT with the field's name; all processes live on.

The suite sends some hundreds; `make test-hostile` sends 5,000 (ARGOSY_HOSTILE).
"""

import asyncio
import json
import math
import os
import random
import struct
from collections import Counter

import aiohttp
import grpc
import pytest
from embedded_kit import Up

from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc as oip_rpc
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc as rpc
from argosy_worker import sim

COUNT = int(os.environ.get("ARGOSY_HOSTILE", "800"))
AT_ONCE = 8
RESOURCE = """
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: hostile}
spec:
  model: {uri: "sim://hostile?decode_ms=0&prefill_tps=0&max_model_len=256&check=1"}
  resources: {cpu: "1", memory: 256Mi}
"""


def nested(depth, kind):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"5": value}
    return value


DEEP = "nested too deeply for Python's own encoder"
VALUES = [
    None, True, False, 0, 1, -1, 2, 20, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, -(10**400), 0.5, -0.5, 1.5, 1e-320, 1e308, -1e308,
    math.nan, math.inf, -math.inf, "", "x", "1", "none", "\x00", "\ud800", "é" * 500, "a" * 100_000, [], [[]], [None], [True], [0],
    [-1], [300], [2**40], [10**400], [1.5], [math.nan], ["a"], [""], ["\ud800"], [[1], "a"], [[1, 2]], [[10**400]], [0] * 10_000, ["a"] * 100,
    [[1]] * 200, {}, {"a": {"b": [1]}}, {"5": 1}, {"5": math.nan}, {"5": "x"}, {"5": 10**400}, {"-1": 1}, {"0": 1, "00": 1}, {str(10**30): 1},
    {"\ud800": 1}, {"type": "text"}, {str(i): 1 for i in range(400)}, nested(200, list), nested(200, dict), DEEP,
]  # fmt: skip
SHAPING = [
    "max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "allowed_token_ids", "bad_words_ids", "bad_words", "seed", "stop", "stop_token_ids", "ignore_eos",
    "prompt_logprobs", "priority", "cache_salt", "best_of", "use_beam_search", "length_penalty", "guided_json", "detokenize",
]  # fmt: skip
FRACTIONS = [
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
]  # fmt: skip
COUNTS = ["max_tokens", "min_tokens", "top_k", "logprobs", "prompt_logprobs"]
HTTP = [
    *SHAPING, "n", "logprobs", "stream", "stream_options", "user", "metadata", "response_format", "return_token_ids", "store",
    "request_id", "service_tier",
]  # fmt: skip
COMPLETIONS = [*HTTP, "prompt", "echo", "suffix"]
CHAT = [*HTTP, "messages", "top_logprobs", "max_completion_tokens", "tools", "tool_choice", "modalities"]
RESPONSES = [
    *SHAPING, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "metadata", "include", "reasoning", "stream",
    "store", "previous_response_id", "truncation", "parallel_tool_calls", "top_logprobs", "background",
]  # fmt: skip
MESSAGES = [
    "system", "messages", "max_tokens", "temperature", "top_k", "top_p", "stop_sequences", "stream", "tools", "tool_choice", "thinking",
    "output_config", "metadata", "service_tier", "container", "cache_control",
]  # fmt: skip
OLLAMA = [
    "messages", "tools", "format", "think", "stream", "options", "keep_alive", "logprobs", "top_logprobs", "truncate", "images",
]  # fmt: skip
OPTIONS = [
    "num_predict", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed",
    "stop", "num_ctx", "mirostat", "repeat_last_n", "tfs_z",
]  # fmt: skip
TOKENS = ["prompt", "messages", "tools", "add_special_tokens", "return_token_strs", "chat_template_kwargs", "documents"]
UNKNOWN = ["", "x", "__proto__", "temprature", "\ud800", "a.b[0]", "max_tokens ", "é", "x" * 3000]
TOGETHER = {
    "max_tokens",
    "min_tokens",
    "logprobs",
    "prompt_logprobs",
    "return_token_ids",
    "allowed_token_ids",
    "bad_words_ids",
    "prompt",
}
"""What may be blamed where another field is the odd one: bounds over several fields."""


def encoded(document):
    """As JSON."""
    return json.dumps(document).replace(json.dumps(DEEP), "[" * 100_000 + "1" + "]" * 100_000).encode()


def may_be_blamed(field, changed):
    """Whether an error may name this field for a request in which those were changed."""
    names = {name.encode("utf-8", "backslashreplace").decode()[:100] for name in changed} | {"body", *TOGETHER}
    for start in ("sampling_parameters.", "parameters."):
        field = field.removeprefix(start)
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in names)


def changes(draw, names):
    count = draw.choice([1, 1, 1, 2, 3])
    return {
        draw.choice(names) if draw.random() < 0.9 else draw.choice(UNKNOWN): draw.choice(VALUES) for _ in range(count)
    }


WAYS = ("completions", "chat", "native", "infer", "responses", "messages", "ollama", "tokenize")


class Ways:
    """One request each; what came back is judged where it is known."""

    def __init__(self, up, session, channel):
        self.base = f"http://127.0.0.1:{up.http_port}"
        self.http, self.native_stub, self.oip_stub = (
            session,
            rpc.InferenceStub(channel),
            oip_rpc.GRPCInferenceServiceStub(channel),
        )

    async def completions(self, draw):
        return await self.post("/v1/completions", {"model": "hostile", "prompt": "hello"}, changes(draw, COMPLETIONS))

    async def chat(self, draw):
        messages = [{"role": "user", "content": "hello"}]
        return await self.post("/v1/chat/completions", {"model": "hostile", "messages": messages}, changes(draw, CHAT))

    async def responses(self, draw):
        return await self.post("/v1/responses", {"model": "hostile", "input": "hello"}, changes(draw, RESPONSES))

    async def messages(self, draw):
        request = {"model": "hostile", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
        return await self.post("/v1/messages", request, changes(draw, MESSAGES))

    async def ollama(self, draw):
        request = {"model": "hostile", "messages": [{"role": "user", "content": "hello"}]}
        changed = changes(draw, OLLAMA)
        if "options" not in changed:
            changed["options"] = {"num_predict": 16, **changes(draw, OPTIONS)}
        return await self.post("/api/chat", request, changed)

    async def tokenize(self, draw):
        request = {"model": "hostile", draw.choice(["prompt", "detokenized"]): "hello"}
        if "prompt" not in request:
            changed = {draw.choice(["tokens", "tokens", "x"]): draw.choice(VALUES)}
            return await self.post("/detokenize", {"model": "hostile", "tokens": [1, 2]}, changed)
        return await self.post("/tokenize", request, changes(draw, TOKENS) if draw.random() < 0.7 else {})

    async def post(self, path, request, changed):
        async with self.http.post(self.base + path, data=encoded({**request, **changed})) as answer:
            body = await answer.read()
        if answer.status == 200:
            return "answered"
        error = json.loads(body)["error"]
        assert answer.status in (400, 413), (answer.status, error)
        message = error if isinstance(error, str) else error["message"]
        assert may_be_blamed(message.partition(":")[0], changed), (error, changed)
        if "code" in error:
            assert (error["code"], error["param"]) in (
                ("InvalidArgument", message.partition(":")[0]),
                ("TooLarge", error["param"]),
            )
        return "refused"

    async def native(self, draw):
        numbers = [0.0, -0.0, 0.5, -1.0, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf]
        fields = {
            **dict.fromkeys(FRACTIONS, numbers),
            **{name: [0, 1, 21, 2**31, 2**32 - 1] for name in COUNTS},
            "seed": [0, 2**63 - 1, 2**63, 2**64 - 1],
            "stop": [[""], ["x"] * 17, ["x" * 300], ["\x00"], ["é" * 128]],
            "stop_token_ids": [[0], [258], [259], [2**32 - 1], [1] * 65, [1] * 20_000],
            "allowed_token_ids": [[5], [259], [2**32 - 1], [1] * 8193, list(range(259))],
            "logit_bias": [{5: 1.0}, {259: 1.0}, {5: math.nan}, {5: math.inf}, {5: -1e308}, dict.fromkeys(range(301), 1.0)],
            "bad_words_ids": [[pb.TokenIds()], [pb.TokenIds(ids=[5])] * 129, [pb.TokenIds(ids=[259])], [pb.TokenIds(ids=[5] * 33)]],
        }  # fmt: skip
        chosen = draw.sample(sorted(fields), draw.choice([1, 2, 3]))
        request = pb.InferenceRequest(
            model="hostile",
            text="hello",
            sampling=pb.SamplingParams(**{name: draw.choice(fields[name]) for name in chosen}),
        )
        if draw.random() < 0.2:
            chosen.append("priority")
            request.priority = draw.choice([11, -11, 2**31 - 1, -(2**31), 10])
        return await self.judged(self.stream(request), chosen)

    async def stream(self, request):
        async for _ in self.native_stub.Generate(request):
            pass

    async def infer(self, draw):
        request = oip.ModelInferRequest(model_name="hostile", id="h")
        changed = changes(draw, SHAPING)
        for name, value in (("text_input", b"hello"), ("sampling_parameters", encoded(changed))):
            request.inputs.add(name=name, datatype="BYTES", shape=[1])
            request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
        if draw.random() < 0.3:
            name = draw.choice([n for n in SHAPING if n not in changed])
            kind, value = draw.choice(
                [
                    ("int64_param", -1),
                    ("int64_param", 2**63 - 1),
                    ("double_param", math.nan),
                    ("string_param", "x"),
                    ("bool_param", True),
                ]
            )
            setattr(request.parameters[name], kind, value)
            changed[name] = value
        return await self.judged(self.oip_stub.ModelInfer(request), [*changed, "sampling_parameters"])

    async def judged(self, call, changed):
        try:
            await call
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        else:
            return "answered"
        assert code is grpc.StatusCode.INVALID_ARGUMENT, details
        assert may_be_blamed(details.partition(":")[0], changed), (changed, details[:300])
        return "refused"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    home = tmp_path_factory.mktemp("hostile")
    (home / "hostile.yaml").write_text(RESOURCE)
    one = Up(home, [home / "hostile.yaml"]).start()
    try:
        yield one.until_ready()
        assert one.end() == 0, one.output
    finally:
        one.clean_up()


async def test_hostile_fields(up):
    """Of all ways in; and at the end the same processes give the right answer."""
    before = {child.pid for child in up.children()}
    outcomes = Counter()
    async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(f"127.0.0.1:{up.grpc_port}") as channel:
        ways = Ways(up, session, channel)
        seeds = iter(range(COUNT))

        async def sender():
            for seed in seeds:
                way = getattr(ways, WAYS[seed % len(WAYS)])
                try:
                    async with asyncio.timeout(120):
                        outcomes[way.__name__, await way(random.Random(seed))] += 1
                except BaseException as error:
                    error.add_note(f"request {seed} ({way.__name__})")
                    raise

        await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    assert sum(outcomes.values()) == COUNT
    assert all(outcomes[way, what] for way in WAYS for what in ("answered", "refused")), outcomes
    expected = sim.oracle(list(b"still here"), 8, SamplingParams(temperature=0))
    assert up.complete("hostile", "still here", max_tokens=8).text == bytes(expected).decode()
    workers = {r.pid for r in up.replicas()} | {s.pid for s in up.state.services}
    assert workers <= before, "a process was started anew"
    assert all(replica.restarts == 0 for replica in up.replicas())
