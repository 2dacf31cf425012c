"""What the child process of one model does: the first job loads tokenizer and template, the others use them.

    open     blobs: tokenizer.json, template   header: special_tokens   -> the vocabulary
    encode   blobs: text                        header: most, root, block, offsets, special   -> ids, block ids, offsets
    chat     blobs: messages and more as JSON   the same      -> the same; thinking: whether reasoning has begun
    blocks   blobs: ids                         header: root, block                  -> block ids
    words    blobs: words as JSON                                                    -> their ids, as JSON
    decode   blobs: ids                                                              -> text

Ids travel as u32 in the machine's order. A prompt of `most` tokens or more is not sent back, only counted.
"""

import json
from array import array
from collections.abc import Sequence
from typing import Any

from argosy_api import blocks
from argosy_router.children.frames import Frame
from argosy_router.text.chat import ChatRenderer
from argosy_router.text.tokenize import Text
from argosy_router.tools.forms import THINK


class _Model:
    text: Text
    chat: ChatRenderer


_model = _Model()


def work(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    """One job; see the module."""
    return _JOBS[header["op"]](header, blobs)


def _open(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    _model.text = Text(blobs[0])
    _model.chat = ChatRenderer(blobs[1].decode(), header["special_tokens"])
    vocabulary = _model.text.vocabulary()
    lengths = array("I", map(len, vocabulary))
    return {"special": _model.text.special}, [lengths.tobytes(), b"".join(vocabulary)]


def _encode(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    text = blobs[0].decode()
    if _model.text.surely_longer(text, header["most"]):
        return {"at_least": 2 * header["most"]}, []
    ids = _model.text.encode_prompt(text) if header["special"] else _model.text.encode(text)
    return _encoded(header, ids, text)


def _chat(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    asked = json.loads(blobs[0])
    text = _model.chat.render(
        asked["messages"], tools=asked["tools"], documents=asked["documents"], variables=asked["variables"]
    )
    if _model.text.surely_longer(text, header["most"]):
        return {"at_least": 2 * header["most"]}, []
    told, made = _encoded(header, _model.text.encode(text), "")
    return {**told, "thinking": text.rstrip().endswith(THINK)}, made


def _encoded(header: dict[str, Any], ids: list[int], text: str) -> Frame:
    if len(ids) >= header["most"]:
        return {"count": len(ids)}, []
    offsets = array("I", _model.text.offsets(text, ids) if header["offsets"] else ())
    packed = array("I", ids)
    return {"count": len(ids)}, [packed.tobytes(), _block_ids(header, packed), offsets.tobytes()]


def _block_ids(header: dict[str, Any], ids: Sequence[int]) -> bytes:
    return b"".join(blocks.iter_block_ids(bytes.fromhex(header["root"]), ids, header["block"]))


def _blocks(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    return {}, [_block_ids(header, array("I", blobs[0]))]


def _words(_: dict[str, Any], blobs: list[bytes]) -> Frame:
    return {}, [json.dumps([_model.text.words(word) for word in json.loads(blobs[0])]).encode()]


def _decode(_: dict[str, Any], blobs: list[bytes]) -> Frame:
    return {}, [_model.text.decode(array("I", blobs[0]).tolist()).encode("utf-8", "replace")]


_JOBS = {"open": _open, "encode": _encode, "chat": _chat, "blocks": _blocks, "words": _words, "decode": _decode}
