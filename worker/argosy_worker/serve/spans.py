"""A request's span in the worker, below that of the router's attempt. No text and no token is in it."""

import time
from collections.abc import Iterable
from typing import Any

from argosy_api import tracing as names
from argosy_api.tracing import Tracing, carried
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker.engine.stream import Stream


class GenerateSpan:
    """From a request's coming to the end of its stream."""

    def __init__(
        self, tracing: Tracing, request: pb.GenerateRequest, metadata: Iterable[tuple[str, Any]] | None
    ) -> None:
        attributes = {
            **names.GENERATE,
            names.PROVIDER_NAME: names.PROVIDER,
            "argosy.request_id": request.request_id,
            "argosy.attempt": request.attempt,
            "argosy.resumed_tokens": len(request.resumed_tokens),
        }
        self._tracing = tracing
        self._began = time.monotonic()
        self._span = tracing.span("argosy.v1.Worker/Generate", "server", attributes, carried=carried(metadata))

    def end(self, stream: Stream | None) -> None:
        """Its stream has ended, or nobody reads it any more; None: it was refused."""
        if stream is None:
            self._tracing.end(self._span, {}, error="refused")
            return
        attributes: dict[str, Any] = {}
        if (usage := stream.usage) is not None:
            attributes = {
                names.INPUT_TOKENS: usage.prompt_tokens,
                names.CACHED_TOKENS: usage.cached_tokens,
                names.OUTPUT_TOKENS: usage.completion_tokens,
            }
        if stream.first_at:
            attributes[names.FIRST_CHUNK_S] = stream.first_at - self._began
        if stream.finish is not None:
            attributes[names.FINISH_REASONS] = [stream.finish.value]
        self._tracing.end(self._span, attributes, error="" if stream.finish is not None else "cancelled")
