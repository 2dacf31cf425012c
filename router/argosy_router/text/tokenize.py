"""Text to token ids and back, with the Hugging Face tokenizers runtime. Runs in a child process of the router only."""

import json
from typing import Any

from tokenizers import Tokenizer

from argosy_api import limits
from argosy_api.bpe import byte_alphabet
from argosy_api.byte_fallback import REPLACEMENT, sound
from argosy_router.children import RefusedError

_SLICE = 65_536
_SLICE_PER_TOKEN = 10
"""Characters of a long text that are tokenized first, to see whether the whole has any chance to fit: so many, or so
many for each token that fits."""


class Text:
    """One model's tokenizer."""

    def __init__(self, tokenizer_json: bytes) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
            document = json.loads(tokenizer_json)
        except BaseException as error:  # the library raises plain Exception, and panics with a BaseException
            raise RefusedError(f"the worker's tokenizer cannot be read: {str(error)[:300]}") from error
        self._tokenizer.no_truncation()  # nothing is ever cut off silently
        self._tokenizer.no_padding()
        added = [t for t in document.get("added_tokens", ()) if isinstance(t, dict)]
        self._added = {int(t["id"]): str(t["content"]) for t in added}
        self._special = sorted(int(t["id"]) for t in added if t.get("special"))
        self._byte_level = _uses_byte_level(document)
        self._falls_back = '"ByteFallback"' in json.dumps(document.get("decoder"))
        self._of_bytes = {c: b for b, c in byte_alphabet().items()}
        self._before = self._ids("", add_special_tokens=True)
        """What the post-processor puts around a text: in practice, before it."""

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # the batch form releases the GIL, the single one does not; "fast" leaves out the offsets
        return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, special tokens written out in it included."""
        return self._ids(text, add_special_tokens=False)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a plain prompt: with what the post-processor puts before it, but not twice where the text has it."""
        ids = self._ids(text, add_special_tokens=True)
        width = len(self._before)
        twice = width and ids[:width] == self._before and ids[width : 2 * width] == self._before
        return ids[width:] if twice else ids

    def words(self, word: str) -> list[list[int]]:
        """What to look for where a word may not be generated: its ids alone, and those after a space."""
        alone, spaced = self.encode(word), self.encode(f" {word}")
        if not alone or not spaced or spaced[-len(alone) :] == alone:
            return [alone] if alone else []
        return [alone, spaced]

    def offsets(self, text: str, ids: list[int]) -> list[int]:
        """Where each of `ids` (of `encode_prompt`) begins in `text`, in characters; others, where they would stand."""
        encoding = self._tokenizer.encode_batch([text], add_special_tokens=True)[0]
        starts, at = [], 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end > start:  # what the post-processor made is of no place in the text
                within = self.token_bytes(token)[:1]
                # the rest of a character that began in the token before stands after it, as in answers
                at = end if within and within[0] & 0xC0 == 0x80 else start
            starts.append(at)
        return starts[len(starts) - len(ids) :]

    def surely_longer(self, text: str, tokens: int) -> bool:
        """Whether the text has no chance to be at most so many tokens: its beginning alone has twice as many."""
        first = max(_SLICE, _SLICE_PER_TOKEN * tokens)
        return len(text) > first and len(self.encode(text[:first])) > 2 * tokens

    def decode(self, ids: list[int]) -> str:
        """Text of the ids, special tokens included. Each invalid sequence of bytes is one U+FFFD, as in answers."""
        text = self._tokenizer.decode_batch([ids], skip_special_tokens=False)[0]
        if REPLACEMENT in text and self._falls_back and self._tokenizer.decoder is not None:
            pieces = filter(None, map(self._tokenizer.id_to_token, ids))
            text = self._tokenizer.decoder.decode(list(sound(pieces)))
        return text

    @property
    def special(self) -> list[int]:
        """Ids of special tokens, which are not shown in answers."""
        return self._special

    def vocabulary(self) -> list[bytes]:
        """By id: the bytes that the token stands for; empty where there is none."""
        top = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        return [self.token_bytes(i) for i in range(min(top + 1, limits.MAX_VOCAB))]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for ids that have no token."""
        if token in self._added:
            return self._added[token].encode("utf-8", "replace")
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return bytes(self._of_bytes.get(c, ord("?")) for c in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()


def _uses_byte_level(document: dict[str, Any]) -> bool:
    return any(
        part.get("type") == "ByteLevel"
        for key in ("pre_tokenizer", "decoder")
        if isinstance(top := document.get(key), dict)
        for part in [top, *(top.get("pretokenizers") or []), *(top.get("decoders") or [])]
    )
