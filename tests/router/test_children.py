"""Text work in child processes: killed when it takes too long or too much, and nobody else is harmed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_kit import TEMPLATE, TOKENIZER_JSON, byte_tokenizer, decode, encode
from tokenizers import Regex, Tokenizer, pre_tokenizers
from waiting import eventually, stand_still

from argosy_api import blocks, limits
from argosy_api.errors import InvalidArgumentError, ModelInvalidError, OverloadedError, UnavailableError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.children import child
from argosy_router.children.child import Child, JobFailedError, JobKilledError, JobRefusedError
from argosy_router.children.frames import Unpacker, pack
from argosy_router.children.spawn import spawn
from argosy_router.fronts.bodies import HERE_VALUES, Bodies
from argosy_router.fronts.fields import parse_json
from argosy_router.fronts.oai_parse import completions
from argosy_router.text.model_text import Wanted
from argosy_router.text.models import ModelLibrary

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GREEDY = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
WANTED = Wanted(most=10_000, root=blocks.root_id("f"), block_size=16)
USER = [{"role": "user", "content": "hi"}]


def info(template: str = TEMPLATE, tokenizer: bytes = TOKENIZER_JSON) -> pb.ModelInfo:
    return pb.ModelInfo(worker_id="w", fingerprint="f", block_size=16, max_model_len=10_000, tokenizer_json=tokenizer,
                        chat_template=template)  # fmt: skip


def only_when_asked(work: str) -> str:
    """A template that does `work` for a user who says "now" only, so that it loads."""
    return "{% if messages[0].content == 'now' %}" + work + "{% endif %}" + TEMPLATE


@pytest.fixture
async def library():
    made = ModelLibrary(job_s=3.0)
    yield made
    await made.close()


async def text_of(library, message: pb.ModelInfo):
    card = library.card([await library.facts(message)])
    return card.text


def pids(library) -> list[int]:
    return [c.pid for c in library._children if c.pid is not None]


# --- frames


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 40))
def test_frames_arrive_whole(blobs, step):
    """However they are cut on the way."""
    raw = pack({"id": 1, "é": [1, {"a": None}]}, blobs) + pack({"id": 2})
    unpacker = Unpacker(limit=10_000)
    found = [f for at in range(0, len(raw), step) for f in unpacker.feed(raw[at : at + step])]
    assert [f[0]["id"] for f in found] == [1, 2]
    assert found[0][1] == blobs


@pytest.mark.parametrize("raw", [b"\xff" * 8, pack({"id": 1}, [b"x" * 200]), b"\0\0\0\2\0\0\0\0[]",
                                 b"\0\0\0\2\0\0\0\1{}a", b'\0\0\0\x0d\0\0\0\1{"sizes":[2]}a'])  # fmt: skip
def test_what_is_no_frame_is_refused(raw):
    """A child is not believed."""
    with pytest.raises((ValueError, TypeError)):
        list(Unpacker(limit=100).feed(raw))


# --- a model's text


async def test_text_and_chat_and_back(library):
    """What the child gives is what the tokenizer gives, with the blocks' ids."""
    text = await text_of(library, info())
    found = await text.encode("hello é", WANTED, field="prompt")
    assert found.tokens == encode("hello é")
    assert found.block_ids == blocks.block_ids(WANTED.root, found.tokens, 16)
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    chat = await text.render(USER, WANTED, field="messages")
    assert chat.tokens == encode(rendered)
    assert chat.block_ids == blocks.block_ids(WANTED.root, chat.tokens, 16)
    assert await text.decode(encode("é<|im_end|>"), field="prompt") == "é<|im_end|>"
    many = encode("x" * 9000)
    assert (await text.address(many, WANTED, field="prompt")).block_ids == blocks.block_ids(WANTED.root, many, 16)
    assert text.vocabulary.token_text(encode("h")[0]) == "h"
    with pytest.raises(InvalidArgumentError, match="prompt: is not valid Unicode"):
        await text.encode("a\ud800", WANTED, field="prompt")
    for length, words in ((10_000, "has 10000 tokens"), (1_000_000, "has more than 20000 tokens")):
        with pytest.raises(InvalidArgumentError, match=f"text: {words}; the context is 10000"):
            await text.encode("x" * length, WANTED, field="text")


