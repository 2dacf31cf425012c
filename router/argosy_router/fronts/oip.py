"""The Open Inference Protocol v2 front (gRPC) with Triton's ModelStreamInfer, so that its clients work as they are.

Tensors as in Triton's vLLM back end: text_input, stream, sampling_parameters (JSON), exclude_input_in_output;
input_ids instead of text, and output_ids beside text_output, are ours. In a stream, a request with stream = true is
answered once for each chunk; `triton_final_response` marks the last answer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from argosy_api import limits
from argosy_api.errors import ArgosyError, InternalError, InvalidArgumentError
from argosy_api.grpc_status import errors_to_status
from argosy_api.inference import inference_pb2 as oip
from argosy_api.inference import inference_pb2_grpc as rpc
from argosy_api.tracing import carried
from argosy_router.ask import Ask, Caller
from argosy_router.clock import now
from argosy_router.fronts import oip_models, oip_tensors
from argosy_router.fronts.credentials import tenant_of_call
from argosy_router.fronts.grpc_common import Context, call_deadline, metadata_request_id
from argosy_router.fronts.oip_sampling import sampling_parameters, take_timeout
from argosy_router.fronts.oip_tensors import Inputs
from argosy_router.request import Request
from argosy_router.routing.job import Job
from argosy_router.service import Service

log = logging.getLogger(__name__)

FINAL = "triton_final_response"
EMPTY_FINAL = "triton_enable_empty_final_response"

Send = Callable[[oip.ModelInferResponse], Awaitable[None]]
Outgoing = asyncio.Queue[tuple[oip.ModelStreamInferResponse, asyncio.Event] | None]
"""Answers of one stream, each with what is set when it has been sent; None after the last. Only then a request puts its
next answer, or gives back what it holds: so a slow reader lets no more than one of each request wait, and it counts."""


class OipFront(rpc.GRPCInferenceServiceServicer):
    """The servicer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # --- about the server and its models

    async def ServerLive(self, _: oip.ServerLiveRequest, __: Context) -> oip.ServerLiveResponse:  # noqa: N802
        """Always, as long as it can answer."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _: oip.ServerReadyRequest, __: Context) -> oip.ServerReadyResponse:  # noqa: N802
        """Whether a membership was read and the router is not shutting down."""
        return oip.ServerReadyResponse(ready=self._service.ready)

    async def ModelReady(self, request: oip.ModelReadyRequest, _: Context) -> oip.ModelReadyResponse:  # noqa: N802
        """Whether a worker could take a request now."""
        try:
            state = self._service.fleet.resolve(request.name)
        except ArgosyError:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=oip_models.can_be_asked(state) and request.version in ("", "1"))

    async def ServerMetadata(self, _: oip.ServerMetadataRequest, __: Context) -> oip.ServerMetadataResponse:  # noqa: N802
        """Name and version."""
        return oip.ServerMetadataResponse(name=oip_models.NAME, version="1", extensions=oip_models.EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:  # noqa: N802
        """The tensors of a model."""
        async with errors_to_status(context):
            oip_models.check_version(request.version)
            self._service.fleet.resolve(request.name)
            return oip_models.metadata(request.name)
        raise InternalError("unreachable: an error has ended the call")

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:  # noqa: N802
        """The same in the words of Triton's model repository; its tools ask it whether answers are streamed."""
        async with errors_to_status(context):
            oip_models.check_version(request.version)
            self._service.fleet.resolve(request.name)
            return oip.ModelConfigResponse(config=oip_models.config(request.name))
        raise InternalError("unreachable: an error has ended the call")

    async def ModelStatistics(  # noqa: N802
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """How many requests ended here, and how long they took: of one model, or of all."""
        async with errors_to_status(context):
            oip_models.check_version(request.version)
            fleet, tallies = self._service.fleet, self._service.tallies
            names = [fleet.resolve(request.name).name] if request.name else [d.name for d in fleet.deployments]
            found = [oip_models.statistics(name, tallies.of(name)) for name in dict.fromkeys(names)]
            return oip.ModelStatisticsResponse(model_stats=found)
        raise InternalError("unreachable: an error has ended the call")

    async def RepositoryIndex(self, request: oip.RepositoryIndexRequest, _: Context) -> oip.RepositoryIndexResponse:  # noqa: N802
        """The models that requests may name, and whether they can be asked now."""
        fleet = self._service.fleet
        models = {d.name: oip_models.can_be_asked(fleet.resolve(d.name)) for d in fleet.deployments}
        return oip_models.index(models, ready_only=request.ready)

    # --- inference

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:  # noqa: N802
        """One request, one answer."""
        answers: list[oip.ModelInferResponse] = []

        async def send(answer: oip.ModelInferResponse) -> None:
            answers.append(answer)

        async with errors_to_status(context):
            headers = await self._infer(request, context, send, streaming=False)
            context.set_trailing_metadata(headers)
        return answers[0]

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Many requests, each with its own answers and errors; they run side by side."""
        queue: Outgoing = asyncio.Queue()
        reader = asyncio.create_task(self._serve_stream(requests, context, queue))
        try:
            while (item := await queue.get()) is not None:
                answer, sent = item
                yield answer
                sent.set()
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _serve_stream(
        self,
        requests: AsyncIterator[oip.ModelInferRequest],
        context: Context,
        queue: Outgoing,
    ) -> None:
        places = asyncio.Semaphore(limits.MAX_STREAM_REQUESTS)
        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await places.acquire()
                    task = group.create_task(self._serve_one(request, context, queue))
                    task.add_done_callback(lambda _: places.release())
        finally:
            queue.put_nowait(None)

    async def _serve_one(
        self,
        request: oip.ModelInferRequest,
        context: Context,
        queue: Outgoing,
    ) -> None:
        async def put(answer: oip.ModelStreamInferResponse) -> None:
            sent = asyncio.Event()
            queue.put_nowait((answer, sent))
            await sent.wait()

        async def send(answer: oip.ModelInferResponse) -> None:
            await put(oip.ModelStreamInferResponse(infer_response=answer))

        try:
            await self._infer(request, context, send, streaming=True)
        except ArgosyError as error:
            await put(_failed(request, error))
        except Exception:
            log.exception("request %s of a stream failed", request.id)
            await put(_failed(request, InternalError("internal error")))

    async def _infer(
        self, request: oip.ModelInferRequest, context: Context, send: Send, *, streaming: bool
    ) -> tuple[tuple[str, str], ...]:
        """Serves one request; returns the headers that tell of the decision."""
        with self._service.request("grpc") as taken:
            taken.account.take(request.ByteSize(), "inputs")
            oip_models.check_version(request.model_version)
            inputs = oip_tensors.read(request)
            parameters = oip_tensors.parameters(request)
            timeout_s = take_timeout(parameters)
            deadline = _earlier(call_deadline(context), None if timeout_s is None else now() + timeout_s)
            empty_final = _empty_final(parameters)
            if inputs.stream and not streaming:
                raise InvalidArgumentError("stream", "needs ModelStreamInfer: ModelInfer has one answer")
            caller = Caller(
                request_id=metadata_request_id(context, request.id),
                deadline=deadline,
                tenant=tenant_of_call(),
                trace=carried(context.invocation_metadata()),
            )
            ask = _ask(request.model_name, inputs, parameters, echo=inputs.echo)
            prepared = await self._service.prepare(taken, ask, caller)
            return await self._answer(
                request, inputs, prepared.jobs[0], send, taken,
                prefix="".join(prepared.texts), streaming=streaming, empty_final=empty_final and streaming,
            )  # fmt: skip

    async def _answer(
        self,
        request: oip.ModelInferRequest,
        inputs: Inputs,
        job: Job,
        send: Send,
        taken: Request,
        *,
        prefix: str,
        streaming: bool,
        empty_final: bool,
    ) -> tuple[tuple[str, str], ...]:
        def made(text: str, ids: list[int], *, final: bool) -> oip.ModelInferResponse:
            answer = oip_tensors.response(request.model_name, request.id, inputs.outputs, text, ids)
            if streaming:
                answer.parameters[FINAL].bool_param = final
            return answer

        texts = [prefix]
        ids: list[int] = []
        async with self._service.flying(taken, job) as flight:
            async for chunk in flight:
                if not inputs.stream:
                    taken.collect(chunk)
                texts.append(chunk.text)
                ids.extend(chunk.token_ids)
                if inputs.stream and not chunk.finish_reason and (chunk.text or chunk.token_ids):
                    await send(made("".join(texts), ids, final=False))
                    texts, ids = [], []
            headers = (("x-request-id", job.request_id), *self._service.headers(flight.decision, tenant_of_call()))
        await send(made("".join(texts), ids, final=not empty_final))
        if empty_final:
            last = oip.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
            last.parameters[FINAL].bool_param = True
            await send(last)
        return headers


def _ask(model: str, inputs: Inputs, parameters: Mapping[str, Any], *, echo: bool) -> Ask:
    asked = sampling_parameters(inputs.sampling, parameters)
    return Ask(
        model=model,
        fields=["input_ids" if inputs.text is None else "text_input"],
        prompts=[inputs.ids or [] if inputs.text is None else inputs.text],
        params=asked.params,
        cache_salt=asked.cache_salt,
        priority=asked.priority,
        bad_words=asked.bad_words,
        constraint=asked.constraint,
        constraint_field=asked.constraint_field,
        echo=echo,
        whole=not inputs.stream,
    )


def _empty_final(parameters: dict[str, Any]) -> bool:
    value = parameters.pop(EMPTY_FINAL, False)
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"parameters.{EMPTY_FINAL}", "must be a boolean")
    return value


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((t for t in (one, other) if t is not None), default=None)


def _failed(request: oip.ModelInferRequest, error: ArgosyError) -> oip.ModelStreamInferResponse:
    # a stream has no status for one request, so the code stands in the message
    failed = oip.ModelStreamInferResponse(error_message=f"[{error.status}] {error.message}")
    failed.infer_response.model_name = request.model_name
    failed.infer_response.id = request.id
    failed.infer_response.parameters[FINAL].bool_param = True
    return failed
