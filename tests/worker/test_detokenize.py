"""Text pieces joined are the decoding of all tokens, cut before the stop string, however the bytes fall."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from argosy_worker import sim
from argosy_worker.engine.detokenize import Detokenizer, StopFinder, TextVocabulary
from argosy_worker.models import sentencepiece

BYTES = TextVocabulary(sim.tokenizer_json())
REFERENCE = Tokenizer.from_buffer(sim.tokenizer_json())

# bytes of real characters of all lengths, broken pieces of them, bytes that are never valid, special and unknown ids
pieces = st.one_of(
    st.text(st.sampled_from("ab é中😀👩‍👩‍👧‍👦\ufffd\n"), min_size=1, max_size=3).map(lambda s: list(s.encode())),
    st.binary(min_size=1, max_size=4).map(list),
    st.sampled_from([[sim.IM_END], [sim.IM_START], [258, 256], [0xFF] * 12, [0xF0, 0x9F], [0x98, 0x80], [4000]]),
)
tokens_of = st.lists(pieces, max_size=12).map(lambda parts: list(itertools.chain.from_iterable(parts)))


def feed(tokens, stops=(), *, min_tokens=0, vocabulary=BYTES):
    detokenizer = Detokenizer(vocabulary, stops, min_tokens=min_tokens)
    text = ""
    for count, token in enumerate(tokens, 1):
        piece, stop = detokenizer.push(token)
        text += piece
        if stop is not None:
            return text, stop, count
    piece, stop = detokenizer.finish()
    return text + piece, stop, len(tokens)


@settings(max_examples=600, deadline=None)
@given(tokens_of)
def test_pieces_join_to_the_whole_decoding(tokens):
    assert feed(tokens) == (REFERENCE.decode(tokens, skip_special_tokens=True), None, len(tokens))


def first_complete(text, stops):
    """Reference: read character by character; the first moment at which any stop string is complete."""
    for end in range(1, len(text) + 1):
        matching = [s for s in stops if text[:end].endswith(s)]
        if matching:
            longest = max(matching, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=600, deadline=None)
@given(tokens_of, st.lists(st.text(st.sampled_from("ab é中😀\n"), min_size=1, max_size=4), min_size=1, max_size=4))
def test_text_is_cut_before_the_stop_string_that_is_complete_first(tokens, stops):
    whole = REFERENCE.decode(tokens, skip_special_tokens=True)
    assert feed(tokens, stops)[:2] == first_complete(whole, stops)


@settings(max_examples=400, deadline=None)
@given(
    st.text(st.sampled_from("aab"), max_size=30),
    st.lists(st.text(st.sampled_from("ab"), min_size=1, max_size=5), min_size=1, max_size=4),
    st.data(),
)
def test_the_finder_does_not_depend_on_how_the_text_is_cut(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    finder, out, found = StopFinder(stops), "", None
    for begin, end in itertools.pairwise([0, *cuts, len(text)]):
        piece, found = finder.push(text[begin:end])
        out += piece
        if found is not None:
            break
    assert (out + ("" if found else finder.finish()), found) == first_complete(text, stops)


@settings(max_examples=400, deadline=None)
@given(
    st.text(st.sampled_from("ab"), min_size=1, max_size=20),
    st.text(st.sampled_from("ab"), min_size=1, max_size=3),
    st.integers(0, 20),
)
def test_a_stop_string_counts_only_when_complete_at_min_tokens_or_later(text, stop, min_tokens):
    expected = next((end for end in range(max(min_tokens, 1), len(text) + 1) if text[:end].endswith(stop)), None)
    got, found, count = feed(list(text.encode()), [stop], min_tokens=min_tokens)
    if expected is None:
        assert (got, found) == (text, None)
    else:
        assert (got, found, count) == (text[: expected - len(stop)], stop, expected)


def test_what_may_become_a_stop_string_is_held_back_and_no_more():
    detokenizer = Detokenizer(BYTES, ["</s>"])
    assert [detokenizer.push(t)[0] for t in b"ab</x</"] == ["a", "b", "", "", "</x", "", ""]
    assert detokenizer.finish() == ("</", None)


def test_an_incomplete_character_is_held_back():
    detokenizer = Detokenizer(BYTES, [])
    assert [detokenizer.push(t)[0] for t in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]


def test_endless_garbage_stays_cheap():
    """Tokens that never become text must not be decoded again and again: the window stays short."""
    detokenizer = Detokenizer(BYTES, [])
    tokens = [0xFF, 0xC0, 0x80, 0xE4] * 500
    text = "".join(detokenizer.push(t)[0] for t in tokens)
    assert len(detokenizer._decoder._window) < 20
    assert text + detokenizer.finish()[0] == REFERENCE.decode(tokens)


def test_endless_special_tokens_stay_cheap_and_join_what_lies_beside_them():
    """As in a benchmark that ignores ends. The library's stream is quadratic there, and never tells an unfinished end."""
    detokenizer = Detokenizer(BYTES, [])
    tokens = [0xC3, *[sim.IM_END] * 3000, 0xA9, 0xC3]
    pieces = [detokenizer.push(t)[0] for t in tokens]
    assert len(detokenizer._decoder._window) < 20
    assert "".join(pieces) == "é"
    assert detokenizer.finish()[0] == "\ufffd"
    assert REFERENCE.decode(tokens) == "é\ufffd"