@pytest.mark.parametrize("work", [ENDLESS, GREEDY], ids=["endless", "greedy"])
async def test_a_hostile_template_costs_its_own_request(library, work):
    """Time or memory without end: an error for that request; what is asked beside it and after it is answered."""
    text = await text_of(library, info(only_when_asked(work)))
    hostile = asyncio.ensure_future(text.render([{"role": "user", "content": "now"}], WANTED, field="messages"))
    await asyncio.sleep(0)
    beside = [asyncio.ensure_future(text.encode("hello", WANTED, field="prompt")) for _ in range(20)]
    with pytest.raises(InvalidArgumentError, match="messages: "):
        await hostile
    assert [(await b).tokens for b in beside] == [encode("hello")] * 20
    assert (await text.render(USER, WANTED, field="messages")).tokens


async def test_a_hostile_regex_costs_its_own_request(library):
    """A pre-tokenizer that never ends cannot be interrupted, only killed; other models do not notice."""
    hostile = Tokenizer.from_str(TOKENIZER_JSON.decode())
    split = pre_tokenizers.Split(Regex("(?:(?:a|a)+)+(?=b)(?<!b)c"), "isolated")
    hostile.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    text, other = await text_of(library, info(tokenizer=hostile.to_str().encode())), await text_of(library, info())
    stuck = asyncio.ensure_future(text.encode("a" * 5000, WANTED, field="prompt"))
    await asyncio.sleep(0)
    assert (await other.encode("hello", WANTED, field="prompt")).tokens == encode("hello")
    with contextlib.suppress(InvalidArgumentError, ModelInvalidError):  # or the library itself gives up
        await stuck
    assert (await text.encode("xyz", WANTED, field="prompt")).tokens == encode("xyz")


@pytest.mark.parametrize("tokenizer", [b"", b"{}", b"\xff", b"[]", b'{"model": 5}', b"[" * 100_000])
async def test_a_broken_tokenizer_is_the_models_error(library, tokenizer):
    """ModelInvalid for that model; no process is left behind."""
    with pytest.raises(ModelInvalidError):
        await library.facts(info(tokenizer=tokenizer))
    assert not pids(library)


async def test_more_blocks_than_a_worker_may_have_are_refused(library):
    """What a worker claims is what the index would hold of it."""
    message = info()
    message.total_blocks = limits.MAX_WORKER_BLOCKS + 1
    with pytest.raises(ModelInvalidError, match="total_blocks is 1500001; at most 1500000"):
        await library.facts(message)
    message.total_blocks -= 1
    await library.facts(message)
    message.host_blocks = 1
    with pytest.raises(ModelInvalidError, match="host_blocks is 1; at most 0 beside total_blocks"):
        await library.facts(message)


async def test_a_child_that_dies_is_replaced(library):
    """Whatever ends it: the next request starts another, and those under way are done by it."""
    text = await text_of(library, info())
    (first,) = pids(library)
    os.kill(first, 9)
    answers = await asyncio.gather(*(text.encode("hello", WANTED, field="prompt") for _ in range(5)))
    assert {tuple(a.tokens) for a in answers} == {tuple(encode("hello"))}
    assert pids(library) != [first]


async def test_a_child_that_dies_while_it_loads_is_tried_again(library, monkeypatch):
    """What waits for it has its answer from the next one; two such deaths are the end of the wait."""
    text = await text_of(library, info())
    text._child._end()
    starts = []

    def stillborn(module, fd):
        starts.append(module)
        return spawn(module, fd) if len(starts) == 2 else spawn("argosy_router.no_such_module", fd)

    monkeypatch.setattr(child, "spawn", stillborn)
    answer = await text.encode("hello", WANTED, field="prompt")
    assert list(answer.tokens) == encode("hello")
    assert len(starts) == 2
    text._child._end()
    with pytest.raises(UnavailableError, match="does not start"):
        await text.encode("hello", WANTED, field="prompt")
    assert len(starts) == 4


