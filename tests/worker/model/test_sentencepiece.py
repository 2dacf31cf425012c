"""SentencePiece models give the reference's ids: from tokenizer.model, and from GGUF metadata."""

import io
import json

import numpy as np
import pytest
import sentencepiece as reference
from tokenizers import Tokenizer

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.models import sentencepiece
from argosy_worker.models.gguf_tokenizer import read_tokenizer, unrepeated
from argosy_worker.models.sentencepiece import document, parse

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "hum",
    "1234",
    "times;",
    "naïve",
    "café",
    "ÉTÉ",
    "Straße",
    "über",
    "東京",
    "is",
    "far",
]
CORPUS = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 3
TEXTS = [
    "the quick brown fox", " leading", "trailing ", "two  spaces and   three", "", " ", "a", "line\nbreak\n\nand\ttab", "naïve café", "ﬁne ① ½ Å",
    "東京 is far", "emoji 🙂 and \u0000 control", "unseen: жук", "<0x0A> is text", "and <unk> too", "▁ is a space", "x" * 60, "fox1234fox", "MiXeD cAsE", "a\u00a0b", "e\u0301",
    "<pad2> in the middle<pad2>of",
]  # fmt: skip


def train(kind, **change):
    out = io.BytesIO()
    reference.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, model_type=kind, hard_vocab_limit=False, minloglevel=5,
        **{"byte_fallback": True, "vocab_size": 360 if kind == "bpe" else 330, **change},
    )  # fmt: skip
    return out.getvalue()


@pytest.fixture(scope="module")
def models():
    return {}


def ours(raw):
    model = parse(raw)
    added = {
        i: p.type == sentencepiece.CONTROL
        for i, p in enumerate(model.pieces)
        if p.type in (sentencepiece.CONTROL, sentencepiece.USER_DEFINED)
    }
    vocab = unrepeated([p.text for p in model.pieces])
    return Tokenizer.from_str(json.dumps(document(model, vocab=vocab, added=added, post_processor=None)))


KINDS = {
    "bpe": ("bpe", {}),
    "bpe-llama": ("bpe", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}),
    "bpe-gemma": ("bpe", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": ["<pad2>", "\n\n"]}),
    "bpe-symbols": ("bpe", {"user_defined_symbols": ["<pad2>"]}),
    "bpe-no-bytes": ("bpe", {"byte_fallback": False}),
    "unigram": ("unigram", {}),
    "unigram-t5": ("unigram", {"byte_fallback": False, "normalization_rule_name": "nmt_nfkc"}),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_ids_and_texts_are_the_references(name):
    kind, change = KINDS[name]
    raw = train(kind, **change)
    expected, found = reference.SentencePieceProcessor(model_proto=raw), ours(raw)
    for text in TEXTS:
        ids = expected.encode(text)
        assert found.encode(text, add_special_tokens=False).ids == ids, (text, expected.encode(text, out_type=str))
        # what has no piece is U+2047 there and the piece's own text here
        if expected.unk_id() not in ids:
            assert found.decode(ids, skip_special_tokens=False) == expected.decode(ids), text


def metadata(raw, kind, **change):
    model = parse(raw)
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": [p.text for p in model.pieces],
        "tokenizer.ggml.scores": np.array([p.score for p in model.pieces], dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([p.type for p in model.pieces], dtype=np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{key}": value for key, value in change.items()},
    }


@pytest.mark.parametrize(("kind", "model"), [("llama", "bpe"), ("t5", "unigram")])
def test_ids_from_gguf(kind, model):
    raw = train(
        model, normalization_rule_name="nmt_nfkc" if kind == "t5" else "identity", remove_extra_whitespaces=kind == "t5"
    )
    expected = reference.SentencePieceProcessor(model_proto=raw)
    more = {
        "precompiled_charsmap": np.frombuffer(parse(raw).charsmap, dtype=np.uint8),
        "remove_extra_whitespaces": True,
    }
    meta = metadata(raw, kind, **(more if kind == "t5" else {}))
    facts = read_tokenizer(meta, len(meta["tokenizer.ggml.tokens"]))
    found = Tokenizer.from_str(facts.tokenizer_json.decode())
    assert facts.add_bos == (kind == "llama")
    assert facts.eos_token_ids == (2,)
    for text in TEXTS:
        assert found.encode(text, add_special_tokens=False).ids == expected.encode(text), text
    assert found.encode("a fox").ids == [1] * facts.add_bos + expected.encode("a fox")
    # control tokens are found in a prompt, and the text after one begins anew, as in llama.cpp
    assert found.encode("a</s>fox", add_special_tokens=False).ids == [*expected.encode("a"), 2, *expected.encode("fox")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "bert"}, ModelUnsupportedError),
        ({"model": "rwkv"}, ModelUnsupportedError),
        ({"scores": np.zeros(3, dtype=np.float32)}, ModelInvalidError),
        ({"scores": np.full(360, np.nan, dtype=np.float32)}, ModelInvalidError),
        ({"scores": ["a"]}, ModelInvalidError),
        ({"token_type": np.ones(360, dtype=np.int32)}, ModelInvalidError),  # nothing stands for the unknown
    ],
)
def test_bad_vocabularies_are_refused(change, error):
    meta = metadata(train("bpe"), "llama", **change)
    with pytest.raises(error):
        read_tokenizer(meta, len(meta["tokenizer.ggml.tokens"]))


def test_bad_models_are_refused_by_name():
    raw = train("bpe")
    for bad in (raw[:-3], b"\xff" * 40, b"\x0a\x05\x15\x00\x00\xc0\x7f", b""):
        with pytest.raises(ModelInvalidError):
            parse(bad)
    with pytest.raises(ModelUnsupportedError, match="words or characters"):
        parse(train("char", vocab_size=330))
