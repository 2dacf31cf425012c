"""A `tokenizers` JSON document from the vocabulary in a GGUF file: byte-level BPE, or SentencePiece (BPE or unigram).

How the text is cut before the merges is named by `tokenizer.ggml.pre` (`gguf_pretokenizers.py`). An unknown name is
refused: a near miss would give other ids for some texts and nobody would notice.
Control and user-defined tokens become added tokens, found in the text before it is cut.
"""

from collections.abc import Collection
from typing import Any

from pydantic_core import to_json

from argosy_api import bpe, limits
from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.models import sentencepiece
from argosy_worker.models.end_tokens import end_texts
from argosy_worker.models.gguf_meta import Metadata
from argosy_worker.models.gguf_pretokenizers import BYTES, PRE_TOKENIZERS

_CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 3, 4, 5, 6
_KINDS = ("gpt2", "llama", "t5")
"""Byte-level BPE, SentencePiece's BPE, its unigram model."""
_SPECIAL = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
}  # fmt: skip
"""A special token's name in chat templates -> in GGUF metadata (which spells one of them so)."""


def read_tokenizer(values: dict[str, Any], vocab_size: int) -> TokenizerFacts:
    """Build the tokenizer of a file with this metadata, for an embedding of `vocab_size` rows.

    Raises:
        ModelUnsupportedError: another kind of tokenizer, or an unknown pre-tokenizer.
        ModelInvalidError: keys are missing or contradict each other.

    """
    meta = Metadata(values)
    kind = meta.text("tokenizer.ggml.model", "")
    if kind not in _KINDS:
        raise ModelUnsupportedError(f"tokenizer {kind!r} is not supported; supported are {', '.join(_KINDS)}")
    pre = None
    if kind == "gpt2":
        name = meta.text("tokenizer.ggml.pre", "")
        if name not in PRE_TOKENIZERS:
            raise ModelUnsupportedError(
                f"pre-tokenizer {name!r} is not supported; supported are {', '.join(PRE_TOKENIZERS)}"
            )
        pre = PRE_TOKENIZERS[name]
    tokens = meta.texts("tokenizer.ggml.tokens")
    if not 0 < len(tokens) <= vocab_size:
        raise ModelInvalidError(f"the file has {len(tokens)} tokens, but its embedding has {vocab_size} rows")
    bos, *named = (_token_id(meta, which, tokens) for which in ("bos", "eos", "eot", "eom"))
    ends = dict.fromkeys(i for i in named if i is not None)
    texts = set(end_texts(set(tokens)))
    ends.update({i: None for i, text in enumerate(tokens) if text in texts})
    added = _added(meta, tokens, {*ends, *(() if bos is None else (bos,))})
    begins = pre.add_bos if pre else kind == "llama"
    add_bos = meta.flag("tokenizer.ggml.add_bos_token", begins) and bos is not None
    template = meta.text("tokenizer.chat_template", "")
    if len(template.encode()) > limits.MAX_CHAT_TEMPLATE_BYTES:
        raise ModelInvalidError(f"the chat template has more than {limits.MAX_CHAT_TEMPLATE_BYTES} bytes")
    post_processor = with_bos(tokens[bos], bos) if add_bos and bos is not None else None
    vocab, decoder_json = unrepeated(tokens), b""
    if pre is None:
        model = _sentencepiece(meta, kind, tokens)
        document = sentencepiece.document(model, vocab=vocab, added=added, post_processor=post_processor)
    else:
        document = bpe.document(
            vocab=vocab,
            merges=_merges(meta, vocab),
            added=[bpe.added_token(i, tokens[i], special=special) for i, special in sorted(added.items())],
            normalizer=pre.normalizer,
            pre_tokenizer={"type": "Sequence", "pretokenizers": pre.steps},
            post_processor=post_processor,
            decoder=BYTES,
            ignore_merges=pre.ignore_merges,
        )
        # `_merges` has checked all for which the library refuses merges
        decoder_json = to_json(document | {"model": document["model"] | {"merges": []}})
    return TokenizerFacts(
        tokenizer_json=to_json(document),
        decoder_json=decoder_json,
        bos_token_id=bos,
        eos_token_ids=tuple(ends),
        add_bos=add_bos,
        special_tokens={
            f"{short}_token": tokens[i]
            for short, name in _SPECIAL.items()
            # a template sees what is there; files in the wild name tokens that they do not have (padding -1)
            if isinstance(i := values.get(f"tokenizer.ggml.{name}_token_id"), int) and 0 <= i < len(tokens)
        },
        chat_template=template,
    )


