"""Each pre-tokenizer that a GGUF file can name cuts hostile texts as llama.cpp does.

The fixture is written by tools/make_pretokenizer_fixture.py.
"""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.models.gguf_pretokenizers import PRE_TOKENIZERS
from argosy_worker.models.gguf_tokenizer import read_tokenizer

FIXTURE = json.loads((Path(__file__).parent / "fixtures/pretokenizers.json").read_text(encoding="utf-8"))
NAMES = {name: kind["ids"] for kind in FIXTURE["kinds"] for name in kind["names"]}


def build(name, tokens=FIXTURE["tokens"], merges=FIXTURE["merges"]):
    meta = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": np.array([3, *[1] * (len(tokens) - 1)], dtype=np.int32),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    return Tokenizer.from_str(read_tokenizer(meta, len(tokens)).tokenizer_json.decode())


CASED = {"gpt-4o", "llama4", "kanana2", "minimax-m2", "tekken"}
QWEN = {"qwen2", "deepseek-r1-qwen", "kormo", "qwen35"}


def departs(name, text):
    """Where llama.cpp departs from the model's own tokenizer, and we do not."""
    if name in QWEN:  # it composes no characters first
        return text != unicodedata.normalize("NFC", text)
    if name in CASED:  # letters outside ASCII have no case for it, and marks are no part of words
        return any(unicodedata.category(c)[0] == "M" or (c > "\x7f" and c != c.lower()) for c in text)
    # it takes every space outside ASCII for a vertical tab, which is not in the range from U+0800 to U+4E00
    return name == "deepseek-coder" and any(c.isspace() and "\u0800" <= c <= "\u4e00" for c in text)


def test_all_are_recorded():
    assert set(NAMES) == set(PRE_TOKENIZERS)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_llama_cpp(name):
    tokenizer, seen = build(name), 0
    for text, ids in zip(FIXTURE["texts"], NAMES[name], strict=True):
        if departs(name, text):
            continue
        found, seen = tokenizer.encode(text, add_special_tokens=False), seen + 1
        assert found.ids == ids, f"{text!r}: {found.tokens}, {[FIXTURE['tokens'][i] for i in ids]}"
        assert tokenizer.decode(ids) == (unicodedata.normalize("NFC", text) if name in QWEN else text)
    assert seen >= len(FIXTURE["texts"]) - 5


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-4o", "straßeÜBER ÉcoleNormale हिन्दी x's", ["straße", "ÜBER", " École", "Normale", " हिन्दी", " x's"]),
        (
            "tekken",
            "straßeÜBER ÉcoleNormale 12 x's",
            ["straße", "ÜBER", " École", "Normale", " ", "1", "2", " x", "'s"],
        ),
        ("deepseek-coder", "a\u2003em \u3000b", ["a", "\u2003", "em", " ", "\u3000", "b"]),
    ],
)
def test_the_models_own_expression_where_llama_cpp_departs_from_it(name, text, pieces):
    cuts = build(name).pre_tokenizer.pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in cuts] == pieces


def test_qwen_composes_characters():
    assert build("qwen2").encode("e\u0301").ids == build("qwen2").encode("\u00e9").ids


@pytest.mark.parametrize("name", ["deepseek-llm", "kimi-k2", "chameleon", "superbpe", "", "made up"])
def test_others_are_refused_by_name(name):
    with pytest.raises(ModelUnsupportedError, match=f"pre-tokenizer '{name}' is not supported; supported are gpt-2"):
        build(name)
