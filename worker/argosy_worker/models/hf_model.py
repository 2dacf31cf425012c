"""A folder in the Hugging Face layout (safetensors, config.json, tokenizer.json) as an OpenModel."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from argosy_api import limits
from argosy_api.errors import ModelInvalidError
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.models import sentencepiece
from argosy_worker.models.end_tokens import end_texts
from argosy_worker.models.files import read_bytes, read_json
from argosy_worker.models.gguf_tokenizer import unrepeated, with_bos
from argosy_worker.models.hf_config import read_config
from argosy_worker.models.hf_quantized import read_settings
from argosy_worker.models.hf_weights import SafetensorsWeights
from argosy_worker.models.open_model import SAMPLE_BYTES, OpenModel, parse_tokenizer
from argosy_worker.models.pooling import of_folder

_MAX_JSON = 16 * 1024 * 1024


def open_safetensors(folder: Path, stack: ExitStack) -> OpenModel:
    """Open a folder; `stack` closes its files. Raises ModelErrors."""
    raw = read_json(folder / "config.json", _MAX_JSON)
    config = read_config(raw)
    weights = SafetensorsWeights(folder, config, stack, read_settings(raw))

    return OpenModel(
        weights=weights,
        tokenizer=_tokenizer(folder, raw, config.vocab_size),
        samples=lambda: weights.samples(SAMPLE_BYTES),
        pooling=of_folder(folder),
    )


def _tokenizer(folder: Path, config: dict[str, Any], vocab_size: int) -> TokenizerFacts:
    settings = _optional(folder / "tokenizer_config.json")
    document = _document(folder, settings)
    tokenizer = parse_tokenizer(document)
    generation = _optional(folder / "generation_config.json")
    size = tokenizer.get_vocab_size()
    if size > vocab_size:
        raise ModelInvalidError(f"the tokenizer has {size} tokens, but the embedding has {vocab_size} rows")
    special = _special_tokens(_optional(folder / "special_tokens_map.json")) | _special_tokens(settings)
    bos_token, eos_token = special.get("bos_token"), special.get("eos_token")
    bos = _number(tokenizer.token_to_id(bos_token) if bos_token else config.get("bos_token_id"), vocab_size)
    ends: dict[int, None] = {}
    for found in (
        tokenizer.token_to_id(eos_token) if eos_token else None,
        config.get("eos_token_id"),
        generation.get("eos_token_id"),
    ):
        for one in found if isinstance(found, list) else [found]:
            number = _number(one, vocab_size)
            if number is not None:
                ends[number] = None
    # only of special tokens: an ordinary one of such a text is text
    special_ids = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    ends.update({special_ids[text]: None for text in end_texts(special_ids)})
    tokenizer.no_padding()  # a length that training left in the file would stand before the text
    first = tokenizer.encode("a").ids[:1]
    return TokenizerFacts(
        tokenizer_json=_unknown_dropped(document, tokenizer, {*ends, bos}),
        bos_token_id=bos,
        eos_token_ids=tuple(ends),
        add_bos=bos is not None and first == [bos],
        special_tokens=special,
        chat_template=_template(folder, settings),
    )


def _unknown_dropped(document: bytes, tokenizer: Tokenizer, marks: set[int | None]) -> bytes:
    """The document, without a token for what is unknown where that is one that begins or ends texts.

    Else a user who writes a byte that the vocabulary lacks would write that token. It is left out, as from GGUF files.
    """
    model = tokenizer.model
    if not isinstance(model, BPE) or model.unk_token is None or tokenizer.token_to_id(model.unk_token) not in marks:
        return document
    found = json.loads(document)
    found["model"]["unk_token"] = None
    return json.dumps(found, ensure_ascii=False).encode()


def _document(folder: Path, settings: dict[str, Any]) -> bytes:
    """`tokenizer.json`; where there is none, made from the SentencePiece model `tokenizer.model`."""
    path = folder / "tokenizer.json"
    if path.is_file() or not (folder / "tokenizer.model").is_file():
        return read_bytes(path, limits.MAX_TOKENIZER_BYTES)
    model = sentencepiece.parse(read_bytes(folder / "tokenizer.model", limits.MAX_TOKENIZER_BYTES))
    added = {
        i: piece.type == sentencepiece.CONTROL
        for i, piece in enumerate(model.pieces)
        if piece.type in (sentencepiece.CONTROL, sentencepiece.USER_DEFINED)
    }
    vocab = unrepeated([piece.text for piece in model.pieces])
    bos = vocab.get(_special_tokens(settings).get("bos_token", "<s>"))
    begins = settings.get("add_bos_token", True) and bos is not None
    post_processor = with_bos(model.pieces[bos].text, bos) if begins and bos is not None else None
    return json.dumps(
        sentencepiece.document(model, vocab=vocab, added=added, post_processor=post_processor), ensure_ascii=False
    ).encode()


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, _MAX_JSON) if path.is_file() else {}


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """`bos_token`, `pad_token`, ... -> text. A token is a string, or an object with `content`."""
    found = {}
    for name, token in settings.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _number(value: Any, vocab_size: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ModelInvalidError(f"the model's special token id is {value!r}; must be 0 to {vocab_size - 1}")
    return value


def _template(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_bytes(path, limits.MAX_CHAT_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ModelInvalidError("chat_template.jinja is not UTF-8") from error
    found = settings.get("chat_template", "")
    if isinstance(found, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default", "")
    if not isinstance(found, str) or len(found.encode()) > limits.MAX_CHAT_TEMPLATE_BYTES:
        raise ModelInvalidError(f"the chat template is no text of up to {limits.MAX_CHAT_TEMPLATE_BYTES} bytes")
    return found