def _sentencepiece(meta: Metadata, kind: str, tokens: list[str]) -> sentencepiece.Model:
    """The model that was converted. llama.cpp goes by these keys, too, and by these defaults."""
    scores = meta.numbers("tokenizer.ggml.scores")
    types = meta.integers("tokenizer.ggml.token_type")
    if not len(scores) == len(types) == len(tokens):
        raise ModelInvalidError(f"the file has {len(tokens)} tokens, {len(scores)} scores and {len(types)} types")
    charsmap = b""
    if "tokenizer.ggml.precompiled_charsmap" in meta:
        charsmap = bytes(number & 255 for number in meta.integers("tokenizer.ggml.precompiled_charsmap"))
    return sentencepiece.Model(
        kind="bpe" if kind == "llama" else "unigram",
        pieces=[sentencepiece.Piece(*piece) for piece in zip(tokens, scores, types, strict=True)],
        charsmap=charsmap,
        dummy_prefix=meta.flag("tokenizer.ggml.add_space_prefix", default=True),
        remove_extra_spaces=meta.flag("tokenizer.ggml.remove_extra_whitespaces", default=False),
    )


def _added(meta: Metadata, tokens: list[str], special: set[int]) -> dict[int, bool]:
    """Ids of added tokens -> whether they are control tokens.

    Exporters type tokens that begin and end texts as ordinary ones, too; they would be taken to pieces in a prompt.
    So whatever their type, `special` ones are control tokens, as for llama.cpp.
    """
    kinds = [0] * len(tokens)
    if "tokenizer.ggml.token_type" in meta:
        kinds = meta.integers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens):
        raise ModelInvalidError(f"the file has {len(tokens)} tokens, but types of {len(kinds)}")
    for i in special:
        if kinds[i] not in (_UNUSED, _BYTE):
            kinds[i] = _CONTROL
    return {i: k == _CONTROL for i, k in enumerate(kinds) if k in (_CONTROL, _USER_DEFINED) and tokens[i]}


def _token_id(meta: Metadata, name: str, tokens: list[str]) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in meta:
        return None
    found = meta.integer(key)
    if not 0 <= found < len(tokens):
        raise ModelInvalidError(f"metadata {key!r} is {found}; the file has {len(tokens)} tokens")
    return found


def unrepeated(tokens: list[str]) -> dict[str, int]:
    """Token -> id, in order of the ids."""
    found = {text: i for i, text in enumerate(tokens)}
    if len(found) == len(tokens):  # as in nearly all files
        return found
    found = {}
    for i, text in enumerate(tokens):
        # A repeated text can never be produced by the merges; it keeps its id under a name of its own.
        found[text if text not in found else f"<|repeated:{i}|>"] = i
    return found


def _merges(meta: Metadata, known: Collection[str]) -> list[tuple[str, str]]:
    found = []
    for i, merge in enumerate(meta.texts("tokenizer.ggml.merges")):
        left, space, right = merge.partition(" ")
        if not (space and left in known and right in known and left + right in known):
            raise ModelInvalidError(
                f"merge {i} of the file's tokenizer is {merge[:80]!r}; it does not make a token of two tokens"
            )
        found.append((left, right))
    return found


def with_bos(text: str, number: int) -> dict[str, Any]:
    """A post-processor that puts a token before each text."""
    bos = {"SpecialToken": {"id": text, "type_id": 0}}
    one, two = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, one],
        "pair": [bos, one, two],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }
