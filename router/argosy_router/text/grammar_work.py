"""What the child process that tries constraints out does, for one model.

    open     blobs: tokenizer.json   header: vocabulary, ends   -> nothing
    try      blobs: a constraint                                -> nothing, or a refusal that says why

The worker compiles the same again. Here it may take too long or too much memory: this process can be killed.
"""

import random
import time
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from argosy_api.errors import InvalidArgumentError
from argosy_api.structured import compile as library
from argosy_api.structured.constraint import parse
from argosy_router.children import RefusedError
from argosy_router.children.frames import Frame


class _Model:
    document: bytes
    size: int
    ends: list[int]
    tokens: LLTokenizer | None = None


_model = _Model()


_STEPS = 24
_STEPS_S = 0.25
"""Processor time of their masks, which all requests of a worker wait for. Most take less than a hundredth of it."""


def _walk(matcher: LLMatcher) -> None:
    """Some first tokens, anyhow chosen, with a look at what each mask takes. Raises RefusedError."""
    chance = random.Random(0)
    spent = 0.0
    for _ in range(_STEPS):
        began = time.process_time()
        bits = matcher.compute_bitmask()
        spent += time.process_time() - began
        if spent > _STEPS_S:
            raise RefusedError("cannot be kept to: it takes too long to find out what may come next")
        if matcher.is_error():
            raise RefusedError(f"cannot be kept to: {matcher.get_error().splitlines()[0][:200]}")
        open_ = [8 * i + j for i, byte in enumerate(bits) if byte for j in range(8) if byte >> j & 1]
        if matcher.is_stopped() or not open_ or not matcher.consume_token(chance.choice(open_)):
            return


def work(header: dict[str, Any], blobs: list[bytes]) -> Frame:
    """One job; see the module."""
    if header["op"] == "open":
        _model.document, _model.size, _model.ends = blobs[0], header["vocabulary"], header["ends"]
        return {}, []
    try:
        if _model.tokens is None:
            _model.tokens = library.vocabulary(_model.document, _model.size, _model.ends)
        _walk(library.matcher(_model.tokens, parse(blobs[0].decode())))
    except InvalidArgumentError as error:
        raise RefusedError(error.problem) from None
    return {}, []
