"""The tokenizer built from the GGUF gives llama.cpp's ids."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.models.end_tokens import end_texts
from argosy_worker.models.gguf_tokenizer import read_tokenizer
from argosy_worker.models.open_model import parse_tokenizer

FIXTURE = json.loads((Path(__file__).parent / "fixtures/tokenizer_smollm2.json").read_text(encoding="utf-8"))
META = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "</s>"],
    "tokenizer.ggml.token_type": np.array([3, 1, 1, 1, 3], dtype=np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 4,
}


@pytest.fixture(scope="module")
def tokenizer(int8_model):
    return Tokenizer.from_str(int8_model.facts.tokenizer_json.decode())


def test_fixture_is_large_enough():
    assert len(FIXTURE["cases"]) >= 200


def test_ids_equal_llama_cpp(tokenizer):
    """Ids of all fixture strings, special tokens parsed and added as llama.cpp does."""
    for case in FIXTURE["cases"]:
        assert tokenizer.encode(case["text"]).ids == case["ids"], case["text"]


def test_decoding_gives_the_text_back(tokenizer):
    for case in FIXTURE["cases"]:
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]


def test_tokens_become_text_without_merges(int8_model, tokenizer):
    """What a worker reads of the vocabulary: every token, alone and joined, gives the text that the whole one gives."""
    facts = int8_model.facts
    assert json.loads(facts.decoding) == json.loads(facts.tokenizer_json) | {
        "model": json.loads(facts.tokenizer_json)["model"] | {"merges": []}
    }
    less = Tokenizer.from_buffer(facts.decoding)
    assert less.get_vocab() == tokenizer.get_vocab()
    for case in FIXTURE["cases"]:
        assert less.decode(case["ids"]) == tokenizer.decode(case["ids"])
        assert less.decode(case["ids"], skip_special_tokens=False) == case["text"]


@pytest.mark.parametrize("merges", [["a  b"], ["ab"], ["a c"], ["b a"], ["a b", " b"], ["a "]])
def test_merges_are_checked_though_the_worker_does_not_read_them(merges):
    with pytest.raises(ModelInvalidError, match="does not make a token"):
        read_tokenizer({**META, "tokenizer.ggml.merges": merges}, 5)


def test_facts(int8_model):
    """No BOS is added for this file; <|im_end|> ends a reply."""
    facts = int8_model.facts
    assert (
        facts.add_bos,
        facts.bos_token_id,
        facts.special_tokens["bos_token"],
        facts.special_tokens["eos_token"],
    ) == (
        False,
        1,
        "<|im_start|>",
        "<|im_end|>",
    )
    assert 2 in facts.eos_token_ids
    assert "<|im_start|>" in facts.chat_template


def test_bos_is_added_where_the_file_says_so():
    found = read_tokenizer({**META, "tokenizer.ggml.add_bos_token": True}, 5)
    assert Tokenizer.from_str(found.tokenizer_json.decode()).encode("ab").ids == [0, 3]
    plain = read_tokenizer(META, 5)
    assert Tokenizer.from_str(plain.tokenizer_json.decode()).encode("ab</s>").ids == [3, 4]
    assert plain.eos_token_ids == (4,)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokenizer.ggml.pre": "made-up"}, ModelUnsupportedError),
        ({"tokenizer.ggml.model": "bert"}, ModelUnsupportedError),
        ({"tokenizer.ggml.model": "llama"}, ModelInvalidError),
        ({"tokenizer.ggml.merges": ["a c"]}, ModelInvalidError),
        ({"tokenizer.ggml.merges": ["ab"]}, ModelInvalidError),
        ({"tokenizer.ggml.merges": 7}, ModelInvalidError),
        ({"tokenizer.ggml.token_type": np.array([1])}, ModelInvalidError),
        ({"tokenizer.ggml.token_type": np.array([1.5] * 5)}, ModelInvalidError),
        ({"tokenizer.ggml.token_type": ["a"] * 5}, ModelInvalidError),
        ({"tokenizer.ggml.token_type": 3}, ModelInvalidError),
        ({"tokenizer.ggml.pre": ["gpt-2"]}, ModelInvalidError),
        ({"tokenizer.ggml.model": 2}, ModelInvalidError),
        ({"tokenizer.ggml.tokens": np.zeros(5)}, ModelInvalidError),
        ({"tokenizer.ggml.add_bos_token": np.array([1])}, ModelInvalidError),
        ({"tokenizer.ggml.bos_token_id": np.array([1])}, ModelInvalidError),
        ({"tokenizer.ggml.bos_token_id": True}, ModelInvalidError),
        ({"tokenizer.ggml.tokens": []}, ModelInvalidError),
        ({"tokenizer.ggml.tokens": ["a"] * 6}, ModelInvalidError),
        ({"tokenizer.ggml.eos_token_id": 5}, ModelInvalidError),
        ({"tokenizer.chat_template": 3}, ModelInvalidError),
    ],
)
def test_bad_vocabularies_are_refused(change, error):
    with pytest.raises(error):
        read_tokenizer({**META, **change}, 5)


@pytest.mark.parametrize("kind", [0, 1, 2, 4])
def test_tokens_that_end_a_text_are_one_token_whatever_their_type(kind):
    """Named by the metadata, or known by its text: found in a prompt as one token, and an end."""
    meta = {
        **META,
        "tokenizer.ggml.tokens": [*META["tokenizer.ggml.tokens"], "<|im_end|>"],
        "tokenizer.ggml.token_type": np.array([3, 1, 1, 1, kind, kind]),
    }
    found = read_tokenizer(meta, 6)
    assert found.eos_token_ids == (4, 5)
    tokenizer = Tokenizer.from_str(found.tokenizer_json.decode())
    assert tokenizer.encode("ab</s>ab<|im_end|>").ids == [3, 4, 3, 5]
    assert tokenizer.decode([3, 4, 5]) == "ab"


def test_a_tokenizer_that_no_message_could_carry_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(ModelInvalidError, match="at most 100"):
        parse_tokenizer(read_tokenizer(META, 5).tokenizer_json)


def test_a_text_that_ends_messages_only_is_no_end_of_the_answer():
    assert list(end_texts({"<|end|>", "<|im_end|>", "x"})) == ["<|im_end|>", "<|end|>"]
    assert list(end_texts({"<|end|>", "<|return|>"})) == []


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (" ½", [216, 16738]),
        (" ③", [216, 173, 235, 112]),
        ("½", [16738]),
        (" ²³", [216, 19133, 39050]),
        ("x①y", [104, 173, 235, 250, 105]),
        ("12½34", [33, 34, 16738, 35, 36]),
    ],
)
def test_digits_of_all_kinds_stand_alone(tokenizer, text, ids):
    """Of `tokenizer.ggml.pre` smollm, which a loader may not pass over; the ids are llama.cpp's (2026.10.11549)."""
    assert tokenizer.encode(text).ids == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\x04b", [81, 82]),
        ("\x06", []),
        ("a\x13\x14b", [81, 82]),
        ("\x16x\x1d", [104]),
        ("\U00040000", [218, 218, 218]),
        ("\x04<|im_end|>", [2]),
    ],
)
def test_a_byte_without_a_token_is_left_out(tokenizer, text, ids):
    """As llama.cpp has it (2026.10.11549), and never the token that `unknown_token_id` names: here 0, <|endoftext|>."""
    assert tokenizer.encode(text).ids == ids


def unknown(document):
    """What a text of a byte that the vocabulary lacks becomes."""
    return Tokenizer.from_str(document.decode()).encode("a\x04b", add_special_tokens=False).ids


@pytest.mark.parametrize("number", [0, 2, 4])
def test_no_text_becomes_the_token_for_what_is_unknown(number):
    assert unknown(read_tokenizer({**META, "tokenizer.ggml.unknown_token_id": number}, 5).tokenizer_json) == [1, 2]
