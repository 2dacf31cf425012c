"""Disaggregation: who computes a prompt and who answers, and that every failure leaves a whole answer."""

import asyncio
import dataclasses
import random

import grpc
import pytest
from router_kit import answer_of, decode
from waiting import eventually

from argosy_router.routing.roles import for_answers, for_prompts, needs_prefill


@dataclasses.dataclass(frozen=True)
class Member:
    role: str


P, D, ANY = Member("prefill"), Member("decode"), Member("")
PROMPT = [random.Random(2).randrange(256) for _ in range(1500)]


@pytest.mark.parametrize(
    ("workers", "answers", "prompts"),
    [
        ([P, D], [D], [P]),
        ([P, P, D, D], [D, D], [P, P]),
        ([P], [P], []),  # nobody else is ready: it does everything
        ([D], [D], []),
        ([ANY, ANY], [ANY, ANY], []),
        ([P, ANY], [ANY], []),  # the revision before had no roles
        ([P, D, ANY], [D, ANY], [P]),
        ([], [], []),
    ],
)
def test_who_does_what(workers, answers, prompts):
    assert for_answers(workers) == answers
    assert for_prompts(workers) == prompts


def test_a_prompt_that_some_generator_nearly_knows_goes_there_at_once():
    assert needs_prefill(1000, [(0, 1000.0)])
    assert not needs_prefill(90, [(0, 1000.0)])
    assert needs_prefill(1000, [(800, 1000.0), (0, 1000.0)])
    assert not needs_prefill(1000, [(0, 1000.0), (992, 1000.0)])


async def start(make_rig, fake_worker, roles="pd", **more):
    rig = await make_rig(**more)
    names = {"p": "prefill", "d": "decode"}
    workers = [
        fake_worker(worker_id=f"{role}{i}", role=names[role], kv_layout="x", kv_block_bytes=1000)
        for i, role in enumerate(roles)
    ]
    await rig.add(*workers)
    await rig.until_indexed()
    await eventually(lambda: all(w.load is not None for w in rig.state.workers.values()), "all have reported")
    return rig, workers


