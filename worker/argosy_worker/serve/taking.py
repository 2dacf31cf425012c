"""A request's way into the engine: every field is checked, what it names is brought in, its stream is given back."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from math import inf
from typing import Any

from argosy_api import limits
from argosy_api.convert import params_from_proto
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import check_ending, check_priority, check_prompt, check_resumed
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.compute.pooling import HiddenPool
from argosy_worker.core.batch import Adapter
from argosy_worker.core.pool import Pooling
from argosy_worker.engine.client import Engine
from argosy_worker.engine.preparing import Prepare
from argosy_worker.engine.stream import Stream
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.serve.checks import check_address, check_request_id
from argosy_worker.serve.serving import Serving
from argosy_worker.serve.spans import GenerateSpan

_NOT_YET = ("tenant",)
"""Fields of a request that the protocol has and this worker cannot honour."""


@contextlib.asynccontextmanager
async def taken(
    serving: Serving, request: pb.GenerateRequest, *, deadline: float, metadata: Iterable[tuple[str, Any]] | None
) -> AsyncIterator[Stream]:
    """The request's stream; it ends with the block. `deadline`: monotonic seconds. `metadata`: what came beside it.

    Raises:
        InvalidArgumentError, UnavailableError, OverloadedError: see `start`.

    """
    stream: Stream | None = None
    span = GenerateSpan(serving.tracing, request, metadata) if serving.tracing is not None else None
    try:
        engine = serving.engine
        async with serving.adapters.using(request.adapter) as adapter:
            grammar = await serving.grammar(request)
            stream = start(
                engine, request, serving.prepare(request), adapter=adapter, deadline=deadline, grammar=grammar
            )
            try:
                yield stream
            finally:  # also when the caller is gone or its deadline is over
                engine.cancel(stream)
    finally:
        if span is not None:
            span.end(stream)


def start(
    engine: Engine,
    message: pb.GenerateRequest,
    prepare: Prepare | None = None,
    *,
    adapter: Adapter | None = None,
    deadline: float = inf,
    grammar: AnswerGrammar | None = None,
) -> Stream:
    """Check every field and hand the request to the engine, which begins with it after `prepare`.

    `adapter`: the one that the message names, in memory.

    Raises:
        InvalidArgumentError: naming the field.
        UnavailableError, OverloadedError: see `Engine.submit`.

    """
    for field in _NOT_YET:
        if getattr(message, field):
            raise InvalidArgumentError(field, "is not supported by this worker")
    check_request_id(message.request_id)
    if message.attempt < 1:
        raise InvalidArgumentError("attempt", "is 0; attempts count from 1")
    if len(message.cache_salt) > limits.MAX_CACHE_SALT:
        raise InvalidArgumentError(
            "cache_salt", f"has {len(message.cache_salt)} characters; at most {limits.MAX_CACHE_SALT}"
        )
    params = params_from_proto(message.sampling)
    params.check(vocab_size=engine.facts.vocab_size)
    check_ending(params, message.constraint)
    prompt = list(message.prompt_tokens)
    check_prompt(prompt, vocab_size=engine.facts.vocab_size, max_model_len=engine.config.max_model_len)
    if params.prompt_logprobs is not None and len(prompt) > limits.MAX_PROMPT_LOGPROBS_TOKENS:
        raise InvalidArgumentError(
            "prompt_logprobs",
            f"needs a prompt of at most {limits.MAX_PROMPT_LOGPROBS_TOKENS} tokens; it has {len(prompt)}",
        )
    resumed = list(message.resumed_tokens)
    check_resumed(
        resumed,
        message.resumed_text_bytes,
        vocab_size=engine.facts.vocab_size,
        most=min(params.max_tokens, engine.config.max_model_len - len(prompt)),
    )
    pool = _pool(engine, message) if message.embed else None
    params.check_drawable(vocab_size=engine.facts.vocab_size, eos_token_ids=engine.facts.eos_token_ids)
    check_address(message.kv_source)
    check_priority(message.priority)
    if message.message_interval_ms > limits.MAX_MESSAGE_INTERVAL_MS:
        raise InvalidArgumentError("message_interval_ms", f"must be at most {limits.MAX_MESSAGE_INTERVAL_MS}")
    stream = engine.submit(
        message.request_id,
        message.attempt,
        prompt,
        params,
        salt=message.cache_salt,
        adapter=adapter,
        priority=message.priority,
        deadline=deadline,
        resumed=resumed,
        resumed_text_bytes=message.resumed_text_bytes,
        prepare=prepare,
        grammar=grammar,
        pool=pool,
    )
    stream.interval = message.message_interval_ms / 1000
    return stream


def _pool(engine: Engine, message: pb.GenerateRequest) -> HiddenPool:
    """What makes the prompt's embedding, as the model's files say."""
    if not engine.facts.pooling:
        raise InvalidArgumentError("embed", "this model gives no embeddings")
    if message.resumed_tokens:
        raise InvalidArgumentError("resumed_tokens", "go with no embedding: it came with the first of them")
    return HiddenPool(Pooling(engine.facts.pooling), len(message.prompt_tokens))
