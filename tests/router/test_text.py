"""Tokens, chat templates, OIP tensors' neighbours: the parts between a request's text and its ids."""

import asyncio
import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_kit import TEMPLATE, TOKENIZER_JSON, encode

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError, ModelInvalidError
from argosy_api.membership import Deployment, Membership, Worker
from argosy_router.fleet.membership import FileSource, source
from argosy_router.fronts.oai_format import LegacyLogprobs
from argosy_router.service import check_request_id, request_id
from argosy_router.text.chat import ChatRenderer
from argosy_router.text.tokenize import Text

TEXT = Text(TOKENIZER_JSON)
USER = [{"role": "user", "content": "hi"}]


def renderer(template: str, **more) -> ChatRenderer:
    return ChatRenderer(template, {"bos_token": "<s>", "eos_token": "</s>"}, **more)


# --- tokens


@given(st.text(max_size=50).filter(lambda t: "<|" not in t))
def test_token_bytes_add_up_to_the_text(text):
    """The bytes of all tokens are the text's bytes, whatever the characters."""
    assert b"".join(TEXT.token_bytes(t) for t in TEXT.encode(text)) == text.encode()


def test_single_tokens():
    """Special tokens are their content, partial characters are written as bytes, unknown ids are empty."""
    (special,) = encode("<|im_start|>")
    assert TEXT.token_text(special) == "<|im_start|>"
    assert [TEXT.token_text(t) for t in encode("é")] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert TEXT.token_bytes(10**6) == b""


def test_offsets_are_those_of_characters():
    """text_offset counts characters, and bytes within one share its place's end."""
    legacy = LegacyLogprobs(TEXT, 0)
    from argosy_api.v1 import worker_pb2 as pb

    entries = [pb.TokenLogprob(token=t, logprob=-1) for t in encode("aé漢b")]
    assert legacy.take(entries)["text_offset"] == [0, 1, 2, 2, 3, 3, 3]


def test_surrogates_are_refused():
    """They are no text."""
    with pytest.raises(InvalidArgumentError, match="prompt: is not valid Unicode"):
        TEXT.encode("a\ud800")


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[]", b'{"model": 5}'])
def test_broken_tokenizer(raw):
    """A worker's broken tokenizer is an error of that model, not of the router."""
    with pytest.raises(ModelInvalidError):
        Text(raw)


# --- chat templates


def test_rendering():
    """ChatML with the assistant's header at the end."""
    assert renderer(TEMPLATE).render(USER) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_helpers_of_the_usual_templates():
    """bos and eos, tojson without HTML escapes, strftime_now, loop controls, raise_exception."""
    assert renderer("{{ bos_token }}{{ eos_token }}").render(USER) == "<s></s>"
    assert (
        renderer("{{ messages[0] | tojson }}").render([{"role": "user", "content": "<é>"}])
        == '{"role": "user", "content": "<é>"}'
    )
    assert renderer("{{ strftime_now('%Y') }}").render(USER).isdigit()
    assert (
        renderer("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}").render(USER) == "01"
    )
    with pytest.raises(InvalidArgumentError, match="messages: refused by the model's chat template: no system"):
        renderer("{{ raise_exception('no system') }}").render(USER)


BROKEN = [
    "", "{% for %}", "{{ ", "{{ messages[5].content.x }}", "{{ 1 / 0 }}", "{{ undefined_function() }}", "{{ messages | nope }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__.os.popen('id') }}",
    "{{ messages.__class__ }}{{ messages.pop() }}", "{% for i in range(10**9) %}{% endfor %}",
    "{{ 'a' * 10**9 }}", "{{ 10**9 * ['a'] }}", "{{ 9**99999999 }}", "{{ '%999999999d' % 5 }}", "{{ '%*d' % (999999999, 5) }}",
    "{{ '{:999999999}'.format(5) }}", "{{ 'a'.ljust(999999999) }}", "{{ 'a' | center(999999999) }}", "{{ 'a' | format(1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}", "{{ lipsum.__globals__['os'] }}",
    "x" * (limits.MAX_CHAT_TEMPLATE_BYTES + 1),
]  # fmt: skip


@pytest.mark.parametrize("template", BROKEN, ids=lambda t: t[:40])
def test_broken_and_hostile_templates(template):
    """An error that names messages; the process and its thread live on."""
    with pytest.raises(InvalidArgumentError) as caught:
        renderer(template, limit_s=5).render(USER)
    assert caught.value.field == "messages"
    assert renderer(TEMPLATE).render(USER)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    ],
)
def test_endless_templates_are_stopped(template):
    """After the limit, in the thread that renders; it goes on to render others."""
    started = time.monotonic()
    with pytest.raises(InvalidArgumentError, match="took more than"):
        renderer(template, limit_s=0.2).render(USER)
    assert time.monotonic() - started < 5
    assert renderer(TEMPLATE).render(USER)


def test_endless_output_is_stopped():
    """Size is limited as well as time."""
    with pytest.raises(InvalidArgumentError, match="wrote more than"):
        renderer("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", limit_s=30).render(USER)


def test_many_short_limits_leave_threads_unharmed():
    """However the limit falls, a render either gives its text or its error; nothing is raised later."""
    quick = renderer("{% for i in range(300) %}{{ i }}{% endfor %}", limit_s=0.0005)
    expected = "".join(map(str, range(300)))
    outcomes = []

    def work() -> None:
        for _ in range(200):
            try:
                outcomes.append(quick.render(USER) == expected)
            except InvalidArgumentError:
                outcomes.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert outcomes == [True] * 200


# --- request ids


@pytest.mark.parametrize("given", ["a", "A-b_c.d:9", "x" * 128, "gateway.example/AbC123-000007", "q83vEjRWeJA=", "a b"])
def test_request_ids_are_kept(given):
    """Those that are fit for a log."""
    assert request_id(given) == given


@pytest.mark.parametrize("given", ["x" * 129, "é", "a\n", "\x00"])
def test_request_ids_are_replaced(given):
    """Others: in a header by a new one, never a reason to refuse; in a field of the request they are refused."""
    assert request_id(given) != given
    with pytest.raises(InvalidArgumentError, match="request_id"):
        check_request_id(given, field="request_id")


def test_request_ids_are_made():
    """Never the same."""
    assert request_id(None) != request_id("")


# --- membership file


def view(*ids: str) -> Membership:
    workers = tuple(Worker(worker_id=i, address="127.0.0.1:1") for i in ids)
    return Membership((Deployment(namespace="default", name="m", served_name="m", workers=workers),))


async def test_membership_file_is_followed(tmp_path):
    """Each replacement gives a view; a missing or broken file keeps the last one."""
    path = tmp_path / "members.json"
    views = FileSource(path, poll_s=0.005).views()
    first = asyncio.ensure_future(anext(views))
    await asyncio.sleep(0.02)
    assert not first.done()
    path.write_text(view("a").to_json())
    assert await asyncio.wait_for(first, 5) == view("a")
    second = asyncio.ensure_future(anext(views))
    for broken in ("", "{", "[]", '{"deployments": [{}]}', json.dumps({"deployments": 5})):
        path.write_text(broken)
        await asyncio.sleep(0.02)
    path.unlink()
    await asyncio.sleep(0.02)
    assert not second.done()
    replacement = tmp_path / "new.json"
    replacement.write_text(view("a", "b").to_json())
    replacement.replace(path)
    assert await asyncio.wait_for(second, 5) == view("a", "b")
    await views.aclose()


def test_unknown_source():
    """Only what this build has."""
    with pytest.raises(InvalidArgumentError):
        source("carrier-pigeon")
