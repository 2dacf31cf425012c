"""An answer goes on at another worker as the undisturbed one: tokens, text, log-probabilities, ending and usage."""

import asyncio
import json

import grpc
import pytest

from argosy_api import bpe
from argosy_api import metric_names as names
from argosy_api.blocks import root_id
from argosy_api.order import Discipline, Order
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker import sim
from argosy_worker.core.blocks import BlockPool
from argosy_worker.core.line import Line
from argosy_worker.core.request import Request
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.speculation.config import Method, SpeculationConfig

PROMPT = list(b"the quick brown fox jumps over the lazy dog, twice")
NEW = 40
SLOW = "sim://test?decode_ms=1&prefill_tps=0&check=1"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def broken_text() -> bytes:
    """A tokenizer whose tokens end within characters, or are parts of none."""
    alphabet = bpe.byte_alphabet()
    pieces = [bytes([byte]) for byte in range(32)]
    for byte in range(32, 127):  # what the simulated model generates
        tail = bytes([0x80 + byte % 64])
        part = [b"\xe6" + tail, tail, bytes([byte]), b"\xc3\xa9" + bytes([byte])][byte % 4]
        pieces.append(part if byte < 96 else bytes([byte]) + part)
    pieces += [bytes([byte]) for byte in range(127, 256)]
    words = ["".join(alphabet[byte] for byte in piece) for piece in pieces]
    vocab = {}
    for number, word in enumerate(words):
        vocab[word if word not in vocab else word + "Ġ" * number] = number
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [bpe.added_token(256 + n, text, special=True) for n, text in enumerate(sim.SPECIAL_TOKENS)]
    return json.dumps(bpe.document(vocab=vocab, merges=[], added=added, pre_tokenizer=level, decoder=level)).encode()


CASES = {
    "greedy": {},
    "seeded": {"temperature": 0.9, "seed": 7},
    "penalties": {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.2, "frequency_penalty": 0.6, "top_k": 20},
    "logprobs": {"logprobs": 2, "prompt_logprobs": 1, "presence_penalty": 0.4},
    "min_tokens": {"min_tokens": 35, "seed": 1, "temperature": 1.0},
}


def resumed(request: pb.GenerateRequest, tokens, have: int, name: str) -> pb.GenerateRequest:
    again = pb.GenerateRequest()
    again.CopyFrom(request)
    again.request_id, again.attempt = name, 2
    again.resumed_tokens.extend(tokens)
    again.resumed_text_bytes = have
    return again


async def chunks_of(rig, request):
    return [chunk async for chunk in rig.stub.Generate(request)]


def joined(chunks):
    return (
        [token for c in chunks for token in c.token_ids],
        "".join(c.text for c in chunks),
        [row for c in chunks for row in c.logprobs],
        chunks[-1].finish_reason,
        chunks[-1].stop_reason,
        chunks[-1].usage.prompt_tokens,
        chunks[-1].usage.completion_tokens,
    )


async def check_every_cut(rig, request):
    """`request` cut after each token, by a client that has no text, and by one that has all that was sent."""
    whole = await chunks_of(rig, request)
    tokens, text, rows, *rest = joined(whole)
    sent, ends = "", {}
    for chunk in whole:
        sent += chunk.text
        ends[chunk.index + len(chunk.token_ids)] = len(sent.encode())
    cuts = [(k, 0) for k in range(1, len(tokens))] + [(k, have) for k, have in ends.items() if k < len(tokens)]
    answers = await asyncio.gather(
        *(
            chunks_of(rig, resumed(request, tokens[:k], have, f"{request.request_id}-{i}"))
            for i, (k, have) in enumerate(cuts)
        )
    )
    for (k, have), chunks in zip(cuts, answers, strict=True):
        got, new_text, new_rows, *ending = joined(chunks)
        assert got == tokens[k:], k
        assert text.encode()[have:].decode() == new_text, (k, have)
        assert new_rows == rows[k:]
        assert ending == rest
        assert chunks[0].index == k
        assert not any(chunk.prompt_logprobs for chunk in chunks)
        assert [c.HasField("usage") for c in chunks] == [False] * (len(chunks) - 1) + [True]
    load = await rig.load()
    assert load.used_blocks == 0
    return whole, len(ends)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [Method.OFF, Method.NGRAM])
async def test_cut_after_every_token(make_rig, name, method):
    async with make_rig(
        SLOW.replace("check=1", "check=1&eos_every=50"),
        tokenizer_json=broken_text(),
        speculation=SpeculationConfig(method=method, max_draft=4),
    ) as rig:
        request = rig.request(PROMPT, name, max_tokens=NEW, **CASES[name])
        _, boundaries = await check_every_cut(rig, request)
        assert boundaries > 1


async def test_a_stop_string_over_the_cut(make_rig, oracle):
    """Its beginning was held back by the worker that was lost; the next one sees its end."""
    plain = bytes(oracle(PROMPT, NEW)).decode()
    stop = plain[25:31]
    async with make_rig(SLOW) as rig:
        request = rig.request(PROMPT, max_tokens=NEW, stop=[stop, plain[10:13] + "?"])
        whole, _ = await check_every_cut(rig, request)
        assert (whole[-1].stop_reason, "".join(c.text for c in whole)) == (stop, plain[: plain.index(stop)])
        early = rig.request(PROMPT, "early", max_tokens=NEW, min_tokens=34, stop=[stop])
        assert len((await check_every_cut(rig, early))[0]) > 1