@pytest.mark.parametrize("tokens", [[*"a\ufffd".encode()], [0x61, 0xF0, 0x9F]])
def test_the_end_of_a_text_is_told_be_it_unfinished_or_a_replacement_character(tokens):
    assert feed(tokens)[0] == REFERENCE.decode(tokens)
    assert feed(tokens)[0].endswith("\ufffd")


@pytest.fixture(scope="module")
def sentencepiece_like():
    """A vocabulary whose decoder drops the first space of a text, as those of Llama 2 and Mistral do."""
    words = ["<unk>", "▁Hello", "▁world", "s", "▁", "▁again"]
    return TextVocabulary(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"},
            }
        ).encode()
    )


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(1, 5), max_size=12))
def test_a_decoder_that_treats_the_first_token_differently(sentencepiece_like, tokens):
    assert feed(tokens, vocabulary=sentencepiece_like)[0] == sentencepiece_like.decode(tokens)


def test_the_space_between_prompt_and_answer_is_kept(sentencepiece_like):
    detokenizer = Detokenizer(sentencepiece_like, [], prompt=[1])
    assert detokenizer.push(2)[0] + detokenizer.push(3)[0] == " worlds"


# --- vocabularies that fall back to bytes, as those of Llama 2, Mistral and Gemma

PIECES = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁b", "é", "▁漢"]
BYTE, WORDS, UNKNOWN_ID = 2, range(258, 263), 4000
TYPES = [sentencepiece.UNKNOWN, sentencepiece.CONTROL, *[sentencepiece.BYTE] * 256, *[sentencepiece.NORMAL] * 5]
FALLBACK_JSON = json.dumps(
    sentencepiece.document(
        sentencepiece.Model(
            kind="bpe", pieces=[sentencepiece.Piece(t, 0.0, kind) for t, kind in zip(PIECES, TYPES, strict=True)]
        ),
        vocab={text: i for i, text in enumerate(PIECES)}, added={1: True}, post_processor=None,
    )
).encode()  # fmt: skip
FALLBACK = TextVocabulary(FALLBACK_JSON)

runs = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
    st.text(st.sampled_from("a é漢😀\n▁�"), min_size=1, max_size=3).map(lambda s: [BYTE + b for b in s.encode()]),
    st.binary(min_size=1, max_size=3).map(lambda raw: [BYTE + b for b in raw]),
    st.sampled_from([[1], [1, 1], [UNKNOWN_ID]]),
)


def bytes_of(token):
    if token in (1, UNKNOWN_ID):
        return b""
    return bytes([token - BYTE]) if BYTE <= token < BYTE + 256 else PIECES[token].replace("▁", " ").encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(runs, max_size=8).map(lambda parts: list(itertools.chain.from_iterable(parts))))
def test_bytes_that_are_no_characters_change_nothing_beside_them(tokens):
    """Of the text that their bytes are; the first space of a text is no part of it. The library takes a whole run back."""
    expected = b"".join(map(bytes_of, tokens)).decode(errors="replace").removeprefix(" ")
    assert feed(tokens, vocabulary=FALLBACK)[0] == expected
    library = Tokenizer.from_buffer(FALLBACK_JSON).decode(tokens, skip_special_tokens=True)
    if "�" not in expected:
        assert library == expected


class Counting:
    """A vocabulary that counts the tokens it is asked to decode."""

    def __init__(self, vocabulary):
        self._vocabulary, self.silent, self.decoded = vocabulary, vocabulary.silent, 0

    def decode(self, tokens):
        self.decoded += len(tokens)
        return self._vocabulary.decode(tokens)


@pytest.mark.parametrize(
    ("vocabulary", "byte", "special"), [(BYTES, 0, sim.IM_END), (FALLBACK, BYTE, 1)], ids=["byte-level", "fallback"]
)
@pytest.mark.parametrize(
    "run", [[0x61], [0xFF], [0x80, 0xF0, 0x9F], [0xE4], ["special"], ["none"], ["none", "special", 0xC3]], ids=str
)
@pytest.mark.parametrize("first", [[], [0xC3], [0xF0, 0x9F, 0x98]], ids=["", "after 1 of 2", "after 3 of 4"])
def test_the_work_is_in_proportion_to_the_tokens(vocabulary, byte, special, run, first):
    """Of text, undecodable bytes, special tokens and ids that there are not, also behind an unfinished character."""
    ids = {"special": special, "none": UNKNOWN_ID}
    work = []
    for count in (100, 200, 400):
        counting = Counting(vocabulary)
        detokenizer = Detokenizer(counting, [])
        tokens = [ids[t] if t in ids else byte + t for t in [*first, *run * count]]
        text = "".join(detokenizer.push(t)[0] for t in tokens) + detokenizer.finish()[0]
        assert text == bytes(t for t in [*first, *run * count] if t not in ids).decode(errors="replace")
        work.append(counting.decoded)
    assert work[2] - work[1] <= 2 * (work[1] - work[0]) + 100
    assert work[2] <= 40 * len(tokens)


@pytest.mark.parametrize(("vocabulary", "byte", "special"), [(BYTES, 0, sim.IM_END), (FALLBACK, BYTE, 1)])
def test_bytes_on_both_sides_of_what_has_no_text_are_one_character(vocabulary, byte, special):
    for between in (special, UNKNOWN_ID):
        assert feed([byte + 0xC3, *[between] * 500, byte + 0xA9], vocabulary=vocabulary)[0] == "é"
