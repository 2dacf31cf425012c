"""The gRPC server: `argosy.v1.Worker`, health and reflection. Thin: it converts, and asks who knows."""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from math import inf
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from argosy_api import limits
from argosy_api.convert import ACCEPTED_KEY
from argosy_api.errors import OverloadedError
from argosy_api.grpc_status import errors_to_status
from argosy_api.v1 import worker_pb2 as pb
from argosy_api.v1 import worker_pb2_grpc
from argosy_worker.kv_events.log import NOTHING
from argosy_worker.serve.exports import Exports
from argosy_worker.serve.messages import to_proto
from argosy_worker.serve.serving import SERVICE, Serving
from argosy_worker.serve.taking import taken

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
        remaining: float | None = context.time_remaining()  # None, or far away, where the caller has no deadline
        deadline = inf if remaining is None else time.monotonic() + remaining
        async with (
            errors_to_status(context),
            taken(self._serving, request, deadline=deadline, metadata=context.invocation_metadata()) as stream,
        ):
            await context.send_initial_metadata(((ACCEPTED_KEY, str(stream.number)),))
            async for chunk in stream:
                yield to_proto(chunk, stream)

    async def Session(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.SessionRequest],
        context: grpc.aio.ServicerContext[pb.SessionRequest, pb.SessionReply],
    ) -> AsyncIterator[pb.SessionReply]:
        """Stream all answers to one router."""
        async with errors_to_status(context):
            with self._serving.sessions.one(self._answer) as session:
                async with contextlib.aclosing(session.replies(request_iterator)) as replies:
                    async for reply in replies:
                        yield reply

    async def _answer(
        self, call: pb.SessionCall, accepted: Callable[[int], object]
    ) -> AsyncGenerator[pb.GenerateChunk, None]:
        deadline = time.monotonic() + call.timeout_seconds if call.HasField("timeout_seconds") else inf
        async with taken(self._serving, call.request, deadline=deadline, metadata=call.trace.items()) as stream:
            accepted(stream.number)
            async for chunk in stream:
                yield to_proto(chunk, stream)

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