async def test_an_answer_that_has_ended_says_so_at_once(make_rig, oracle):
    plain = oracle(PROMPT, NEW)
    text = bytes(plain).decode()
    stop = text[20:24]
    at = plain.index(plain[12])
    async with make_rig(SLOW) as rig:
        for name, sampling, count, end in [
            ("length", {"max_tokens": 10}, 10, (pb.FINISH_REASON_LENGTH, "", text[4:10])),
            (
                "string",
                {"stop": [stop]},
                text.index(stop) + 4,
                (pb.FINISH_REASON_STOP, stop, text[4 : text.index(stop)]),
            ),
            ("token", {"stop_token_ids": [plain[12]]}, at + 1, (pb.FINISH_REASON_STOP, str(plain[12]), text[4:at])),
        ]:
            request = rig.request(PROMPT, name, **({"max_tokens": NEW} | sampling))
            (only,) = await chunks_of(rig, resumed(request, plain[:count], 4, name))
            assert (only.finish_reason, only.stop_reason, only.text) == end
            assert (list(only.token_ids), only.index, only.usage.completion_tokens) == ([], count, count)
            more = resumed(request, plain[: count + 1], 4, name)
            code, details = await rig.status_of(more)
            assert code is INVALID
            assert details.startswith("resumed_tokens: has")
        assert (await rig.load()).used_blocks == 0
        assert (await rig.generate(PROMPT, "after", max_tokens=5)).tokens == plain[:5]


@pytest.mark.parametrize(
    ("tokens", "have", "field"),
    [
        ([65] * 41, 0, "resumed_tokens: has 41 tokens; the answer has 40 at most"),
        ([65, 259], 0, "resumed_tokens[1]: is 259"),
        ([], 1, "resumed_text_bytes: is 1, without"),
        ([65, 66], 3, "resumed_text_bytes: is 3; the text"),
        (list("é".encode()), 1, "resumed_text_bytes: is 1, which is within a character"),
    ],
)
async def test_what_no_attempt_can_have_sent_is_refused(rig, tokens, have, field):
    request = resumed(rig.request(PROMPT, max_tokens=40), tokens, have, "r")
    code, details = await rig.status_of(request)
    assert code is INVALID
    assert details.startswith(field)
    load = await rig.load()
    assert (load.used_blocks, load.running, load.waiting) == (0, 0, 0)


async def test_blocks_of_prompt_and_answer_are_found(rig, oracle):
    """What another stream left in the cache is not computed again, and counts as cached up to the prompt's end."""
    plain = oracle(PROMPT, 100)
    await rig.generate(PROMPT, "first", max_tokens=100)

    def computed():
        return rig.metrics.registry.get_sample_value(
            names.WORKER_STEP_TOKENS + "_sum", {"model": "test", "worker": "w"}
        )

    before = computed()
    (*_, last) = await chunks_of(rig, resumed(rig.request(PROMPT, max_tokens=100), plain[:90], 0, "again"))
    assert computed() - before == 50 + 90 - 128 + 9  # 8 whole blocks were there
    assert last.usage.cached_tokens == 50


async def test_under_pressure_each_goes_on_as_alone(make_rig, oracle):
    """Blocks for half of them: they are preempted, and go on."""
    prompts = [PROMPT[: 20 + i] for i in range(12)]
    async with make_rig(SLOW, num_blocks=30, max_batch_tokens=64) as rig:
        requests = [rig.request(p, f"r{i}", max_tokens=60, temperature=1.0, seed=i) for i, p in enumerate(prompts)]
        expected = [oracle(p, 60, temperature=1.0, seed=i) for i, p in enumerate(prompts)]
        answers = await asyncio.gather(
            *(chunks_of(rig, resumed(r, expected[i][: 3 * i + 1], 0, f"r{i}")) for i, r in enumerate(requests))
        )
        for i, chunks in enumerate(answers):
            assert joined(chunks)[0] == expected[i][3 * i + 1 :]
        labels = {"model": "test", "worker": "w"}
        assert rig.metrics.registry.get_sample_value(names.WORKER_PREEMPTIONS + "_total", labels) > 0


def test_whoever_is_in_mid_sentence_goes_before_new_prompts():
    """Its reader has waited already: of its work nothing counts in the line."""
    line = Line(BlockPool(64), discipline=Discipline(Order.LEAST_WORK, 0.25), rate=1000.0)
    for name, length, resumed_tokens in [("fresh", 20, []), ("late", 400, [65] * 10)]:
        line.add(
            Request(
                request_id=name,
                prompt=[65] * length,
                params=SamplingParams(),
                root=root_id("f"),
                block_size=16,
                arrival=0.0,
                max_model_len=1024,
                resumed=resumed_tokens,
            )
        )
    first = line.first()
    assert first is not None
    assert first[0].request_id == "late"
    assert line.uncached_tokens == 20 + 410


async def test_reports_tell_how_long_the_slow_steps_take(make_rig):
    """By which a router tells a gap from a hang."""
    async with make_rig("sim://test?decode_ms=0&prefill_tps=0&step_ms=20&check=1") as rig:
        assert (await rig.load()).slow_step_seconds == 0
        await rig.generate(PROMPT, max_tokens=3)
        assert (await rig.load()).slow_step_seconds >= 0.02


def test_of_few_steps_an_accident_is_not_taken_for_a_slow_one():
    """A process that was stopped for seconds within its first steps is not waited for as long the next time."""
    metrics = WorkerMetrics(model="m", worker="w")

    def told(*steps: float) -> float:
        for seconds in steps:
            metrics.step(seconds, 1, 0)
        return metrics.slow_step()

    assert told() == 0
    assert told(0.02) == 0.02
    assert told(4.0) == 0.02
    assert told(*[0.03] * 8) == 0.03
    assert told(3.0, 5.0) == 0.03
    assert told(*[0.03] * 500) == 0.03
    assert told(*[1.0] * 10) == 1.0  # more than an accident
