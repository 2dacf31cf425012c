"""Byte-level BPE, as the tokenizers library writes it down: its alphabet, and a whole document."""

from collections.abc import Mapping, Sequence
from typing import Any


def byte_alphabet() -> dict[int, str]:
    """Byte -> the character that stands for it in the vocabulary: itself if it prints, else one from U+0100 on.

    This is GPT-2's convention, which all ByteLevel components share.
    """
    table = {byte: chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))}
    others = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def added_token(number: int, text: str, *, special: bool) -> dict[str, Any]:
    """An entry of `added_tokens`: a text that is one token wherever it stands. A special one is no part of answers."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": special, **flags}


def document(
    *,
    vocab: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    added: Sequence[Mapping[str, Any]],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    normalizer: Mapping[str, Any] | None = None,
    post_processor: Mapping[str, Any] | None = None,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """The content of a `tokenizer.json`. `merges`: pairs of texts, the first one first."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }
