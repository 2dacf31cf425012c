"""The tokenizer built from the GGUF gives llama.cpp's ids."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.models.gguf_tokenizer import read_tokenizer

FIXTURE = json.loads((Path(__file__).parent / "fixtures/tokenizer_smollm2.json").read_text(encoding="utf-8"))
META = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "</s>"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 3],
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
    assert Tokenizer.from_str(found.json.decode()).encode("ab").ids == [0, 3]
    plain = read_tokenizer(META, 5)
    assert Tokenizer.from_str(plain.json.decode()).encode("ab</s>").ids == [3, 4]
    assert plain.eos_token_ids == (4,)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokenizer.ggml.pre": "made-up"}, ModelUnsupportedError),
        ({"tokenizer.ggml.model": "llama"}, ModelUnsupportedError),
        ({"tokenizer.ggml.merges": ["a c"]}, ModelInvalidError),
        ({"tokenizer.ggml.merges": ["ab"]}, ModelInvalidError),
        ({"tokenizer.ggml.merges": 7}, ModelInvalidError),
        ({"tokenizer.ggml.token_type": [1]}, ModelInvalidError),
        ({"tokenizer.ggml.tokens": []}, ModelInvalidError),
        ({"tokenizer.ggml.tokens": ["a"] * 6}, ModelInvalidError),
        ({"tokenizer.ggml.eos_token_id": 5}, ModelInvalidError),
        ({"tokenizer.chat_template": 3}, ModelInvalidError),
    ],
)
def test_bad_vocabularies_are_refused(change, error):
    with pytest.raises(error):
        read_tokenizer({**META, **change}, 5)
