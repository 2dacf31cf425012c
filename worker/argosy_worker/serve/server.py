"""The gRPC server: `argosy.v1.Worker`, health and reflection. Thin: checks fields, converts, and asks the engine."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from argosy_api import limits
from argosy_api.convert import ACCEPTED_KEY, params_from_proto
from argosy_api.errors import InvalidArgumentError, OverloadedError, UnavailableError
from argosy_api.grpc_status import errors_to_status
from argosy_api.params import check_ending, check_priority, check_prompt, check_resumed
from argosy_api.tracing import Tracing
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_worker.compute.pooling import HiddenPool
from argosy_worker.core.batch import Adapter
from argosy_worker.core.pool import Pooling
from argosy_worker.engine.client import Engine
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.preparing import Prepare
from argosy_worker.engine.stream import Stream
from argosy_worker.grammar.answer import AnswerGrammar
from argosy_worker.grammar.compiler import Grammars
from argosy_worker.kv_events.log import NOTHING, KvEventLog
from argosy_worker.serve.adapters import NO_SOURCE, Adapters
from argosy_worker.serve.checks import check_address, check_request_id
from argosy_worker.serve.exports import Exports
from argosy_worker.serve.imports import Imports
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.messages import to_proto
from argosy_worker.serve.spans import GenerateSpan

logger = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Worker"].full_name
_NOT_YET = ("tenant",)
"""Fields of a request that the protocol has and this worker cannot honour."""

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),  # a taken port must be an error, not a second listener that gets half of the calls
    ("grpc.max_receive_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.max_send_message_length", limits.MAX_GRPC_MESSAGE),
    ("grpc.max_metadata_size", limits.MAX_METADATA_BYTES),
    # routers ping every 20 s; without this the server would end their connections with "too many pings"
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class Serving:
    """What the server answers from. `engine` and the rest are set together once the model is loaded."""

    def __init__(
        self, *, worker_id: str, epoch: int, state: Lifecycle, events: KvEventLog, metrics: WorkerMetrics
    ) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        self.state = state
        self.events = events
        self.metrics = metrics
        self.tracing: Tracing | None = None
        """Where spans are wanted."""
        self.health = HealthServicer()
        self._engine: Engine | None = None
        self._info: pb.ModelInfo | None = None
        self._imports: Imports | None = None
        self._grammars: Grammars | None = None
        self._adapters = Adapters(NO_SOURCE, None, lambda _: None)

    async def open(self, engine: Engine, info: pb.ModelInfo, adapters: Adapters | None = None) -> None:
        """The model is loaded: requests may come."""
        self._engine, self._info, self._adapters = engine, info, adapters or self._adapters
        self._imports = Imports(engine, self.metrics)
        self._grammars = Grammars(engine.facts)
        self._grammars.warm()
        await self.set_health(serving=True)

    async def set_health(self, *, serving: bool) -> None:
        """Answer of the health service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self.health.set(service, status)

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            UnavailableError: the model is not loaded yet.

        """
        if self._engine is None:
            raise UnavailableError(self._why_not())
        return self._engine

    def prepare(self, request: pb.GenerateRequest) -> Prepare | None:
        """How the request's blocks are brought in before it begins; None when nobody is said to have them."""
        imports, source = self._imports, request.kv_source
        if imports is None or not source:
            return None
        return lambda ids: imports.fetch(source, ids)

    async def grammar(self, request: pb.GenerateRequest) -> AnswerGrammar | None:
        """What the answer is constrained to. Raises as `Grammars.of`."""
        return None if self._grammars is None else await self._grammars.of(request.constraint)

    @property
    def adapters(self) -> Adapters:
        """What requests may ask for beside the model."""
        return self._adapters

    def load(self) -> pb.Load:
        """The report for routers; raises like `engine`."""
        report = self.engine.load(worker_id=self.worker_id, epoch=self.epoch)
        report.adapters.update(self._adapters.served)
        return report

    @property
    def info(self) -> pb.ModelInfo:
        """Facts for routers; raises like `engine`."""
        if self._info is None:
            raise UnavailableError(self._why_not())
        return self._info

    def _why_not(self) -> str:
        now = self.state.now
        return f"the model is not loaded yet ({now.phase}, {now.progress:.0%})"


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """The RPCs. See worker.proto for their contracts."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._subscribers = 0
        self._exports = Exports()

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateChunk]
    ) -> AsyncIterator[pb.GenerateChunk]:
        """Stream an answer."""
        async with errors_to_status(context), _span(self._serving.tracing, request, context) as traced:
            engine = self._serving.engine
            async with self._serving.adapters.using(request.adapter) as adapter:
                deadline, grammar = _deadline(context), await self._serving.grammar(request)
                stream = start(
                    engine, request, self._serving.prepare(request), adapter=adapter, deadline=deadline, grammar=grammar
                )
                traced(stream)
                try:
                    await context.send_initial_metadata(((ACCEPTED_KEY, str(stream.number)),))
                    async for chunk in stream:
                        yield to_proto(chunk, stream)
                finally:  # also when the caller is gone or its deadline is over: CancelledError is raised at the yield
                    engine.cancel(stream)

    async def GetLoad(  # noqa: N802
        self,
        request: pb.GetLoadRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[pb.GetLoadRequest, pb.Load],
    ) -> pb.Load:
        """Report load."""
        async with errors_to_status(context):
            return self._serving.load()

    async def GetModel(  # noqa: N802
        self,
        request: pb.GetModelRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.ModelInfo],
    ) -> pb.ModelInfo:
        """Tell what is served."""
        async with errors_to_status(context):
            return self._serving.info

    async def SubscribeKvEvents(  # noqa: N802
        self,
        request: pb.SubscribeKvEventsRequest,
        context: grpc.aio.ServicerContext[pb.SubscribeKvEventsRequest, pb.KvEventBatch],
    ) -> AsyncIterator[pb.KvEventBatch]:
        """Stream the cache's changes."""
        async with errors_to_status(context), self._subscriber():
            log = self._serving.events
            same = request.epoch in (0, log.epoch)
            cursor = request.start_sequence - 1 if same and request.start_sequence else NOTHING
            while not log.closed:
                for batch in log.after(cursor):
                    cursor = batch.seq
                    yield batch
                await log.wait_beyond(cursor)

    async def ExportBlocks(  # noqa: N802
        self,
        request: pb.ExportBlocksRequest,
        context: grpc.aio.ServicerContext[pb.ExportBlocksRequest, pb.BlockPart],
    ) -> AsyncIterator[pb.BlockPart]:
        """Send cached blocks."""
        async with errors_to_status(context):
            async for part in self._exports.stream(self._serving.engine, request, self._serving.metrics):
                yield part

    @contextlib.asynccontextmanager
    async def _subscriber(self) -> AsyncIterator[None]:
        if self._subscribers >= limits.MAX_SUBSCRIBERS:
            raise OverloadedError(
                f"this worker has all the {limits.MAX_SUBSCRIBERS} subscribers that it takes at a time"
            )
        self._subscribers += 1
        try:
            yield
        finally:
            self._subscribers -= 1


async def make_server(serving: Serving) -> grpc.aio.Server:
    """A server with all services, not yet bound. Health says NOT_SERVING until `Serving.open`."""
    await serving.set_health(serving=False)
    server = grpc.aio.server(options=OPTIONS)
    worker_pb2_grpc.add_WorkerServicer_to_server(WorkerService(serving), server)
    health_pb2_grpc.add_HealthServicer_to_server(serving.health, server)
    reflection.enable_server_reflection(
        (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
    )
    return server


# --- checks


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


@contextlib.asynccontextmanager
async def _span(
    tracing: Tracing | None, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> AsyncIterator[Callable[[Stream], None]]:
    """Around a request, where spans are wanted; its stream is told of as soon as there is one."""
    if tracing is None:
        yield lambda _: None
        return
    span, streams = GenerateSpan(tracing, request, context.invocation_metadata()), list[Stream]()
    try:
        yield streams.append
    finally:
        span.end(streams[0] if streams else None)


def _deadline(context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateChunk]) -> float:
    """The caller's deadline in monotonic seconds; infinity when it has none (gRPC then gives none, or a far one)."""
    remaining: float | None = context.time_remaining()
    return inf if remaining is None else time.monotonic() + remaining