async def ask(rig, prompt=PROMPT, **more):
    response, body = await rig.post("/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 6, **more})
    assert response.status == 200, body
    return (await response.json())["choices"][0]["text"], response.headers


def count(rig, result):
    return rig.router.metrics.registry.get_sample_value(
        "argosy_router_prefills_total", {"model": "m", "result": result}
    )


async def test_the_prompt_is_computed_by_one_and_answered_by_the_other(make_rig, fake_worker):
    rig, (p, d) = await start(make_rig, fake_worker)
    text, headers = await ask(rig, seed=5, temperature=0.7, logprobs=2, stop=["never"])
    assert text == decode(answer_of(PROMPT, 6))
    (first,), (second,) = p.requests, d.requests
    assert list(first.prompt_tokens) == list(second.prompt_tokens) == PROMPT
    assert first.sampling.max_tokens == 1
    assert (first.sampling.seed, first.sampling.temperature) == (second.sampling.seed, second.sampling.temperature)
    assert not first.sampling.HasField("logprobs")
    assert (first.kv_source, second.kv_source) == ("", f"127.0.0.1:{p.port}")
    assert headers["x-argosy-worker"] == "d1"
    assert headers["x-argosy-cached-tokens-predicted"] == str(1499 // 16 * 16)
    assert rig.idle()
    rig.state.predictions.expire(float("inf"))
    assert not len(rig.state.predictions)


async def test_short_and_known_prompts_go_straight_to_who_answers(make_rig, fake_worker):
    rig, (p, d) = await start(make_rig, fake_worker)
    await ask(rig, PROMPT[:50])
    d.emit(stored=d.ids(PROMPT))
    await rig.until_indexed()
    text, _ = await ask(rig)
    assert text == decode(answer_of(PROMPT, 6))
    await ask(rig, [7, *PROMPT], echo=True, logprobs=0, max_tokens=1)  # all rows are wanted of who answers
    assert p.requests == []
    assert [r.kv_source for r in d.requests] == ["", "", ""]


async def test_another_salt_travels_with_the_prompt(make_rig, fake_worker):
    rig, (p, d) = await start(make_rig, fake_worker)
    await ask(rig, cache_salt="tenant")
    assert {r.cache_salt for r in (*p.requests, *d.requests)} == {"tenant"}


@pytest.mark.parametrize(
    "fault",
    [
        {"fail_first": grpc.StatusCode.UNAVAILABLE},
        {"fail_first": grpc.StatusCode.RESOURCE_EXHAUSTED},
        {"fail_first": grpc.StatusCode.INVALID_ARGUMENT},
        {"close_after": 0},
        {"abort_after": 0},
    ],
    ids=str,
)
async def test_a_prefill_worker_that_fails_costs_only_time(make_rig, fake_worker, fault):
    rig, (p, d) = await start(make_rig, fake_worker)
    for name, value in fault.items():
        setattr(p.script, name, value)
    text, _ = await ask(rig)
    assert text == decode(answer_of(PROMPT, 6))
    (answering,) = d.requests
    # one that fails after it has told of its blocks may be asked for them all the same
    assert answering.kv_source in (
        "",
        f"127.0.0.1:{p.port}" if "abort_after" in fault or "close_after" in fault else "",
    )
    assert rig.idle()


async def test_a_prefill_worker_that_dies_after_its_work_costs_only_time(make_rig, fake_worker):
    """The next ones go to the other prefill worker, and where none is left to who answers."""
    rig, (one, two, d) = await start(make_rig, fake_worker, "ppd")
    await one.stop()
    rig.workers.remove(one)
    for i in range(3):
        text, _ = await ask(rig, [i, *PROMPT])
        assert text == decode(answer_of([i, *PROMPT], 6))
    assert two.requests
    rig.announce()
    await two.stop()
    rig.workers.remove(two)
    rig.announce()
    await rig.until_ready(1)
    text, _ = await ask(rig, [9, *PROMPT])
    assert text == decode(answer_of([9, *PROMPT], 6))
    assert d.requests[-1].kv_source == ""


async def test_with_no_decode_worker_the_others_answer(make_rig, fake_worker):
    rig, (p,) = await start(make_rig, fake_worker, "p")
    text, headers = await ask(rig)
    assert text == decode(answer_of(PROMPT, 6))
    assert headers["x-argosy-worker"] == "p0"
    assert len(p.requests) == 1


async def test_a_decode_worker_that_fails_is_replaced_and_the_prompt_is_not_computed_again(make_rig, fake_worker):
    rig, (p, one, two) = await start(make_rig, fake_worker, "pdd")
    one.script.fail_first = two.script.fail_first = grpc.StatusCode.UNAVAILABLE
    two.script.fail_first = None
    for i in range(4):
        text, _ = await ask(rig, [i, *PROMPT])
        assert text == decode(answer_of([i, *PROMPT], 6))
    assert len(p.requests) == 4
    assert all(r.kv_source == f"127.0.0.1:{p.port}" for r in two.requests)


async def test_a_client_that_leaves_during_the_prompt_frees_all(make_rig, fake_worker):
    rig, (p, d) = await start(make_rig, fake_worker)
    p.script.hang = True
    task = rig.http.post(rig.base + "/v1/completions", json={"model": "m", "prompt": PROMPT, "max_tokens": 6})
    asking = asyncio.ensure_future(task.__aenter__())
    await eventually(lambda: len(p.requests) == 1, "the prompt is being computed")
    asking.cancel()
    await eventually(lambda: p.cancelled and rig.idle(), "nothing is left")
    assert d.requests == []


async def test_who_answers_dies_and_another_one_fetches_from_the_prefill_worker(make_rig, fake_worker):
    """The prompt is not computed anew: its blocks are still where they were computed."""
    rig, (p, *decoders) = await start(make_rig, fake_worker, "pdd")
    script = decoders[1].script = decoders[0].script
    script.close_after, script.faults_left = 3, 1
    text, _ = await ask(rig)
    assert text == decode(answer_of(PROMPT, 6))
    assert len(p.requests) == 1
    first, second = sorted((r for d in decoders for r in d.requests), key=lambda r: r.attempt)
    assert list(second.resumed_tokens) == answer_of(PROMPT, 3)
    assert first.kv_source == f"127.0.0.1:{p.port}"
    assert second.kv_source != ""
    assert [len(d.requests) for d in decoders] == [1, 1]
    assert rig.idle()
