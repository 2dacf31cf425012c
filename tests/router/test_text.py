"""Tokens, chat templates, OIP tensors' neighbours: the parts between a request's text and its ids."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_kit import TEMPLATE, TOKENIZER_JSON, byte_tokenizer, encode
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.membership import Deployment, Membership, Worker
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.children import RefusedError
from argosy_router.fleet.membership import FileSource, source
from argosy_router.fronts import oai_logprobs
from argosy_router.fronts.oai_logprobs import LegacyLogprobs
from argosy_router.fronts.request_ids import check_request_id, request_id
from argosy_router.text.chat import ChatRenderer
from argosy_router.text.tokenize import Text
from argosy_router.text.vocabulary import Vocabulary

TEXT = Text(TOKENIZER_JSON)
VOCABULARY = Vocabulary(map(len, TEXT.vocabulary()), b"".join(TEXT.vocabulary()), TEXT.special)
USER = [{"role": "user", "content": "hi"}]


def renderer(template: str) -> ChatRenderer:
    return ChatRenderer(template, {"bos_token": "<s>", "eos_token": "</s>"})


# --- tokens


@given(st.text(max_size=50).filter(lambda t: "<|" not in t))
def test_token_bytes_add_up_to_the_text(text):
    """The bytes of all tokens are the text's bytes, whatever the characters."""
    assert b"".join(TEXT.token_bytes(t) for t in TEXT.encode(text)) == text.encode()


def byte_fallback():
    """A vocabulary of 256 bytes, a word and a control token, as Llama 2's and Gemma's fall back."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581ship", "</s>"]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return Text(tokenizer.to_str().encode())


@given(
    st.lists(st.one_of(st.binary(max_size=4), st.text("é漢😀", max_size=2).map(str.encode)), max_size=6).map(b"".join)
)
def test_bytes_that_are_no_characters_are_told_as_in_answers(raw):
    """Each invalid sequence is one U+FFFD; the library makes one of every byte beside it, too."""
    ids = [256, *raw, 257, *raw, 256]
    expected = b" ship" + raw + b"</s>" + raw + b" ship"
    assert byte_fallback().decode(ids) == expected.decode(errors="replace")


def test_single_tokens():
    """Special tokens are their content, partial characters are written as bytes, unknown ids are empty."""
    (special,) = encode("<|im_start|>")
    assert VOCABULARY.token_text(special) == "<|im_start|>"
    assert special in VOCABULARY.special
    assert [VOCABULARY.token_text(t) for t in encode("é")] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert VOCABULARY.token_bytes(10**6) == VOCABULARY.token_bytes(-1) == b""
    assert all(VOCABULARY.token_bytes(t) == TEXT.token_bytes(t) for t in range(300))


def test_a_bad_word_is_looked_for_alone_and_after_a_space():
    """With merges these are other tokens; where the space stands apart, the word alone says it all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "Ġh"])}, merges=[("Ġ", "h")]))
    merged.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merged.decoder = decoders.ByteLevel()
    text = Text(merged.to_str().encode())
    assert text.words("hi") == [text.encode("hi"), [256, *text.encode("i")]]
    assert text.words("in") == [text.encode("in")]
    assert TEXT.words("hi") == [encode("hi")]
    assert TEXT.words("") == []


def entries_of(text: str, top: int = 0) -> list[pb.TokenLogprob]:
    more = [pb.Alternative(token=i, logprob=-2) for i in range(top)]
    return [pb.TokenLogprob(token=t, logprob=-1, top=more) for t in encode(text)]


async def test_offsets_are_those_of_characters():
    """text_offset counts characters, and bytes within one share its place's end; control tokens take no room."""
    legacy = LegacyLogprobs(VOCABULARY, 0)
    assert (await legacy.take(entries_of("aé漢b")))["text_offset"] == [0, 1, 2, 2, 3, 3, 3]
    assert (await legacy.take(entries_of("<|im_end|>c<|im_end|>d")))["text_offset"] == [4, 4, 5, 5]


async def test_offsets_of_a_prompt():
    """Those in the text that was sent; of token ids, by what they stand for, within the text that is shown."""
    legacy = LegacyLogprobs(VOCABULARY, 0)
    ids = encode("<|im_start|>ab")
    made = await legacy.take_prompt(ids, entries_of("ab"), [0, 0, 1], "ab")
    assert made["text_offset"] == [0, 0, 1]
    assert (await legacy.take(entries_of("c")))["text_offset"] == [2]
    made = await LegacyLogprobs(VOCABULARY, 0).take_prompt(ids, entries_of("ab"), [], "<|im_start|>ab")
    assert made["text_offset"] == [0, 12, 13]


@pytest.mark.parametrize("form", ["legacy", "chat", "prompt"])
async def test_many_log_probabilities_leave_room_for_others(form):
    """However many there are: others get their turn after each slice of them."""
    entries = entries_of("x" * 2000, top=20)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await asyncio.sleep(0)
    if form == "legacy":
        await LegacyLogprobs(VOCABULARY, 20).take(entries)
    elif form == "chat":
        await oai_logprobs.chat(VOCABULARY, entries, 20)
    else:
        await oai_logprobs.prompt(VOCABULARY, encode("x" * 2001), entries)
    beside.cancel()
    assert turns >= 2000 * 21 // oai_logprobs.SLICE


