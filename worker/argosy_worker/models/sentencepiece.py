"""SentencePiece models (BPE and unigram) as `tokenizers` JSON documents, which routers and workers use.

A model is its pieces with scores and types, and what happens to a text before it is cut. It comes from a
`tokenizer.model` (a protobuf message: sentencepiece_model.proto) or from GGUF metadata.
"""

import base64
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from argosy_api import bpe
from argosy_api.errors import ModelInvalidError, ModelUnsupportedError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"
_KINDS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}


class Piece(NamedTuple):
    """One token."""

    text: str
    score: float
    type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A SentencePiece model."""

    kind: Literal["unigram", "bpe"]
    pieces: Sequence[Piece]
    charsmap: bytes = b""
    """Replacements of characters, in SentencePiece's precompiled form; empty for none."""
    dummy_prefix: bool = True
    """Whether a text gets a space at its beginning."""
    remove_extra_spaces: bool = False


def document(
    model: Model, *, vocab: Mapping[str, int], added: Mapping[int, bool], post_processor: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of a `tokenizer.json`.

    `vocab`: a name for each id, each of its own. `added`: ids of tokens that are found in a text before it is cut ->
    whether they are control tokens.

    Raises:
        ModelInvalidError: there is no piece for what is unknown.

    """
    unknown = next((i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN), None)
    names = list(vocab)
    if unknown is None:
        raise ModelInvalidError("the model's tokenizer has no piece for what is unknown")
    # SentencePiece takes a user's own piece for a part of the text: what follows it gets no space
    inside = [i for i, special in added.items() if not special] if model.dummy_prefix else []
    found = bpe.document(
        vocab={},
        merges=[],
        added=[bpe.added_token(i, names[i], special=s) for i, s in sorted(added.items()) if i not in inside],
        normalizer={"type": "Sequence", "normalizers": list(_normalizers(model))},
        pre_tokenizer={"type": "Sequence", "pretokenizers": list(_cuts(model, [names[i] for i in inside]))},
        post_processor=post_processor,
        decoder={"type": "Sequence", "decoders": list(_decoders(model))},
    )
    fallback = any(piece.type == BYTE for piece in model.pieces)
    if model.kind == "unigram":
        found["model"] = {
            "type": "Unigram", "unk_id": unknown, "byte_fallback": fallback,
            "vocab": [(name, piece.score) for name, piece in zip(names, model.pieces, strict=True)],
        }  # fmt: skip
    else:
        found["model"] |= {
            "unk_token": names[unknown], "fuse_unk": True, "byte_fallback": fallback, "vocab": vocab,
            "merges": _merges(model.pieces), "ignore_merges": bool(inside),
        }  # fmt: skip
    return found


def _normalizers(model: Model) -> Iterator[dict[str, Any]]:
    """In SentencePiece's order. Only spaces are extra; line ends stay."""

    def replace(pattern: dict[str, str], by: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": by}

    if model.charsmap:
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()}
    if model.remove_extra_spaces:
        yield replace({"Regex": r"\A +| +\z"}, "")
        yield replace({"Regex": " {2,}"}, " ")
    if model.dummy_prefix:
        yield {"type": "Prepend", "prepend": _SPACE}
    yield replace({"String": " "}, _SPACE)


def _cuts(model: Model, inside: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Users' own pieces stand alone; the names of pieces that no text has (bytes, the unknown one) are cut in two."""

    def split(patterns: Sequence[str], behavior: str) -> dict[str, Any]:
        return {"type": "Split", "pattern": {"Regex": "|".join(patterns)}, "behavior": behavior, "invert": False}

    if inside:
        yield split([re.escape(text) for text in sorted(inside, key=len, reverse=True)], "Isolated")
    if model.kind == "unigram":  # merges of BPE lead to none of these
        names = [p.text for p in model.pieces if p.type in (UNKNOWN, UNUSED) and len(p.text) > 1]
        patterns = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names]
        if any(piece.type == BYTE for piece in model.pieces):
            patterns.append("<(?=0x[0-9A-F]{2}>)")
        yield split(patterns, "MergedWithPrevious")


def _decoders(model: Model) -> Iterator[dict[str, Any]]:
    yield {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    if model.dummy_prefix:
        yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, those of the best score first."""
    normal = {piece.text: (-piece.score, i) for i, piece in enumerate(pieces) if piece.type == NORMAL}
    found = [
        (*rank, text[:cut], text[cut:])
        for text, rank in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def parse(raw: bytes) -> Model:
    """Read a `tokenizer.model`.

    Raises:
        ModelInvalidError: it is no such message.
        ModelUnsupportedError: a word or character model, or texts are changed in a way that is not built.

    """
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(raw):
        if number == 1:
            fields = dict(_fields(_bytes(value)))
            pieces.append(Piece(_text(fields.get(1, b"")), _float(fields.get(2)), _number(fields.get(3, NORMAL))))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
        elif number == 3:
            normalizer = dict(_fields(_bytes(value)))
    kind = _KINDS.get(_number(trainer.get(3, 1)))
    if kind is None:
        raise ModelUnsupportedError("SentencePiece models of words or characters are not supported")
    if trainer.get(24) or not normalizer.get(5, 1):
        raise ModelUnsupportedError(
            "SentencePiece models with spaces as suffixes, or kept as they are, are not supported"
        )
    if not pieces:
        raise ModelInvalidError("tokenizer.model has no pieces")
    return Model(
        kind=kind,
        pieces=pieces,
        charsmap=_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_spaces=bool(normalizer.get(4, 1)),
    )


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(raw, at)
        if size is None or size > len(raw) - at:
            raise ModelInvalidError("tokenizer.model is no sound SentencePiece model")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            break
        value |= (raw[at] & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return value, at
    raise ModelInvalidError("tokenizer.model is no sound SentencePiece model")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ModelInvalidError("tokenizer.model is no sound SentencePiece model")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ModelInvalidError("tokenizer.model is no sound SentencePiece model")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise ModelInvalidError("tokenizer.model has a piece that is not UTF-8") from error


def _float(value: int | bytes | None) -> float:
    if value is None:
        return 0.0
    raw = _bytes(value)
    (found,) = struct.unpack("<f", raw) if len(raw) == 4 else (math.nan,)
    if not math.isfinite(found):
        raise ModelInvalidError("tokenizer.model has a score that is no number")
    return float(found)