async def test_a_child_is_started_without_a_fork():
    """No fork handler may run: those of gRPC may crash the fork. On the loop that the router runs on."""
    script = """
import asyncio, ctypes, uvloop
from argosy_router.children.child import Child
forks = []
handler = ctypes.CFUNCTYPE(None)(lambda: forks.append(1))
assert ctypes.CDLL(None).__register_atfork(handler, None, None, None) == 0
async def main():
    child = Child("argosy_router.fronts.bodies_work", job_s=30)
    await child.open()
    await child.close()
uvloop.run(main())
print("forks:", len(forks))
import os
if os.fork() == 0:
    os._exit(0)
os.wait()
print("seen:", len(forks))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["forks: 0", "seen: 1"], done.stderr


async def test_one_child_for_equal_models_and_sleep_beyond_the_limit(library, monkeypatch):
    """Workers of one model share a child; of many models the least used sleep, and wake when asked."""
    monkeypatch.setattr("argosy_router.text.models.AWAKE_MODELS", 2)
    first = await text_of(library, info("a{{ messages[0].content }}"))
    assert await text_of(library, info("a{{ messages[0].content }}")) is first
    await text_of(library, info("b{{ messages[0].content }}"))
    await text_of(library, info("c{{ messages[0].content }}"))
    assert len(pids(library)) == 2
    assert (await first.render(USER, WANTED, field="messages")).tokens == encode("ahi")
    await eventually(lambda: len(pids(library)) == 2)


async def test_tokenizers_are_kept_within_a_number_of_bytes(library, monkeypatch):
    """The one that was used least lately goes; a deployment that has it yet can still use it."""
    templates = [c + "{{ messages[0].content }}" for c in "abc"]
    first = await text_of(library, info(templates[0]))
    (kept,) = library._loaded.values()
    assert kept.size >= len(TOKENIZER_JSON) + len(templates[0])
    monkeypatch.setattr(limits, "MAX_KEPT_TEXT_BYTES", 2 * kept.size)
    second = await text_of(library, info(templates[1]))
    await first.render(USER, WANTED, field="messages")
    third = await text_of(library, info(templates[2]))
    assert [one.text for one in library._loaded.values()] == [first, third]
    assert len(pids(library)) == 2
    assert (await second.render(USER, WANTED, field="messages")).tokens == encode("bhi")
    ended = pids(library)
    await library.close()
    assert len(ended) == 3
    assert not pids(library)


async def test_a_busy_child_that_is_given_up_sleeps_once_it_is_idle(monkeypatch):
    """It answers what it was asked, and no process is left of it."""
    library = ModelLibrary(job_s=600)
    monkeypatch.setattr("argosy_router.text.models.KEPT_MODELS", 1)
    first = await text_of(library, info("x{{ messages[0].content }}"))
    (child,) = [c for c in library._children if c.awake]
    process = child._process
    os.kill(process.pid, signal.SIGSTOP)
    asked = asyncio.ensure_future(first.encode("hi", WANTED, field="prompt"))
    await eventually(lambda: child.busy)
    await text_of(library, info())
    assert child.pid == process.pid
    os.kill(process.pid, signal.SIGCONT)
    assert (await asked).tokens == encode("hi")
    assert child.pid is None
    await eventually(lambda: process.returncode is not None)
    await library.close()


async def test_the_end_leaves_no_process():
    """Closed: all children are gone, and who still asks is told."""
    library = ModelLibrary()
    text = await text_of(library, info())
    (pid,) = pids(library)
    await library.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(UnavailableError):
        await text.encode("x", WANTED, field="prompt")


async def test_a_child_knows_no_secret(library, monkeypatch):
    """Of the environment it has what Python needs to start."""
    monkeypatch.setenv("ARGOSY_REDIS_URL", "redis://:secret@host")
    await text_of(library, info())
    (pid,) = pids(library)
    with open(f"/proc/{pid}/environ", "rb") as file:
        found = file.read()
    assert b"secret" not in found
    assert b"TOKENIZERS_PARALLELISM=false" in found  # a long prompt has one thread, which yields


async def test_too_many_jobs_are_refused(monkeypatch):
    """The line is bounded; jobs whose callers left are not even sent."""
    monkeypatch.setattr(limits, "MAX_CHILD_JOBS", 3)
    child = Child("argosy_router.text.work", job_s=30)
    tasks = [asyncio.ensure_future(child.call({"op": "none"})) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await child.call({"op": "none"})
    for task in tasks:
        task.cancel()
    await child.close()


async def test_a_job_whose_caller_left_takes_no_place_and_no_memory():
    """While another job is long under way: what waits behind it goes with whoever asked for it."""
    library = ModelLibrary(job_s=600)
    text = await text_of(library, info(only_when_asked(ENDLESS)))
    (child,) = [c for c in library._children if c.awake]
    lane = child._lanes["short"]
    busy = asyncio.ensure_future(text.render([{"role": "user", "content": "now"}], WANTED, field="messages"))
    await eventually(lambda: len(lane.sent) == 1)
    waiting = [asyncio.ensure_future(text.encode("x", WANTED, field="prompt")) for _ in range(20)]
    await eventually(lambda: len(lane.waiting) == 21 - lane.depth)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not lane.waiting
    await library.close()
    with pytest.raises(UnavailableError):
        await busy


async def test_while_the_router_stands_still_no_job_takes_time():
    """A machine that is stopped stops both: who asked gets his answer afterwards."""
    library = ModelLibrary(job_s=3.0)
    text = await text_of(library, info())
    (child,) = [c for c in library._children if c.awake]
    process = child._process
    os.kill(process.pid, signal.SIGSTOP)
    asked = asyncio.ensure_future(text.encode("hi", WANTED, field="prompt"))
    await eventually(lambda: child.busy)
    stand_still(3.5)
    os.kill(process.pid, signal.SIGCONT)
    assert (await asked).tokens == encode("hi")
    assert child.pid == process.pid
    await library.close()


async def test_failures_are_told_apart():
    """A refusal, a failure that nobody foresaw, and a killed job."""
    child = Child(
        "argosy_router.text.work", lambda: ({"op": "open", "special_tokens": {}}, [TOKENIZER_JSON, b""]), job_s=30
    )
    await child.open()
    with pytest.raises(JobFailedError, match="KeyError"):
        await child.call({"op": "no such"})
    asked = {"messages": USER, "tools": [], "documents": [], "variables": {}}
    with pytest.raises(JobRefusedError, match="no chat template"):
        await child.call({"op": "chat"}, [json.dumps(asked).encode()])
    await child.close()
    late = Child(
        "argosy_router.text.work",
        lambda: ({"op": "open", "special_tokens": {}}, [byte_tokenizer(), b""]),
        job_s=1,
        start_s=0.0,
    )
    with pytest.raises(JobKilledError):
        await late.open()
    await late.close()


# --- bodies


@pytest.fixture
async def bodies():
    made = Bodies()
    yield made
    await made.close()


@pytest.mark.parametrize("prompt", [list(range(250)) * 40, [[1, 2, 3]] * 60 + [[5] * HERE_VALUES], "x," * 300_000])
async def test_a_large_body_is_parsed_elsewhere_and_the_same(bodies, prompt):
    """Equal to what is parsed here."""
    raw = json.dumps({"model": "m", "prompt": prompt, "n": 2}).encode()
    assert await bodies.parse("completions", raw) == completions(parse_json(raw))
    assert bodies._child.pid is not None


async def test_errors_of_large_bodies_are_the_same(bodies):
    """Field and words."""
    for document in ({"model": "m", "prompt": [1] * 9000 + [True]}, {"model": "m", "prompt": [0] * 9000, "nn": 1},
                     {"model": "m", "prompt": [0] * (limits.MAX_PROMPT_IDS + 1)}, {"model": "m", "x" * 1_000_000: 1, "prompt": "a"}):  # fmt: skip
        raw = json.dumps(document).encode()
        with pytest.raises(InvalidArgumentError) as there:
            await bodies.parse("completions", raw)
        with pytest.raises(InvalidArgumentError) as here:
            completions(parse_json(raw))
        assert (there.value.field, there.value.message) == (here.value.field, here.value.message)


async def test_a_body_of_too_many_values_is_refused(bodies):
    """10 MB of empty arrays: an error, and the next body is parsed."""
    with pytest.raises(InvalidArgumentError):
        await bodies.parse("completions", b'{"model": "m", "prompt": [' + b"[]," * 3_000_000 + b"[]]}")
    raw = json.dumps({"model": "m", "prompt": [1] * 9000}).encode()
    assert len((await bodies.parse("completions", raw)).prompts[0]) == 9000
    assert decode(encode("a")) == "a"