def test_the_post_processors_tokens_stand_before_a_prompt():
    """As transformers has it, once: a prompt that begins with them has them already."""
    text = Text(byte_tokenizer(bos="<|endoftext|>"))
    bos = encode("<|endoftext|>")
    assert text.encode_prompt("ab") == text.encode_prompt("<|endoftext|>ab") == bos + encode("ab")
    assert text.encode("ab") == encode("ab")
    assert text.offsets("aé", text.encode_prompt("aé")) == [0, 0, 1, 2]


def test_padding_in_the_file_is_no_part_of_a_prompt():
    """A length to pad to that training left in tokenizer.json."""
    padded = Tokenizer.from_str(TOKENIZER_JSON.decode())
    padded.enable_padding(direction="left", pad_id=0, pad_token="x", length=32)
    assert Text(padded.to_str().encode()).encode_prompt("ab") == encode("ab")


def test_a_text_without_a_chance_is_not_tokenized_whole():
    """Its beginning has twice the tokens that fit; one that may fit is."""
    assert TEXT.surely_longer("x" * 1_000_000, 8192)
    assert TEXT.surely_longer("x" * 1_000_000, 65_536)
    assert not TEXT.surely_longer("x" * 1_000_000, 131_072)
    assert not TEXT.surely_longer("x" * 60_000, 10)


class OnlyBatches:
    """A tokenizer without the forms for one text: those hold the GIL for as long as a prompt takes."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        assert name not in ("encode", "decode"), f"{name} holds the GIL"
        return getattr(self._tokenizer, name)


def test_others_run_while_a_text_is_tokenized():
    """Every job takes the forms for several texts, which release the GIL, of a batch of one, too."""
    text = Text(TOKENIZER_JSON)
    text._tokenizer = OnlyBatches(text._tokenizer)
    assert text.encode("ab") == text.encode_prompt("ab") == encode("ab")
    assert text.offsets("ab", encode("ab")) == [0, 1]
    assert text.words("a") == [encode("a")]
    assert text.surely_longer("x" * 1_000_000, 8192)
    assert text.decode(encode("<|im_end|>a")) == "<|im_end|>a"
    assert text.vocabulary() == TEXT.vocabulary()
    with pytest.raises(AssertionError, match="encode holds the GIL"):
        text._tokenizer.encode("ab")


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[]", b'{"model": 5}'])
def test_broken_tokenizer(raw):
    """A worker's broken tokenizer is an error of that model, not of the router."""
    with pytest.raises(RefusedError):
        Text(raw)


# --- chat templates


def test_rendering():
    """ChatML with the assistant's header at the end."""
    assert renderer(TEMPLATE).render(USER) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_environment_is_that_of_transformers():
    """The generation block, `format`, and all arguments of `tojson`."""
    marked = "{% for m in messages %}{% generation %}{{ m.content }}!{% endgeneration %}{% endfor %}"
    assert renderer(marked).render(USER) == "hi!"
    assert renderer("{{ '%s and %s' | format(messages[0].content, 1) }}").render(USER) == "hi and 1"
    message = [{"role": "user", "content": "hi"}]
    assert (
        renderer("{{ messages[0] | tojson(separators=(',', ':')) }}").render(message)
        == '{"role":"user","content":"hi"}'
    )
    assert renderer("{{ messages[0] | tojson(sort_keys=True) }}").render(message) == '{"content": "hi", "role": "user"}'
    assert renderer("{{ messages[0].content }}{{ 'é' | tojson(ensure_ascii=True) }}").render(message) == 'hi"\\u00e9"'
    assert (
        renderer("{{ messages[0] | tojson(indent=1) }}").render(message) == '{\n "role": "user",\n "content": "hi"\n}'
    )


def test_special_tokens_are_variables():
    """All that are named, and only those."""
    template = "{{ messages[0].content }}{% if pad_token is defined %}{{ pad_token }}{% endif %}{{ unk_token }}"
    assert ChatRenderer(template, {"pad_token": "<p>"}).render(USER) == "hi<p>"


PARTS = "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"


def test_content_has_the_shape_that_the_template_takes():
    """Found out when it is loaded: parts for one that goes over parts; refused where the text would vanish."""
    assert renderer(PARTS).render(USER) == "hi"
    with pytest.raises(RefusedError, match="chat template leaves out what the user says"):
        renderer("{% for m in messages %}{{ m.role }}{% endfor %}").render(USER)
    wants_system = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[1].content }}"
    )
    assert renderer(wants_system).render([{"role": "system", "content": "s"}, *USER]) == "hi"


def test_helpers_of_the_usual_templates():
    """bos and eos, tojson without HTML escapes, strftime_now, loop controls, raise_exception."""
    assert renderer("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}").render(USER) == "<s>hi</s>"
    assert (
        renderer("{{ messages[0] | tojson }}").render([{"role": "user", "content": "<é>"}])
        == '{"role": "user", "content": "<é>"}'
    )
    assert renderer("{{ messages[0].content }}{{ strftime_now('%Y') }}").render(USER)[2:].isdigit()
    assert (
        renderer(
            "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ messages[0].content }}"
        ).render(USER)
        == "01hi"
    )
    with pytest.raises(RefusedError, match="refused by the model's chat template: no system"):
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
    with pytest.raises(RefusedError, match="chat template"):
        renderer(template).render(USER)
    assert renderer(TEMPLATE).render(USER)


def test_endless_output_is_stopped():
    """Size is limited as well as time."""
    with pytest.raises(RefusedError, match="wrote more than"):
        renderer("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}").render(USER)


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
