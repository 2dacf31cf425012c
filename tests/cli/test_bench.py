"""`argosy bench`: against simulated models of our own, and against servers that are none."""

import asyncio
import contextlib
import json
import xml.etree.ElementTree as ET

import pytest
from aiohttp import web
from embedded_kit import Up
from typer.testing import CliRunner

from argosy_cli.bench.command import levels
from argosy_cli.bench.figures import Round, figures, percentile, ratio
from argosy_cli.bench.prompts import prompts
from argosy_cli.bench.server import Sample, Server, Wanted, base, chosen
from argosy_cli.bench.stream import Course, StreamError
from argosy_cli.errors import CommandError, RequestError
from argosy_cli.main import app

HEAD = "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\n"


def sim(name, decode_ms):
    return f"{HEAD}metadata: {{name: {name}}}\nspec:\n  model: {{uri: 'sim://m?prefill_tps=20000&decode_ms={decode_ms}'}}\n"


# --- pure


def test_prompts_share_what_they_are_to_share_and_no_more():
    made = [text.split() for text in prompts(3, tokens=106, shared=0.5, seed=1, part="a")]
    assert {len(words) for words in made} == {106}
    assert made[0][:50] == made[1][:50] == made[2][:50]
    assert len({tuple(words[50:]) for words in made}) == 3
    assert prompts(3, tokens=106, shared=0.5, seed=1, part="a") == [" ".join(words) for words in made]
    (other,) = prompts(1, tokens=106, shared=0.5, seed=1, part="b")
    assert other.split()[:50] == made[0][:50]
    assert other.split()[50:100] != made[0][50:100]
    assert prompts(1, tokens=20, shared=0.0, seed=1) != prompts(1, tokens=20, shared=0.0, seed=2)


def event(**fields):
    return b"data: " + json.dumps(fields).encode()


def test_pieces_are_timed_and_the_servers_own_counts_are_taken():
    course = Course()
    for at, line in enumerate((
        b": comment", b"", b"event: message",
        event(choices=[{"delta": {"role": "assistant", "content": ""}}]),
        event(choices=[{"delta": {"reasoning_content": "hm"}}]),
        event(choices=[{"text": "lo"}]),
        event(choices=[{"delta": {"content": "!"}, "finish_reason": None}]),
        event(choices=[{"delta": {}, "finish_reason": "length"}]),
        event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}),
        b"data: [DONE]",
    )):  # fmt: skip
        course.take(line, float(at))
    assert course == Course([4.0, 5.0, 6.0], prompt_tokens=9, cached_tokens=8, tokens=4, ended=True)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (event(error={"message": "out of blocks"}), "out of blocks"),
        (event(error="flat"), "flat"),
        (b"data: {", "no JSON"),
        (b"data: 7", "no object"),
    ],
)
def test_an_error_in_a_stream_is_no_answer(line, word):
    with pytest.raises(StreamError, match=word):
        Course().take(line, 0.0)


def test_figures_are_of_the_requests_that_were_answered():
    good = Sample(took_s=1.0, first_s=0.4, gaps_s=(0.1, 0.2, 0.3), prompt_tokens=10, cached_tokens=5, tokens=4)
    other = Sample(took_s=1.0, first_s=0.6, gaps_s=(0.2, 0.2), prompt_tokens=10, tokens=3)
    one = figures([Round(seconds=2.0, samples=(good, Sample(failure="gone"))), Round(seconds=1.0, samples=(other,))])
    assert (one.requests, one.failed, one.failures) == (3, 1, ("1 times: gone",))
    assert (one.ttft_p50, one.ttft_p95) == (400, 600)
    assert (one.itl_p50, one.itl_p99) == (200, 300)
    assert one.tpot == pytest.approx(200)
    assert one.tokens_per_second == 2.5  # rounds of 2 and 3
    assert one.requests_per_second == pytest.approx(2 / 3)
    assert (one.prompt_tokens, one.cached, one.output_tokens) == (10, 0.25, 3.5)
    assert percentile([], 50) == 0
    assert [percentile([1, 2, 3, 4], p) for p in (1, 25, 50, 75, 99)] == [1, 1, 2, 3, 4]


def test_ratios_are_round_by_round():
    def rounds(*rates):
        return [Round(seconds=1.0, samples=(Sample(tokens=rate),)) for rate in rates]

    one = ratio(rounds(10, 30, 20), rounds(10, 10, 10))
    assert (one.middle, one.least, one.most) == (2, 1, 3)
    assert ratio(rounds(10), rounds(0)) is None


def test_addresses_and_levels_as_people_write_them():
    for url in ("http://h:1", "http://h:1/", "h:1", "http://h:1/v1", "http://h:1/v1/"):
        assert base(url) == "http://h:1/v1"
    assert base("https://h/openai") == "https://h/openai/v1"
    for wrong in ("", "http://", "ftp://h", "http://h:x", "http://h:1/?a=1"):
        with pytest.raises(CommandError, match="is no address of a server"):
            base(wrong)
    assert levels("16,1,4") == (1, 4, 16)
    for wrong in ("", "a", "0,1", "1,1", "9999"):
        with pytest.raises(CommandError, match="--concurrency"):
            levels(wrong)


