"""Text pieces joined are the decoding of all tokens, cut before the stop string, however the bytes fall."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from argosy_worker import sim
from argosy_worker.engine.detokenize import Detokenizer, StopFinder, TextVocabulary

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
