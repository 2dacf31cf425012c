"""Text to token ids and back, with the Hugging Face tokenizers runtime. Its encoder is Rust and releases the GIL."""

import json
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from argosy_api.errors import InvalidArgumentError, ModelInvalidError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Text:
    """One model's tokenizer. Thread-safe; `encode` of a long text takes long, so call it off the event loop."""

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
            document = json.loads(tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ModelInvalidError(f"the worker's tokenizer cannot be read: {error}") from error
        self._tokenizer.no_truncation()  # nothing is ever cut off silently
        self._tokenizer.no_padding()
        self._added = {int(t["id"]): str(t["content"]) for t in document.get("added_tokens", ())}
        self._byte_level = _uses_byte_level(document)
        self._of_bytes = {c: b for b, c in _byte_alphabet().items()}
        self.token_bytes = lru_cache(maxsize=65_536)(self._token_bytes)

    def encode(self, text: str, *, field: str = "prompt") -> list[int]:
        """Ids of the text, special tokens written out in it included; nothing is added before or after.

        Raises:
            InvalidArgumentError: not valid Unicode (lone surrogates).

        """
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidArgumentError(field, "is not valid Unicode text") from error

    def decode(self, ids: list[int]) -> str:
        """Text of the ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for ids that have no token."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return bytes(self._of_bytes.get(c, ord("?")) for c in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    def token_text(self, token: int) -> str:
        """The token alone as text; one that is not whole characters as escaped bytes, as the OpenAI API writes it."""
        raw: bytes = self.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)


def _uses_byte_level(document: dict[str, Any]) -> bool:
    return any(
        part.get("type") == "ByteLevel"
        for key in ("pre_tokenizer", "decoder")
        if isinstance(top := document.get(key), dict)
        for part in [top, *(top.get("pretokenizers") or []), *(top.get("decoders") or [])]
    )


def _byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that byte-level BPE writes it as: itself if printable, else from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in plain}
    others = [b for b in range(256) if b not in table]
    return table | {b: chr(0x100 + i) for i, b in enumerate(others)}