def test_a_model_is_found_or_those_are_told_that_there_are():
    assert chosen("", ["a"], "h") == "a"
    assert chosen("b", ["a", "b"], "h") == "b"
    with pytest.raises(RequestError, match=r"no model 'c'; it has: a, b"):
        chosen("c", ["a", "b"], "h")
    with pytest.raises(RequestError, match="2 models; name one with --model"):
        chosen("", ["a", "b"], "h")


# --- other servers

MODELS = {"data": [{"id": "m"}]}
ANSWER = [{"choices": [{"text": "a", "delta": {"content": "a"}}]}] * 3 + [{"choices": [{"finish_reason": "stop"}]}]


@contextlib.asynccontextmanager
async def serving(ask, models=MODELS):
    application = web.Application()

    async def told(_):
        return web.json_response(models) if isinstance(models, dict) else web.Response(text=models)

    application.router.add_get("/v1/models", told)
    application.router.add_post("/v1/chat/completions", ask)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with Server(f"http://127.0.0.1:{runner.addresses[0][1]}") as server:
            yield server
    finally:
        await runner.cleanup()


async def streamed(request, events):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for one in events:
        await response.write(b"data: " + json.dumps(one).encode() + b"\n\n")
    return response


WANTED = Wanted(output_tokens=4)


async def test_fields_that_a_server_does_not_know_are_left_out():
    seen = []

    async def ask(request):
        body = await request.json()
        seen.append(body)
        if "ignore_eos" in body:
            return web.json_response({"error": {"message": "ignore_eos is unknown"}}, status=400)
        return await streamed(request, ANSWER)

    async with serving(ask) as server:
        await server.meet(WANTED, "hello")
        sample = await server.ask(WANTED, "hello")
    assert server.extras == {"stream_options": {"include_usage": True}}
    assert (sample.tokens, sample.failure) == (3, "")  # the server counts none: the pieces
    assert len(seen) == 3
    assert seen[-1]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda _: web.json_response({"choices": []}), "does not stream: it answers with application/json"),
        (lambda _: web.json_response({"error": {"message": "no such thing"}}, status=400), "refuses the request: 400: no such thing"),
        (lambda _: web.json_response({"detail": "a key, please"}, status=401), "401: a key, please"),
        (lambda request: streamed(request, ANSWER[:2]), "ended before the answer was complete"),
        (lambda request: streamed(request, ANSWER[-1:]), "no text"),
        (lambda request: streamed(request, [{"error": {"message": "lost it"}}]), "lost it"),
    ],
)  # fmt: skip
async def test_who_cannot_be_measured_is_told_why(answer, word):
    async def ask(request):
        made = answer(request)
        return await made if asyncio.iscoroutine(made) else made

    async with serving(ask) as server:
        with pytest.raises(RequestError, match=word):
            await server.meet(WANTED, "hello")


async def no_answer(_):
    return web.Response(status=404)


async def test_what_is_no_such_server_is_told_so(free_port):
    async with serving(no_answer, models="<html>") as server:
        with pytest.raises(RequestError, match=r"does not answer as an OpenAI-compatible server \(200\): <html>"):
            await server.meet(WANTED, "hello")
    async with Server(f"http://127.0.0.1:{free_port()}") as server:
        with pytest.raises(RequestError, match="nobody answers at"):
            await server.meet(WANTED, "hello")


# --- the command


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Two models, one of which takes ten times as long for a token."""
    home = tmp_path_factory.mktemp("bench")
    path = home / "two.yaml"
    path.write_text(sim("fast", 2) + "---\n" + sim("slow", 20))
    one = Up(home, [path]).start()
    try:
        yield one.until_ready()
        assert one.end() == 0, one.output
    finally:
        one.clean_up()


def test_two_servers_are_measured_in_turn(running, tmp_path):
    url = f"http://127.0.0.1:{running.http_port}"
    done = CliRunner().invoke(
        app,
        ["bench", url, "--peer", url, "--model=fast", "--peer-model=slow", "--concurrency=1,2", "--rounds=2", "--requests=2",
         "--prompt-tokens=200", "--output-tokens=8", "--shared-prefix=0.75", f"--out={tmp_path / 'made'}"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "made" / "bench.json").read_text())
    assert [(one["at_once"], one["server"]) for one in document["levels"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for one in document["levels"]:
        figures = one["figures"]
        assert (figures["requests"], figures["failed"], figures["output_tokens"]) == (4, 0, 8)
        assert figures["cached"] > 0.5  # the common beginning
        assert 0 < figures["ttft_p50"] <= figures["ttft_p95"]
    table = (tmp_path / "made" / "bench.md").read_text()
    assert table in done.output
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == 6
    assert "Tokens/s of fast at 127.0.0.1" in table
    ET.fromstring((tmp_path / "made" / "bench.svg").read_text())
    assert "round 2 of 2" in done.output  # how far it is


def test_json_for_programs_and_a_model_that_is_not_there(running):
    code, out, err = running.command(
        "bench", f"127.0.0.1:{running.http_port}", "--model=fast", "--concurrency=1", "--rounds=1", "--requests=1",
        "--output-tokens=2", "--completions", "-o", "json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["asked"]["wanted"] == {"output_tokens": 2, "chat": False}
    code, _, err = running.command("bench", f"127.0.0.1:{running.http_port}", "--model=nosuch")
    assert (code, "has no model 'nosuch'; it has: fast, slow" in err) == (5, True), err
